"""The learner's state: where it starts, what a new stage keeps, and which leaves each loss may train."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwd.learner.divl import DivlConfig
from lwd.learner.optimizers import OptimizerConfig
from lwd.learner.state import (
    LearnerConfig,
    init_state,
    trained_critic,
    trained_policy,
    trained_value,
    with_fresh_optimizers,
)
from lwd.models.mlp import MlpConfig, MlpCritic, MlpPolicy, Normalizer

SIZES = MlpConfig(proprio_dim=2, instruction_dim=2, chunk_steps=1, action_dim=2, width=4, depth=2, atoms=5)
OPTIMIZER = OptimizerConfig(learning_rate=1e-3, decay_steps=1000)
CONFIG = LearnerConfig(policy=OPTIMIZER, critic=OPTIMIZER, divl=DivlConfig(atoms=5), batch=4, policy_batch=2)


pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def networks():
    normalizer = Normalizer.identity(2)
    return (
        MlpPolicy.init(jax.random.key(0), SIZES, normalizer),
        MlpCritic.init(jax.random.key(1), SIZES, normalizer),
    )


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_the_policy_starts_from_the_reference_and_the_target_from_the_critic(networks):
    reference, critic = networks
    state = init_state(CONFIG, reference, critic)
    assert int(state.step) == 0
    assert same(state.policy, reference)
    assert same(state.acting_policy, reference)
    assert same(state.critic, critic)
    assert same(state.target, critic)


def test_no_two_parts_share_a_buffer(networks):
    """Learner steps donate the state: a shared buffer would be given away twice, or under a caller's hands."""
    state = init_state(CONFIG, *networks)

    def buffers(tree):
        return [x.unsafe_buffer_pointer() for x in jax.tree.leaves(tree)]

    assert len(set(buffers(state))) == len(buffers(state))
    assert not set(buffers(state)) & set(buffers(networks))


def test_masks():
    def trained(mask, part):
        return set(jax.tree.leaves(part(mask)))

    shapes = eqx.filter_eval_shape(MlpPolicy.init, jax.random.key(0), SIZES, Normalizer.identity(2))
    policy = trained_policy(jax.tree.map(lambda x: jnp.zeros(x.shape), shapes))
    assert trained(policy, lambda p: p.normalizer) == {False}
    assert trained(policy, lambda p: (p.observe, p.act, p.hidden, p.out)) == {True}
    shapes = eqx.filter_eval_shape(MlpCritic.init, jax.random.key(0), SIZES, Normalizer.identity(2))
    critic = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes)
    for mask, other in (
        (trained_value(critic), lambda c: (c.normalizer, c.heads)),
        (trained_critic(critic), lambda c: (c.normalizer, c.value)),
    ):
        assert trained(mask, other) == {False}
    assert trained(trained_value(critic), lambda c: c.value) == {True}
    assert trained(trained_critic(critic), lambda c: c.heads) == {True}


def test_a_new_stage_keeps_the_networks_and_forgets_optimisers_and_count(networks):
    reference, critic = networks
    state = init_state(CONFIG, reference, critic)
    used = eqx.tree_at(
        lambda s: (s.step, s.policy, s.acting_policy, s.target, s.policy_opt, s.value_opt, s.critic_opt),
        state,
        (
            jnp.int32(17),
            *(
                jax.tree.map(lambda x, d=d: x + d, part)
                for d, part in ((1, reference), (2, reference), (3, critic))
            ),
            *(
                jax.tree.map(lambda x: x + 1, part)
                for part in (state.policy_opt, state.value_opt, state.critic_opt)
            ),
        ),
    )
    online = with_fresh_optimizers(CONFIG, used)
    assert int(online.step) == 0
    for part in ("policy", "acting_policy", "critic", "target"):
        assert same(getattr(online, part), getattr(used, part))
    for part in ("policy_opt", "value_opt", "critic_opt"):
        assert same(getattr(online, part), getattr(state, part))
        assert not same(getattr(online, part), getattr(used, part))
