"""Eq 16, Proposition 1: fitting the distribution and reading its statistic = regressing that statistic directly.

rho_{tau,p}(u) = |tau - 1(u < 0)| |u|^p; p = 1 gives the quantile, p = 2 the expectile (IQL, Eq 3-6).
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import brentq

from lwd.learner.divl import DivlConfig, quantile, value_loss
from tests.paper.paper_examples import TabularCritic, tabular_batch

CONFIG = DivlConfig()
WIDTH = 1.2 / 200
TAUS = [0.1, 0.3, 0.5, 0.7, 0.9, 0.97]


def rho(v, q, tau, power):
    u = q[None] - np.atleast_1d(v)[:, None]
    return np.mean(np.abs(tau - (u < 0)) * np.abs(u) ** power, axis=-1)


def expectile(values, weights, tau):
    """Root of E[|tau - 1(q < v)| (q - v)], the derivative of rho_{tau,2}."""

    def slope(v):
        return np.sum(weights * np.abs(tau - (values < v)) * (values - v))

    return brentq(slope, -1.0, 2.0, xtol=1e-10)


def fitted_distribution(q):
    """p_psi of one state whose replay actions have these target-critic values, by gradient descent on Eq 12."""
    n = len(q)
    batch = tabular_batch([(0, a, 0, 0, 0) for a in range(n)], 1, n)
    target = TabularCritic(jnp.zeros((1, 201)), jnp.asarray(np.stack([q, q]), jnp.float32)[:, None])
    optimizer = optax.adam(0.05)
    start = TabularCritic(jnp.zeros((1, 201)), jnp.zeros((2, 1, n)))

    def step(carry, _):
        critic, memory = carry
        gradient = jax.grad(lambda c: value_loss(c, target, batch, CONFIG)[0])(critic)
        updates, memory = optimizer.update(gradient, memory)
        return (optax.apply_updates(critic, updates), memory), None

    (critic, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, None, length=1500))(
        (start, optimizer.init(start))
    )
    return jax.nn.softmax(critic.logits[0])


@pytest.fixture(scope="module")
def samples():
    """301 Q values of a bimodal behaviour: mostly failing, sometimes good."""
    rng = np.random.default_rng(16)
    return np.where(rng.uniform(size=301) < 0.6, rng.beta(2, 6, 301), rng.beta(8, 2, 301))


@pytest.fixture(scope="module")
def probabilities(samples):
    return fitted_distribution(samples)


@pytest.mark.parametrize("tau", TAUS)
def test_quantile(samples, probabilities, tau):
    read = float(quantile(probabilities, jnp.float32(tau), CONFIG.support()))
    grid = np.sort(samples)  # rho_{tau,1} is piecewise linear: a minimiser is one of the samples
    losses = rho(grid, samples, tau, 1)
    flat = grid[losses <= losses.min() + 1e-9]
    # The projection moves each sample by less than one atom, and so its quantile; the fit's rounding error of about 1e-3 in the
    # CDF can move it to a neighbouring sample where samples lie far apart, hence the second allowance.
    gap = np.max(
        np.abs(np.quantile(samples, [max(tau - 2e-3, 0), min(tau + 2e-3, 1)]) - np.quantile(samples, tau))
    )
    assert flat[0] - WIDTH - gap <= read <= flat[-1] + WIDTH + gap


@pytest.mark.parametrize("tau", TAUS)
def test_expectile(samples, probabilities, tau):
    read = expectile(np.asarray(CONFIG.support(), np.float64), np.asarray(probabilities, np.float64), tau)
    regressed = expectile(samples, np.full(len(samples), 1 / len(samples)), tau)
    # The projection keeps every mean, and adds at most width^2 / 4 of variance to a sample: the statistic barely moves.
    assert read == pytest.approx(regressed, abs=1e-3)
    fine = np.linspace(-0.1, 1.1, 4801)  # and the regressed one is the minimiser of rho_{tau,2}
    assert fine[np.argmin(rho(fine, samples, tau, 2))] == pytest.approx(regressed, abs=3e-4)


def test_exact_where_the_values_are_atoms():
    # 5 values on atoms, unequal counts: no projection error, so both sides must name the same atom.
    atoms = np.asarray(CONFIG.support(), np.float64)
    q = np.repeat(atoms[[20, 60, 90, 150, 180]], [5, 3, 4, 7, 2])
    probabilities = fitted_distribution(q)
    for tau in (0.2, 0.3, 0.5, 0.75, 0.95):  # away from the jumps of the CDF at 5, 8, 12, 19 of 21
        best = q[np.argmin(rho(q, q, tau, 1))]
        assert float(quantile(probabilities, jnp.float32(tau), CONFIG.support())) == pytest.approx(
            best, abs=1e-6
        )
