"""Which leaves train: masks, the optimiser's memory, frozen leaves, types, a prefix shared with the reference."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from vla_run import OFFLINE, ONLINE, critic, one_batch, policy

from lwd.errors import ConfigError
from lwd.learner.state import init_state
from lwd.learner.trainable import Trainable, trained_critic, trained_policy, trained_value, typed
from lwd.learner.update import fit_policy, update
from lwd.models.arrays import named_leaves
from lwd.models.mlp import MlpConfig, MlpPolicy, Normalizer
from lwd.models.protocols import LearnedCritic, LearnedPolicy
from lwd.models.vla.lora import LoraConfig

pytestmark = pytest.mark.usefixtures("quick_compilation")

BACKBONE = {"vision", "project", "tokens", "language"}
EXPERT = {"expert", "action_in", "time", "action_out"}


def trained_names(mask):
    """First names of the parts that have a trained leaf, and of those that have one that is not."""
    leaves = jax.tree_util.tree_leaves_with_path(mask)
    return tuple({path[0].name for path, leaf in leaves if leaf is which} for which in (True, False))


@pytest.fixture(scope="module")
def updated():
    """State before and after one online update, with only the expert trained."""
    reference = policy()
    state = init_state(ONLINE, reference, critic())
    after, metrics = eqx.filter_jit(update)(ONLINE, reference, state, one_batch(), jax.random.key(3))
    return state, after, metrics


def test_the_masks_of_policy_and_critic():
    assert isinstance(policy(), LearnedPolicy)
    assert isinstance(critic(), LearnedCritic)
    assert trained_names(trained_policy(policy())) == (BACKBONE | EXPERT, {"normalizer"})
    assert trained_names(trained_policy(policy(), Trainable(policy="expert"))) == (
        EXPERT,
        BACKBONE | {"normalizer"},
    )
    assert trained_names(trained_value(critic())) == (
        {"backbone", "value"},
        {"normalizer", "pool", "heads"},
    )
    assert trained_names(trained_critic(critic())) == (
        {"backbone", "pool", "heads"},
        {"normalizer", "value"},
    )


def test_the_optimiser_remembers_trained_leaves_only():
    state = init_state(ONLINE, policy(), critic())
    trained = jax.tree.leaves(eqx.filter(state.policy, trained_policy(state.policy, ONLINE.trainable)))
    memory = [leaf for leaf in jax.tree.leaves(state.policy_opt) if leaf.ndim]
    assert len(memory) == 2 * len(trained)  # AdamW: two moments
    assert sum(m.nbytes for m in memory) == 2 * sum(t.nbytes for t in trained)
    everything = [m for m in jax.tree.leaves(init_state(OFFLINE, policy(), critic()).policy_opt) if m.ndim]
    assert sum(m.nbytes for m in memory) < 0.5 * sum(m.nbytes for m in everything)


def test_frozen_leaves_keep_every_bit_and_the_others_move(updated):
    before, after, _ = updated
    for part in ("policy", "acting_policy"):
        old, new = (named_leaves(getattr(s, part)) for s in (before, after))
        for name, leaf in old.items():
            same = np.array_equal(leaf, new[name])
            assert same == (name.split(".")[0] in BACKBONE | {"normalizer"}), f"{part} {name}"


def test_online_value_and_critic_train_fully(updated):
    before, after, _ = updated
    new = named_leaves(after.critic)
    moved = {
        n.split(".")[0] for n, leaf in named_leaves(before.critic).items() if not np.array_equal(leaf, new[n])
    }
    assert moved == {"backbone", "value", "pool", "heads"}


def test_no_gradient_of_a_frozen_backbone_is_made():
    """The policy's step with the expert alone has fewer matrix products, written down and not only after optimisation."""

    def products(config):
        reference = policy()
        state = init_state(config, reference, critic())
        jaxpr, _, _ = eqx.filter_make_jaxpr(fit_policy)(
            config, reference, state, one_batch(), jax.random.key(0)
        )
        return str(jaxpr).count("dot_general")

    assert products(ONLINE) < products(OFFLINE) - 20


def test_an_mlp_has_no_backbone():
    sizes = MlpConfig(proprio_dim=2, instruction_dim=1, chunk_steps=1, action_dim=1, width=4, depth=2)
    mlp = MlpPolicy.init(jax.random.key(0), sizes, Normalizer.identity(2))
    assert isinstance(mlp, LearnedPolicy)
    with pytest.raises(ConfigError, match="MlpPolicy has no vision-language backbone to freeze"):
        trained_policy(mlp, Trainable(policy="expert"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": "expert", "lora": LoraConfig(parts=("language",))}, "freezes the backbone"),
        ({"shared_prefix": True}, 'shared_prefix needs policy="expert"'),
    ],
)
def test_contradictions_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Trainable(**settings)


def test_frozen_leaves_in_bfloat16_in_policy_and_reference_alike():
    config = replace(ONLINE, trainable=Trainable(policy="expert", frozen_type="bfloat16"))
    reference = policy()
    state = init_state(config, reference, critic())
    kept = typed(reference, config.trainable)
    for network in (state.policy, state.acting_policy, kept):
        for name, leaf in named_leaves(network).items():
            wanted = "bfloat16" if name.split(".")[0] in BACKBONE else "float32"
            assert leaf.dtype == wanted, name
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (state.policy, kept)), strict=True))
    # Trained leaves are never kept in bfloat16, whatever the weights came in.
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), reference)
    state = init_state(OFFLINE, rounded, critic())
    assert {leaf.dtype for leaf in jax.tree.leaves(state.policy.expert)} == {jnp.dtype("float32")}


def test_a_shared_prefix_changes_no_number(updated):
    """Line 5 of Algorithm 2 again, from what lines 1 to 4 left."""
    before, after, metrics = updated
    config = replace(ONLINE, trainable=Trainable(policy="expert", shared_prefix=True))
    old = (before.policy, before.policy_opt, before.acting_policy)
    state = eqx.tree_at(lambda s: (s.policy, s.policy_opt, s.acting_policy), after, old)
    _, key = jax.random.split(jax.random.key(3))
    shared, its_metrics = eqx.filter_jit(fit_policy)(config, policy(), state, one_batch(), key)
    found = named_leaves(shared.policy)
    for name, leaf in named_leaves(after.policy).items():
        np.testing.assert_allclose(found[name], leaf, rtol=1e-4, atol=1e-6)
    assert its_metrics["policy/path_kl"] == pytest.approx(float(metrics["policy/path_kl"]), abs=1e-6)


def test_a_shared_prefix_after_the_backbone_was_trained_is_refused():
    config = replace(ONLINE, trainable=Trainable(policy="expert", shared_prefix=True))
    reference = policy()
    state = init_state(OFFLINE, reference, critic())
    assert config.continued(reference, state).policy is not None
    moved = eqx.tree_at(lambda s: s.policy.language, state, jax.tree.map(lambda x: x + 1, policy().language))
    with pytest.raises(ConfigError, match="the policy's backbone is not the reference's"):
        config.continued(reference, moved)
