"""Eq 11, 12, 20, 21: the categorical value, the C51 projection of its labels, and the cross entropy that fits it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lwd.learner.divl import DivlConfig, project, value_loss
from tests.paper.paper_examples import TabularCritic, tabular_batch

ATOMS = DivlConfig().support()
WIDTH = 1.2 / 200
project_all = jax.jit(jax.vmap(project, (0, None)))


def test_the_support_is_the_papers():
    assert ATOMS.shape == (201,)
    np.testing.assert_allclose(ATOMS[jnp.array([0, 100, 200])], [-0.1, 0.5, 1.1], atol=1e-6)


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        (0.0, [1, 0, 0, 0, 0]),
        (0.5, [0, 0, 1, 0, 0]),  # exactly on an atom: all mass there
        (1.0, [0, 0, 0, 0, 1]),
        (0.3125, [0, 0.75, 0.25, 0, 0]),  # a quarter of the way from 0.25 to 0.5
        (0.9375, [0, 0, 0, 0.25, 0.75]),
        (-7.0, [1, 0, 0, 0, 0]),  # outside: the nearest end
        (7.0, [0, 0, 0, 0, 1]),
    ],
)
def test_by_hand(q, expected):
    # Quarters and their products are exact in float32, so these are equalities.
    np.testing.assert_array_equal(project(jnp.float32(q), jnp.linspace(0.0, 1.0, 5)), expected)


def test_every_atom_of_the_papers_support_keeps_its_own_mass():
    # An atom's position, (atom - low) / width, is up to 200 and carries float32's relative error of about 1e-7.
    np.testing.assert_allclose(project_all(ATOMS, ATOMS), np.eye(201), atol=1e-4)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(arrays(np.float32, 16, elements=st.floats(-3, 3, width=32)))
def test_mass_mean_and_neighbours(q):
    p = np.asarray(project_all(q, ATOMS), np.float64)
    clipped = np.clip(np.float64(q), -0.1, 1.1)
    np.testing.assert_allclose(p.sum(-1), 1.0, atol=1e-6)
    # Mean: the position's rounding (up to 200 * 6e-8 * a few) times the width of an atom.
    np.testing.assert_allclose(p @ np.asarray(ATOMS, np.float64), clipped, atol=1e-6)
    assert np.all(p >= 0)
    assert np.all(np.count_nonzero(p, axis=-1) <= 2)
    distance = np.abs(np.asarray(ATOMS, np.float64)[None] - clipped[:, None])
    assert np.all(distance[p > 0] < WIDTH + 1e-6)


def test_loss_by_hand():
    # One state, three atoms 0, 0.5, 1; labels min(0.2, 0.25) -> 0.2 = (0.6, 0.4, 0) and min(1.5, 3) clipped -> (0, 0, 1).
    config = DivlConfig(atoms=3, value_low=0.0, value_high=1.0)
    target = TabularCritic(jnp.zeros((1, 3)), jnp.array([[[0.2, 1.5]], [[0.25, 3.0]]]))
    critic = TabularCritic(jnp.log(jnp.array([[0.5, 0.25, 0.25]])), jnp.zeros((2, 1, 2)))
    batch = tabular_batch([(0, 0, 0, 0, 0), (0, 1, 0, 0, 0)], 1, 2)
    loss, metrics = value_loss(critic, target, batch, config)
    first = -(0.6 * np.log(0.5) + 0.4 * np.log(0.25))
    assert loss == pytest.approx((first - np.log(0.25)) / 2, rel=1e-5)
    assert metrics["value/label"] == pytest.approx((0.2 + 1.5) / 2, rel=1e-5)


def test_the_optimum_is_the_mean_of_the_projected_labels_and_the_target_is_not_trained():
    config = DivlConfig(atoms=21)
    q = np.linspace(-0.05, 1.05, 7, dtype=np.float32)
    target = TabularCritic(jnp.zeros((1, 21)), jnp.asarray(np.stack([q, q + 0.3])[:, None]))
    batch = tabular_batch([(0, a, 0, 0, 0) for a in range(7)], 1, 7)
    mean = np.mean(project_all(q, config.support()), axis=0)
    critic = TabularCritic(jnp.log(jnp.asarray(mean) + 1e-20)[None], jnp.zeros((2, 1, 7)))

    def loss(both):
        return value_loss(*both, batch, config)[0]

    critic_gradient, target_gradient = jax.grad(loss)((critic, target))
    np.testing.assert_allclose(critic_gradient.logits, 0.0, atol=1e-6)
    for leaf in jax.tree.leaves((critic_gradient.table, target_gradient)):
        np.testing.assert_array_equal(leaf, 0.0)
