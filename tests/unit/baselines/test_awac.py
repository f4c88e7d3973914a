"""AWAC: weights by hand, advantages by hand, and a policy that imitates by weight."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwd.baselines.awac import Awac, advantages, fit_policy, weights
from lwd.errors import ConfigError
from lwd.learner.clone import clone_loss
from lwd.learner.divl import DivlConfig
from lwd.learner.method import Method
from tests.paper.paper_examples import (
    SIZES,
    TabularCritic,
    assert_trees_equal,
    random_batch,
    tabular_batch,
    tiny_config,
    tiny_policy,
    trees_differ,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY, REFERENCE, BATCH = jax.random.key(3), tiny_policy(0), random_batch(4, 6)
METHOD = Awac(**vars(tiny_config(policy_ema_rate=0.2)), beta=0.1)


def test_weights_by_hand():
    """exp(0) = 1 and exp(ln 2) = 2, divided by their mean of 3/2."""
    got = weights(jnp.array([0.0, 0.1 * np.log(2.0)], jnp.float32), 0.1, 3.0)
    np.testing.assert_allclose(got, [2 / 3, 4 / 3], rtol=1e-5)


def test_a_huge_advantage_weighs_as_much_as_the_largest_exponent():
    got = weights(jnp.array([5.0, -5.0, 0.0]), 0.1, 2.0)
    raw = np.exp([2.0, -2.0, 0.0])
    np.testing.assert_allclose(got, raw / raw.mean(), rtol=1e-5)


def test_advantages_by_hand():
    """Three atoms 0, 1/2, 1; certain of 1/2 in state 0. The quantile is 1/2, the heads' minimum 0.9 or 0.2."""
    config = DivlConfig(atoms=3, value_low=0.0, value_high=1.0)
    critic = TabularCritic(jnp.array([[-40.0, 0.0, -40.0]]), jnp.zeros((2, 1, 2)))
    target = TabularCritic(critic.logits, jnp.array([[[0.9, 0.3]], [[1.5, 0.2]]]))
    batch = tabular_batch([(0, 0, 0.0, 0.0, 0), (0, 1, 0.0, 0.0, 0)], 1, 2)
    np.testing.assert_allclose(advantages(critic, target, batch, config), [0.4, -0.3], atol=1e-6)


def test_where_all_advantages_are_equal_it_is_cloning():
    start = METHOD.start(REFERENCE, SIZES, KEY)
    same = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape), BATCH)
    _, metrics = eqx.filter_jit(fit_policy)(METHOD, start, same, KEY)
    expected = clone_loss(REFERENCE, same, jax.random.split(KEY)[1])
    assert float(metrics["policy/weighted_flow_matching_loss"]) == pytest.approx(float(expected), rel=1e-4)
    assert float(metrics["policy/effective_share"]) == pytest.approx(1.0, rel=1e-5)


def test_who_changes_and_who_must_not():
    assert isinstance(METHOD, Method)
    before = METHOD.start(REFERENCE, SIZES, KEY)
    warm, _ = eqx.filter_jit(METHOD.warm_up(REFERENCE))(before, BATCH, KEY)
    after, metrics = eqx.filter_jit(METHOD.update(REFERENCE))(before, BATCH, KEY)
    assert_trees_equal(METHOD.acting(warm), REFERENCE)
    for part in ("policy", "acting_policy", "critic", "target"):
        assert trees_differ(getattr(after, part), getattr(before, part)), part
    assert_trees_equal(after.policy.normalizer, REFERENCE.normalizer)
    assert_trees_equal(REFERENCE, tiny_policy(0))
    assert int(after.step) == 1
    assert 1 / 6 <= float(metrics["policy/effective_share"]) <= 1
    assert all(np.isfinite(float(x)) for x in metrics.values())


@pytest.mark.parametrize("wrong", [{"beta": 0.0}, {"largest_exponent": -1.0}])
def test_settings_that_cannot_work_are_refused(wrong):
    with pytest.raises(ConfigError, match="beta and largest_exponent must be positive"):
        Awac(**vars(tiny_config()), **wrong)
