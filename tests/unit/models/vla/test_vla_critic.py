"""Value and critic on Gemma 3 and SigLIP: what z_t has seen, what q depends on, and the learner's losses on it."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from vla_examples import observation as make_observation
from vla_examples import shaken

from lwd.learner.divl import DivlConfig, critic_loss, value_loss
from lwd.models.mlp import Normalizer
from lwd.models.protocols import Critic
from lwd.models.vla.config import critic_270m, critic_dummy
from lwd.models.vla.critic import VlaCritic, sees
from lwd.transition import Transition

CONFIG = dataclasses.replace(
    critic_dummy(chunk_steps=4, action_dim=5, proprio_dim=3),
    cameras=("left", "right"),
    prompt="words",
    atoms=11,
)
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def critic():
    made = shaken(eqx.filter_eval_shape(VlaCritic.init, jax.random.key(0), CONFIG, Normalizer.identity(3)), 0)
    return eqx.tree_at(lambda c: c.normalizer, made, Normalizer.identity(3))


OBSERVATION = make_observation()


@eqx.filter_jit
def encode(critic, seen):
    return critic.encode(seen)


@eqx.filter_jit
def q_of(critic, z, chunk):
    return critic.q(z, chunk)


def test_shapes_and_types(critic):
    assert isinstance(critic, Critic)
    rounded = dataclasses.replace(CONFIG, parameters="bfloat16", compute="bfloat16")
    small = eqx.filter_eval_shape(VlaCritic.init, jax.random.key(0), rounded, Normalizer.identity(3))
    for network in (critic, small):
        z = eqx.filter_eval_shape(encode, network, OBSERVATION)
        q = eqx.filter_eval_shape(lambda n, z: n.q(z, jnp.zeros((4, 5))), network, z)
        logits = eqx.filter_eval_shape(lambda n, z: n.value_logits(z), network, z)
        assert (z.shape, q.shape, logits.shape) == ((32,), (2,), (11,))
        assert {z.dtype, q.dtype, logits.dtype} == {jnp.dtype("float32")}
    assert small.backbone.language.layers.q.weight.dtype == jnp.bfloat16
    assert small.heads.out.weight.dtype == jnp.float32


def test_the_mask_by_hand():
    """Two picture tokens, three words of which the last is padding, and a readout token."""
    mask = np.asarray(sees(2, jnp.array([True, True, True, True, False, True]))).astype(int)
    assert mask.tolist() == [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 1],
    ]


def test_z_has_seen_every_part_of_the_observation_and_no_padding(critic):
    z = encode(critic, OBSERVATION)
    words = OBSERVATION.prompts["words"]
    left = OBSERVATION.images["left"]
    changed = {
        "picture": OBSERVATION._replace(images={**OBSERVATION.images, "left": 255 - left}),
        "first word": OBSERVATION._replace(prompts={"words": words.at[0].set(1 + words[0] % 60)}),
        "proprio": OBSERVATION._replace(proprio=OBSERVATION.proprio + 0.5),
        "one camera less": OBSERVATION._replace(images={"left": left}),
    }
    for what, other in changed.items():
        assert float(jnp.abs(encode(critic, other) - z).max()) > 1e-3, what
    shorter = encode(critic, OBSERVATION._replace(prompts={"words": words[:5]}))
    assert np.allclose(shorter, z, atol=1e-5)


def test_q_depends_on_every_step_and_on_their_order(critic):
    z = encode(critic, OBSERVATION)
    chunk = jax.random.uniform(jax.random.key(1), (4, 5), minval=-1.0)
    slope = jax.jit(jax.jacrev(lambda a: critic.q(z, a)))(chunk)
    assert float(jnp.abs(slope).max(axis=(0, 2)).min()) > 1e-4
    assert float(jnp.abs(q_of(critic, z, chunk[::-1]) - q_of(critic, z, chunk)).min()) > 1e-4
    assert float(jnp.abs(q_of(critic, z, chunk)[0] - q_of(critic, z, chunk)[1])) > 1e-4


def test_both_losses_of_the_learner_reach_the_backbone(critic):
    """Value and critic share it, and each trains it. Here on a batch of two."""
    batch = Transition(
        observation=jax.tree.map(lambda x: jnp.stack([x, x]), OBSERVATION),
        chunk=jax.random.uniform(jax.random.key(1), (2, 4, 5)),
        valid=jnp.ones((2, 4), bool),
        reward=jnp.zeros(2),
        discount=jnp.ones(2),
        next_observation=jax.tree.map(lambda x: jnp.stack([x, x]), OBSERVATION),
        intervention=jnp.zeros(2, bool),
        exemplary=jnp.ones(2, bool),
        task=jnp.zeros(2, jnp.int32),
    )
    config = DivlConfig(atoms=11)
    losses = {
        "value": lambda c: value_loss(c, critic, batch, config)[0],
        "heads": lambda c: critic_loss(c, batch, jnp.ones(2))[0],
    }
    for part, loss in losses.items():
        gradients = eqx.filter_jit(eqx.filter_grad(loss))(critic)
        reached = {
            name: max(float(jnp.abs(g).max()) for g in jax.tree.leaves(getattr(gradients, name)))
            for name in ("value", "heads", "pool", "backbone", "normalizer")
        }
        assert reached[part] > 1e-6
        assert reached["backbone"] > 1e-6
        assert reached["heads" if part == "value" else "value"] == 0.0
        assert reached["pool"] > 1e-6 or part == "value"
        assert reached["normalizer"] == 0.0


def test_the_papers_size():
    config = critic_270m(chunk_steps=30, action_dim=14, proprio_dim=14)
    shapes = eqx.filter_eval_shape(VlaCritic.init, jax.random.key(0), config, Normalizer.identity(14))
    language = [
        x.size for x in jax.tree.leaves(shapes.backbone.language) if isinstance(x, jax.ShapeDtypeStruct)
    ]
    assert round((sum(language) + shapes.backbone.tokens.size) / 1e6) == 268
    assert shapes.value.out.weight.shape == (512, 201)
    assert config.language.global_layers.count(True) == 3
