"""IQL: the scalar value is the expectile of the replay's values, and nothing else differs from LWD."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwd.baselines.iql import Iql, bootstrap_target, expectile_loss, value_loss
from lwd.errors import ConfigError
from lwd.learner.divl import DivlConfig
from lwd.learner.method import Lwd, Method
from lwd.learner.update import fit_policy
from tests.paper.paper_examples import (
    SIZES,
    TabularCritic,
    assert_trees_close,
    assert_trees_equal,
    random_batch,
    tabular_batch,
    tiny_config,
    tiny_policy,
    trees_differ,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY, REFERENCE, BATCH = jax.random.key(3), tiny_policy(0), random_batch(4, 6)
TINY = tiny_config(ema_rate=0.1, policy_ema_rate=0.2)
METHOD = Iql(**{**vars(TINY), "divl": DivlConfig(tau_base=0.9, alpha=0.0)})


def test_the_loss_by_hand():
    assert float(expectile_loss(jnp.float32(0.5), 0.9)) == pytest.approx(0.9 * 0.25)
    assert float(expectile_loss(jnp.float32(-0.5), 0.9)) == pytest.approx(0.1 * 0.25)
    assert float(expectile_loss(jnp.float32(-0.5), 0.5)) == pytest.approx(0.125)


@pytest.mark.parametrize("tau", [0.5, 0.6, 0.9])
def test_the_value_becomes_the_expectile_of_a_known_distribution(tau):
    """Labels 1 (once) and 0 (three times): tau (1 - e) = 3 (1 - tau) e, so e = tau / (tau + 3 (1 - tau))."""
    target = TabularCritic(jnp.zeros((1, 1)), jnp.array([[[1.0, 0.0]], [[2.0, 0.5]]]))  # minimum: 1 and 0
    batch = tabular_batch([(0, action, 0.0, 0.0, 0) for action in (0, 1, 1, 1)], 1, 2)

    @jax.jit
    def step(logits):
        critic = TabularCritic(logits, target.table)
        return logits - jax.grad(lambda c: value_loss(c, target, batch, tau)[0])(critic).logits

    logits = jnp.zeros((1, 1))
    for _ in range(100):
        logits = step(logits)
    assert float(logits[0, 0]) == pytest.approx(tau / (tau + 3 * (1 - tau)), abs=1e-4)


def test_only_the_value_learns_from_its_loss():
    target = TabularCritic(jnp.zeros((2, 1)), jnp.ones((2, 2, 1)))
    batch = tabular_batch([(0, 0, 0.0, 0.5, 1)], 2, 1)
    gradient = jax.grad(lambda both: value_loss(both[0], both[1], batch, 0.7)[0])((target, target))
    assert float(jnp.abs(gradient[0].logits).sum()) > 0
    assert not np.any(gradient[0].table)
    assert not np.any(gradient[1].table)


def test_the_target_by_hand():
    critic = TabularCritic(jnp.array([[0.25], [0.8]]), jnp.zeros((2, 2, 1)))
    batch = tabular_batch([(0, 0, 0.1, 0.5, 1), (1, 0, 1.0, 0.0, 0)], 2, 1)
    y, metrics = bootstrap_target(critic, batch)
    np.testing.assert_allclose(y, [0.1 + 0.5 * 0.8, 1.0], rtol=1e-6)
    assert float(metrics["value/expectile"]) == pytest.approx((0.8 + 0.25) / 2)
    assert float(metrics["critic/target"]) == pytest.approx(0.75)
    gradient = jax.grad(lambda c: bootstrap_target(c, batch)[0].sum())(critic)
    assert not np.any(gradient.logits)


@pytest.fixture(scope="module")
def steps():
    before = METHOD.start(REFERENCE, SIZES, KEY)
    warm = eqx.filter_jit(METHOD.warm_up(REFERENCE))(before, BATCH, KEY)
    return before, warm, eqx.filter_jit(METHOD.update(REFERENCE))(before, BATCH, KEY)


def test_the_value_has_one_output_and_the_rest_is_lwds(steps):
    before, lwd = steps[0], Lwd(**vars(TINY)).start(REFERENCE, SIZES, KEY)
    assert isinstance(METHOD, Method)
    assert before.critic.value.out.bias.shape == (1,)
    assert_trees_equal(before.critic.heads, lwd.critic.heads)
    assert_trees_equal((before.policy, before.policy_opt), (lwd.policy, lwd.policy_opt))


def test_the_warm_up_leaves_the_policy_and_the_update_does_not(steps):
    before, (warm, warm_metrics), (after, metrics) = steps
    for part in ("policy", "acting_policy", "policy_opt"):
        assert_trees_equal(getattr(warm, part), getattr(before, part))
    for part in ("policy", "acting_policy"):
        assert trees_differ(getattr(after, part), getattr(before, part))
    for state in (warm, after):
        assert int(state.step) == 1
        assert trees_differ(state.critic.value, before.critic.value)
        assert trees_differ(state.critic.heads, before.critic.heads)
        assert trees_differ(state.target, before.target)
        assert_trees_equal(state.critic.normalizer, before.critic.normalizer)
    assert set(metrics) > set(warm_metrics) >= {"value/expectile_loss", "value/expectile", "critic/loss"}
    assert all(np.isfinite(float(x)) for x in metrics.values())


def test_the_critic_target_comes_from_the_updated_value(steps):
    """As in Algorithm 2: line 2 reads the psi of line 1."""
    before, (warm, metrics), _ = steps
    y, _ = bootstrap_target(warm.critic, BATCH)  # its value does not change after line 1
    assert float(metrics["critic/target"]) == pytest.approx(float(y.mean()), rel=1e-4)
    stale, _ = bootstrap_target(before.critic, BATCH)
    assert float(metrics["critic/target"]) != pytest.approx(float(stale.mean()), rel=1e-4)


def test_the_policy_takes_lwds_step(steps):
    """The same noise and the same QAM, on the target critic of this step (every chunk is whole: no tail to fill)."""
    _, (warm, _), (after, _) = steps
    expected, _ = eqx.filter_jit(fit_policy)(METHOD, REFERENCE, warm, BATCH, jax.random.split(KEY)[1])
    assert_trees_close(after.policy, expected.policy, atol=1e-5)


def test_an_adaptive_tau_is_refused():
    with pytest.raises(ConfigError, match=r"no entropy to adapt tau by; set divl.alpha to 0, got 0\.3"):
        replace(METHOD, divl=DivlConfig())
