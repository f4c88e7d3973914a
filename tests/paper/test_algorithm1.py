"""Algorithm 1: three stages that are three values of one loop, in blocks of learner steps."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwd.learner.clone import CloneConfig, init_clone
from lwd.learner.stages import clone_stage, critic_stage, rl_stage, run_block
from lwd.learner.state import init_state, with_fresh_optimizers
from tests.paper.paper_examples import (
    assert_trees_equal,
    random_batch,
    tiny_config,
    tiny_critic,
    tiny_policy,
    trees_differ,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)
CONFIG = tiny_config()


class Counter(eqx.Module):
    """A state as small as the loop allows: what was drawn, added up with a weight that tells the order."""

    step: jax.Array
    total: jax.Array


def add(state, batch, key):
    seen = batch.reward.sum() + jax.random.normal(key)
    return Counter(state.step + 1, 0.5 * state.total + seen), {"seen": seen}


def fresh_counter(step=0):
    return Counter(jnp.int32(step), jnp.float32(0))


def rows(batches, first, last):
    """A copy: a block donates its batches too."""
    return jax.tree.map(lambda x: jnp.array(x[first:last]), batches)


def test_the_key_of_a_learner_step_depends_on_its_number_alone():
    batches = random_batch(1, 6, 2)
    state, metrics = run_block(add, fresh_counter(7), rows(batches, 0, 6), KEY)
    expected, seen = fresh_counter(7), []
    for i in range(6):
        batch = jax.tree.map(lambda x, i=i: x[i], batches)
        expected, m = add(expected, batch, jax.random.fold_in(KEY, 7 + i))
        seen.append(float(m["seen"]))
    assert int(state.step) == 13
    assert float(state.total) == pytest.approx(float(expected.total), rel=1e-5)
    assert float(metrics["seen"]) == pytest.approx(
        np.mean(seen), rel=1e-5
    )  # metrics are means over the block


@pytest.fixture(scope="module")
def ten_steps():
    """Ten learner steps of Algorithm 2 in one block, and the same ten in two blocks of five."""
    reference, critic = tiny_policy(0), tiny_critic(1)
    batches = random_batch(5, 10, 6)
    stage = rl_stage(CONFIG, reference)
    one, metrics = run_block(stage, init_state(CONFIG, reference, critic), rows(batches, 0, 10), KEY)
    two = init_state(CONFIG, reference, critic)
    for first in (0, 5):
        two, _ = run_block(stage, two, rows(batches, first, first + 5), KEY)
    return one, two, metrics, reference, critic


def test_ten_steps_in_one_block_equal_two_blocks_of_five(ten_steps):
    one, two, *_ = ten_steps
    assert int(one.step) == 10
    assert_trees_equal(one, two)


def test_the_reference_outlives_the_donated_state(ten_steps):
    one, _, _, reference, critic = ten_steps
    assert_trees_equal(reference, tiny_policy(0))
    assert_trees_equal(critic, tiny_critic(1))
    assert trees_differ(one.policy, reference)


def test_every_metric_is_finite_and_named_by_part(ten_steps):
    metrics = ten_steps[2]
    assert all(np.isfinite(float(x)) for x in metrics.values())
    assert {name.split("/")[0] for name in metrics} == {"value", "critic", "policy"}


def test_clone_then_warm_the_critic_then_improve():
    clone_config = CloneConfig(policy=CONFIG.policy, batch=6, policy_ema_rate=0.5)
    policy = tiny_policy(0)
    cloned, _ = run_block(
        clone_stage(clone_config), init_clone(clone_config, policy), random_batch(6, 3, 6), KEY
    )
    assert int(cloned.step) == 3
    reference = cloned.acting_policy  # the averaged copy becomes pi_beta
    assert trees_differ(reference, policy)
    state = init_state(CONFIG, reference, tiny_critic(1))
    assert_trees_equal(state.policy, reference)
    assert_trees_equal(state.target, state.critic)
    state, _ = run_block(critic_stage(CONFIG), state, random_batch(7, 3, 6), KEY)
    assert_trees_equal(state.policy, reference)
    online = with_fresh_optimizers(
        CONFIG, state
    )  # a new stage: count and schedules start anew, networks go on
    assert (int(state.step), int(online.step)) == (3, 0)
    for part in ("policy", "acting_policy", "critic", "target"):
        assert_trees_equal(getattr(online, part), getattr(state, part))
