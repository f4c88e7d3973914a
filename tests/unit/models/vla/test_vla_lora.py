"""Adapters: they begin as nothing, alone they train, and merged they are the same network."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from vla_examples import SIZES, noise, observation, policy, relative_error, velocity

from lwd.errors import ConfigError
from lwd.learner.trainable import Trainable, prepared, trained_policy
from lwd.models.arrays import named_leaves
from lwd.models.mlp import MlpConfig, MlpPolicy, Normalizer
from lwd.models.vla.lora import LoraConfig, LoraDense, has_adapters, merged, with_adapters

pytestmark = pytest.mark.usefixtures("quick_compilation")
LORA = LoraConfig(rank=2, alpha=6.0, parts=("vision", "language", "expert"))


def stirred(adapted):
    """The same with adapters that do something: B is no longer zero."""
    key = iter(jax.random.split(jax.random.key(4), 100))

    def stir(node):
        if not isinstance(node, LoraDense):
            return node
        b = 0.3 * jax.random.normal(next(key), node.lora_b.shape)
        return eqx.tree_at(lambda d: d.lora_b, node, b)

    return jax.tree.map(stir, adapted, is_leaf=lambda node: isinstance(node, LoraDense))


def test_new_adapters_change_nothing_and_sit_on_attention_and_feed_forward():
    plain = policy()
    adapted = with_adapters(plain, LORA)
    at = jnp.float32(0.3)
    assert (
        relative_error(
            velocity(adapted, observation(), noise(), at), velocity(plain, observation(), noise(), at)
        )
        < 1e-6
    )
    named = named_leaves(adapted)
    found = {name.removesuffix(".lora_a") for name in named if name.endswith("lora_a")}
    projections = {f"{s}.layers.{p}" for s in ("language", "expert") for p in "qkvo"}
    projections |= {f"{s}.layers.mlp.{p}" for s in ("language", "expert") for p in ("gate", "up", "down")}
    projections |= {f"vision.layers.{p}" for p in ("q", "k", "v", "o", "up", "down")}
    assert found == projections
    width = SIZES.language.width
    assert named["language.layers.q.lora_a"].shape == (2, width, 2)
    assert named["language.layers.q.lora_b"].shape == (2, 2, SIZES.language.heads * SIZES.language.head_dim)


def test_merged_equals_unmerged():
    adapted = stirred(with_adapters(policy(), LORA))
    whole = merged(adapted)
    assert jax.tree.structure(whole) == jax.tree.structure(policy())
    assert not has_adapters(whole)
    at = jnp.float32(0.3)
    found = velocity(whole, observation(), noise(), at)
    assert relative_error(found, velocity(adapted, observation(), noise(), at)) < 1e-5
    assert relative_error(found, velocity(policy(), observation(), noise(), at)) > 1e-2
    # By hand for one projection: W + alpha / rank * A B, with alpha / rank = 3.
    q = adapted.language.layers.q
    by_hand = np.asarray(q.weight)[1] + 3.0 * np.asarray(q.lora_a)[1] @ np.asarray(q.lora_b)[1]
    np.testing.assert_allclose(whole.language.layers.q.weight[1], by_hand, rtol=1e-5, atol=1e-6)


def test_gradients_flow_to_adapters_alone_in_an_adapted_part():
    trainable = Trainable(lora=LORA)
    adapted = stirred(prepared(policy(), trainable))
    moving, still = eqx.partition(adapted, trained_policy(adapted, trainable))

    @eqx.filter_jit
    def gradients(moving, still):
        def loss(moving):
            whole = eqx.combine(moving, still)
            found = whole.velocity(whole.encode(observation()), noise(), jnp.float32(0.3))
            return jnp.sum(jnp.square(found))

        return eqx.filter_grad(loss)(moving)

    reached = {name: float(jnp.abs(g).max()) for name, g in named_leaves(gradients(moving, still)).items()}
    adapters = {name for name in named_leaves(adapted) if "lora" in name}
    projections = {
        name for name in named_leaves(adapted) if name.split(".")[0] in ("action_in", "time", "action_out")
    }
    assert set(reached) == adapters | projections
    assert all(value > 0.0 for name, value in reached.items())


def test_with_adapters_in_the_backbone_the_rest_of_it_is_frozen():
    trainable = Trainable(lora=LoraConfig(rank=2, parts=("language",)))
    adapted = prepared(policy(), trainable)
    trained = {
        name.split(".")[0] for name in named_leaves(eqx.filter(adapted, trained_policy(adapted, trainable)))
    }
    assert trained == {"language", "expert", "action_in", "time", "action_out"}
    only = [
        name
        for name in named_leaves(eqx.filter(adapted, trained_policy(adapted, trainable)))
        if name.startswith("language")
    ]
    assert all("lora" in name for name in only)


def test_a_stage_keeps_its_adapters_and_another_rank_merges_them_first():
    first = stirred(prepared(policy(), Trainable(lora=LORA)))
    again = prepared(first, Trainable(lora=LORA))
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (first, again)), strict=True))
    other = prepared(first, Trainable(lora=LoraConfig(rank=3, alpha=6.0, parts=LORA.parts)))
    assert other.language.layers.q.lora_a.shape[-1] == 3
    np.testing.assert_array_equal(other.language.layers.q.weight, merged(first).language.layers.q.weight)
    assert not has_adapters(prepared(first, Trainable()))


def test_what_cannot_be_adapted_is_refused():
    with pytest.raises(ConfigError, match="has adapters already"):
        with_adapters(with_adapters(policy(), LORA), LORA)
    sizes = MlpConfig(proprio_dim=2, instruction_dim=1, chunk_steps=1, action_dim=1, width=4, depth=2)
    mlp = MlpPolicy.init(jax.random.key(0), sizes, Normalizer.identity(2))
    with pytest.raises(ConfigError, match="MlpPolicy has no part 'vision'"):
        with_adapters(mlp, LORA)
    for settings in ({"rank": 0}, {"alpha": 0.0}, {"parts": ()}, {"parts": ("expert", "expert")}):
        with pytest.raises(ConfigError, match="LoraConfig"):
            LoraConfig(**settings)
