"""DIVL (Eq 11-19) on a chain whose optimal value is known, with tables in place of networks.

States 0, 1, 2, 3; "advance" goes one to the right and earns 1 on leaving state 3; "stay" stays; "quit" ends the episode with
nothing; "leap" would earn 1 at once, and is never in the data. Discount 1/2, so V*(s) = 2^-(3 - s) for the actions in the data.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lwd.learner.divl import DivlConfig, bootstrap_target, critic_loss, read_value, value_loss
from tests.paper.paper_examples import TabularCritic, tabular_batch

GAMMA, STATES, ACTIONS = 0.5, 4, 4
ADVANCE, STAY, QUIT, LEAP = range(4)
OPTIMAL = np.array([0.125, 0.25, 0.5, 1.0])
WIDTH = 1 / 200  # of one atom; every V* is an atom of [0, 1]

# How often each action (advance, stay, quit) stands in the replay of a state: at most states the behaviour is mostly bad.
COUNTS = np.array([[3, 1, 6], [3, 1, 6], [12, 2, 6], [3, 1, 6]])


def rows(counts):
    result = []
    for state, (advance, stay, quits) in enumerate(counts):
        last = state == STATES - 1
        result += [
            (state, ADVANCE, 1.0, 0.0, state) if last else (state, ADVANCE, 0.0, GAMMA, state + 1)
        ] * advance
        result += [(state, STAY, 0.0, GAMMA, state)] * stay
        result += [(state, QUIT, 0.0, 0.0, state)] * quits
    return result


def fit(counts, config, leap_q=0.0, steps=1000):
    """Algorithm 2 without its policy: returns what DIVL bootstraps from in every state, and the critic."""
    batch = tabular_batch(rows(counts), STATES, ACTIONS)
    table = jnp.zeros((2, STATES, ACTIONS)).at[:, :, LEAP].set(leap_q)
    critic = TabularCritic(jnp.zeros((STATES, config.atoms)), table)
    optimizer = optax.adam(0.05)
    # The loss is a mean over batch and heads, and at most 20 rows share a state.
    per_entry = 0.5 * len(batch.reward) * 2 / 20

    def step(carry, _):
        critic, target, memory = carry
        gradient = jax.grad(lambda c: value_loss(c, target, batch, config)[0])(critic)
        updates, memory = optimizer.update(gradient.logits, memory)
        critic = TabularCritic(critic.logits + updates, critic.table)
        y, _ = bootstrap_target(critic, batch, config)
        gradient = jax.grad(lambda c: critic_loss(c, batch, y)[0])(critic)
        critic = TabularCritic(critic.logits, critic.table - per_entry * gradient.table)
        target = jax.tree.map(lambda a, b: a + 0.1 * (b - a), target, critic)
        return (critic, target, memory), None

    def run(critic):
        start = (critic, critic, optimizer.init(critic.logits))
        return jax.lax.scan(step, start, None, length=steps)[0][0]

    critic = jax.jit(run)(critic)
    return np.asarray(jax.vmap(lambda x: read_value(x, config)[0])(critic.logits)), critic


def config_with(**settings):
    return DivlConfig(atoms=201, value_low=0.0, value_high=1.0, **settings)


def exact_values(counts, tau):
    """The fixed point V(s) = tau-quantile over replay actions of r + gamma V(s'), by iteration in float64."""
    value = np.zeros(STATES)
    for _ in range(200):
        new = np.zeros(STATES)
        for state, count in enumerate(counts):
            following = 1.0 if state == STATES - 1 else GAMMA * value[state + 1]
            q = np.repeat([following, GAMMA * value[state], 0.0], count)
            new[state] = np.sort(q)[int(np.ceil(tau * len(q) - 1e-9)) - 1]
        value = new
    return value


def test_a_high_tau_reaches_the_optimal_value():
    np.testing.assert_allclose(exact_values(COUNTS, 0.9), OPTIMAL)
    value, critic = fit(COUNTS, config_with(alpha=0.0, tau_base=0.9))
    # Q is fitted to about 1e-4, so that a label's main atom is the optimal one: at most one atom of error.
    np.testing.assert_allclose(value, OPTIMAL, atol=WIDTH * 1.01)
    np.testing.assert_allclose(critic.table[0, :, ADVANCE], OPTIMAL, atol=WIDTH * 1.01)
    np.testing.assert_allclose(critic.table[:, :, QUIT], 0.0, atol=1e-3)


def test_so_does_the_adaptive_tau_because_the_entropy_falls():
    value, critic = fit(COUNTS, config_with(tau_base=0.9, alpha=0.3))
    taus = np.asarray(jax.vmap(lambda x: read_value(x, config_with(tau_base=0.9))[1])(critic.logits))
    assert np.all((taus > 0.75) & (taus < 0.9))
    np.testing.assert_allclose(value, OPTIMAL, atol=WIDTH * 1.01)


def test_tau_one_half_reaches_the_behaviours_median():
    expected = exact_values(COUNTS, 0.5)
    np.testing.assert_allclose(expected, [0.0, 0.0, 0.0, 0.0])
    # Here "advance" is the median action everywhere but in state 0.
    better = np.array([[3, 1, 6], [12, 2, 6], [12, 2, 6], [12, 2, 6]])
    expected_better = exact_values(better, 0.5)
    np.testing.assert_allclose(expected_better, [0.0, 0.25, 0.5, 1.0])
    for counts, values in ((COUNTS, expected), (better, expected_better)):
        value, _ = fit(counts, config_with(alpha=0.0, tau_base=0.5))
        np.testing.assert_allclose(value, values, atol=WIDTH * 1.01)


def test_a_good_action_rarer_than_one_minus_tau_is_not_believed():
    rare = COUNTS.copy()
    rare[1] = [1, 1, 18]  # 5 % of the data; tau 0.9 looks at the best 10 %
    value, _ = fit(rare, config_with(alpha=0.0, tau_base=0.9))
    np.testing.assert_allclose(value, exact_values(rare, 0.9), atol=WIDTH * 1.01)
    assert value[1] < OPTIMAL[1] / 2
    # 5 % against 3 %: the fit must first lower the mass of stale labels well below the 2 % between.
    value, _ = fit(rare, config_with(alpha=0.0, tau_base=0.97), steps=3000)
    np.testing.assert_allclose(value, OPTIMAL, atol=WIDTH * 1.01)


@pytest.mark.parametrize("leap_q", [50.0, -50.0])
def test_an_action_that_is_never_in_the_data_has_no_influence(leap_q):
    config = config_with(tau_base=0.9)
    value, critic = fit(COUNTS, config, leap_q, steps=200)
    plain_value, plain = fit(COUNTS, config, 0.0, steps=200)
    np.testing.assert_array_equal(value, plain_value)
    np.testing.assert_array_equal(critic.logits, plain.logits)
    np.testing.assert_array_equal(critic.table[:, :, :LEAP], plain.table[:, :, :LEAP])
    np.testing.assert_array_equal(critic.table[:, :, LEAP], leap_q)  # and nothing trains it
