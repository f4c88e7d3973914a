"""Cloning that goes on: it starts as the reference, and its learner step is that of the SFT stage."""

import equinox as eqx
import jax
import pytest

from lwd.baselines.cloning import Cloning
from lwd.learner.clone import clone_update
from lwd.learner.method import Method
from lwd.learner.optimizers import OptimizerConfig
from tests.paper.paper_examples import (
    SIZES,
    assert_trees_equal,
    random_batch,
    tiny_policy,
    trees_differ,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

OPTIMIZER = OptimizerConfig(learning_rate=3e-2, decay_steps=1000, warmup_steps=0)
METHOD = Cloning(policy=OPTIMIZER, batch=6, policy_ema_rate=0.5)
REFERENCE, KEY = tiny_policy(0), jax.random.key(1)


@pytest.fixture(scope="module")
def after():
    start = METHOD.start(REFERENCE, SIZES, KEY)
    return eqx.filter_jit(METHOD.update(REFERENCE))(start, random_batch(2, 6), KEY)


def test_it_is_a_method_and_acts_as_the_reference_until_it_learns():
    assert isinstance(METHOD, Method)
    assert_trees_equal(METHOD.acting(METHOD.start(REFERENCE, SIZES, KEY)), REFERENCE)


def test_its_learner_step_is_the_sft_stages(after):
    start = METHOD.start(REFERENCE, SIZES, KEY)
    expected, metrics = eqx.filter_jit(clone_update)(METHOD, start, random_batch(2, 6), KEY)
    assert_trees_equal(after[0], expected)
    assert set(after[1]) == set(metrics) == {"policy/flow_matching_loss"}


def test_the_policy_and_its_published_copy_move_and_the_normaliser_does_not(after):
    state = after[0]
    assert int(state.step) == 1
    assert trees_differ(state.policy, REFERENCE)
    assert trees_differ(METHOD.acting(state), REFERENCE)
    assert_trees_equal(state.policy.normalizer, REFERENCE.normalizer)
    assert_trees_equal(REFERENCE, tiny_policy(0))


def test_a_later_stage_keeps_both_policies_and_starts_its_schedule_anew(after):
    later = METHOD.continued(REFERENCE, after[0])
    assert int(later.step) == 0
    assert_trees_equal(later.policy, after[0].policy)
    assert_trees_equal(later.acting_policy, after[0].acting_policy)
    assert trees_differ(later.policy_opt, after[0].policy_opt)
