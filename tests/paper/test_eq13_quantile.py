"""Eq 13, 22, 23: the quantile is the first atom whose cumulative probability reaches tau."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwd.learner.divl import DivlConfig, quantile

ATOMS = DivlConfig().support()
quantile_all = jax.jit(jax.vmap(quantile, (0, 0, None)))


def slow_quantile(probabilities, tau, atoms):
    """The definition, in float64 and in a loop."""
    total, cumulative = np.sum(np.float64(probabilities)), 0.0
    for p, atom in zip(np.float64(probabilities), atoms, strict=True):
        cumulative += p
        if p > 0 and cumulative / total >= tau:
            return atom
    return atoms[np.flatnonzero(probabilities)[-1]]


@pytest.mark.parametrize(
    ("tau", "atom"),
    [
        (0.01, 0.0),
        (0.25, 0.0),  # a tie: the CDF is exactly 0.25 at the first atom, which has reached it
        (0.2501, 0.25),
        (0.5, 0.25),  # a tie again; the next atom has no mass and must not be skipped to
        (0.5001, 0.75),
        (0.999, 0.75),
        (1.0, 0.75),
    ],
)
def test_by_hand(tau, atom):
    p = jnp.array([0.25, 0.25, 0.0, 0.5, 0.0])
    assert float(quantile(p, jnp.float32(tau), jnp.linspace(0.0, 1.0, 5))) == atom


@pytest.mark.parametrize("position", [0, 77, 200])
def test_all_mass_on_one_atom(position):
    p = jnp.zeros(201).at[position].set(1.0)
    for tau in (0.05, 0.5, 0.99, 1.0):
        assert quantile(p, jnp.float32(tau), ATOMS) == ATOMS[position]


def random_distributions(count):
    rng = np.random.default_rng(13)
    logits = rng.normal(size=(count, 201)) * rng.uniform(0.1, 6, (count, 1))
    return np.asarray(jax.nn.softmax(jnp.asarray(logits, jnp.float32), axis=-1)), rng


def test_against_a_slow_implementation():
    p, rng = random_distributions(2000)
    tau = rng.uniform(0.001, 0.999, 2000).astype(np.float32)
    atoms = np.asarray(ATOMS)
    fast = np.asarray(quantile_all(p, tau, ATOMS))
    # A float32 cumulative sum of 201 terms is off by up to about 1e-6, so the answer must lie between the exact quantiles of
    # tau -+ 2e-6; they are one atom nearly always.
    low = [slow_quantile(p_, t - 2e-6, atoms) for p_, t in zip(p, np.float64(tau), strict=True)]
    high = [slow_quantile(p_, t + 2e-6, atoms) for p_, t in zip(p, np.float64(tau), strict=True)]
    assert np.all((low <= fast) & (fast <= high))
    assert np.mean(np.equal(low, high)) > 0.99


def test_tau_near_one_in_float32():
    p = random_distributions(4000)[0].copy()
    p[::2, 150:] = 0.0  # half of them end early: the answer must then have mass
    p[::2] /= p[::2].sum(-1, keepdims=True)
    assert np.any(np.cumsum(p, -1, dtype=np.float32)[:, -1] < 1.0)  # the case that would fall off the end
    last = np.where(np.arange(4000) % 2 == 0, 149, 200)
    exact = np.cumsum(np.float64(p), -1)
    for tau in (np.float32(1.0), np.nextafter(np.float32(1.0), np.float32(0.0)), np.float32(0.99999)):
        index = np.argmin(
            np.abs(np.asarray(quantile_all(p, np.full(4000, tau), ATOMS))[:, None] - ATOMS), axis=-1
        )
        rows = np.arange(4000)
        assert np.all(index <= last)
        assert np.all(exact[rows, index] >= np.float64(tau) - 3e-6)
        assert np.all(p[rows, index] > 0)


@pytest.mark.parametrize("tau", [0.05, 0.5, 0.9, 0.99])
def test_uniform(tau):
    # 201 equal atoms: the first k with k / 201 >= tau.
    index = int(np.ceil(tau * 201)) - 1
    assert float(quantile(jnp.full(201, 1 / 201), jnp.float32(tau), ATOMS)) == pytest.approx(
        float(ATOMS[index]), abs=1e-6
    )
