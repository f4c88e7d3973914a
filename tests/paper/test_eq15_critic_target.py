"""Eq 14, 15, 19: the bootstrap target, and the squared error of every head to it. Clipped double-Q."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwd.learner.divl import DivlConfig, bootstrap_target, critic_loss, fill_tail, pessimistic_q
from tests.paper.paper_examples import TabularCritic, tabular_batch

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = DivlConfig(atoms=5, value_low=0.0, value_high=1.0, alpha=0.0, tau_base=0.6)
# State 0: all mass on 0.25. State 1: 0.5 on 0.25 and 0.5 on 0.75, so the 0.6 quantile is 0.75.
PROBABILITIES = jnp.array([[0, 1, 0, 0, 0], [0, 0.5, 0, 0.5, 0]])


def critic_with(table):
    return TabularCritic(jnp.log(PROBABILITIES + 1e-30), jnp.asarray(table, jnp.float32))


CRITIC = critic_with([[[0.1, 0.9], [0.4, 0.2]], [[0.3, 0.5], [0.6, 0.0]]])
# (state, action, reward, discount, next state); the last two returns were cut by success and by failure.
ROWS = [(0, 0, 0.0, 0.9, 1), (1, 1, 0.2, 0.5, 0), (0, 1, 1.0, 0.0, 1), (1, 0, 0.0, 0.0, 0)]
BATCH = tabular_batch(ROWS, 2, 2)


def test_target_by_hand():
    y, metrics = bootstrap_target(CRITIC, BATCH, CONFIG)
    np.testing.assert_allclose(y, [0.9 * 0.75, 0.2 + 0.5 * 0.25, 1.0, 0.0], atol=1e-6)
    assert metrics["value/quantile"] == pytest.approx(0.5)
    assert metrics["value/tau"] == pytest.approx(0.6)


def test_a_cut_return_ignores_the_next_state():
    moved = tabular_batch([(s, a, r, d, 1 - n) for s, a, r, d, n in ROWS], 2, 2)
    y, _ = bootstrap_target(CRITIC, BATCH, CONFIG)
    y_moved, _ = bootstrap_target(CRITIC, moved, CONFIG)
    np.testing.assert_array_equal(y[2:], y_moved[2:])
    assert np.all(y[:2] != y_moved[:2])


def test_the_target_reads_the_value_head_and_not_the_critic_heads():
    y, _ = bootstrap_target(CRITIC, BATCH, CONFIG)
    other, _ = bootstrap_target(critic_with(np.full((2, 2, 2), 9.0)), BATCH, CONFIG)
    np.testing.assert_array_equal(y, other)


def test_loss_by_hand():
    y = jnp.array([0.5, 0.5, 0.5, 0.5])
    loss, metrics = critic_loss(CRITIC, BATCH, y)
    # Heads at (0,0), (1,1), (0,1), (1,0): first 0.1, 0.2, 0.9, 0.4; second 0.3, 0.0, 0.5, 0.6.
    errors = np.array([-0.4, -0.3, 0.4, -0.1, -0.2, -0.5, 0.0, 0.1])
    assert loss == pytest.approx(np.mean(errors**2), rel=1e-5)
    assert metrics["critic/td_error"] == pytest.approx(np.mean(np.abs(errors)), rel=1e-5)
    assert metrics["critic/head_gap"] == pytest.approx((0.2 + 0.2 + 0.4 + 0.2) / 4, rel=1e-5)


def test_every_head_is_pulled_to_the_same_target_and_none_to_the_others():
    y = jnp.array([0.5, 0.5, 0.5, 0.5])
    gradient = jax.grad(lambda c: critic_loss(c, BATCH, y)[0])(CRITIC)
    # Mean over 2 heads and 4 transitions, each table entry seen once: 2 (q - y) / 8.
    np.testing.assert_allclose(gradient.table, (CRITIC.table - 0.5) / 4, atol=1e-6)
    np.testing.assert_array_equal(gradient.logits, 0.0)


def test_no_gradient_through_the_target():
    def loss(critic):
        y, _ = bootstrap_target(critic, BATCH, CONFIG)
        return jnp.sum(y)

    for leaf in jax.tree.leaves(jax.grad(loss)(CRITIC)):
        np.testing.assert_array_equal(leaf, 0.0)


def test_one_scalar_is_the_minimum_over_heads():
    q = jax.vmap(pessimistic_q, (None, 0, 0))(CRITIC, BATCH.observation, BATCH.chunk)
    np.testing.assert_allclose(q, [0.1, 0.0, 0.5, 0.4], atol=1e-6)


def test_fill_tail_changes_the_padding_alone_and_stays_in_the_box():
    chunk, valid = jnp.full((6, 3), 0.98), jnp.array([True, True, True, False, False, False])
    filled = fill_tail(chunk, valid, jax.random.key(0))
    np.testing.assert_array_equal(filled[:3], chunk[:3])
    assert np.all(filled[3:] != chunk[3:])
    assert np.all(np.abs(filled) <= 1.0)
