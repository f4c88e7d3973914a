"""Eq 17, 24: normalised entropy of the value distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwd.learner.divl import normalized_entropy


def entropy_of(probabilities):
    with np.errstate(divide="ignore"):
        return float(normalized_entropy(jnp.log(jnp.asarray(probabilities, jnp.float32))))


@pytest.mark.parametrize("atoms", [2, 11, 201])
def test_uniform_is_one(atoms):
    assert entropy_of(np.full(atoms, 1 / atoms)) == pytest.approx(1.0, abs=1e-5)


def test_a_point_mass_is_zero():
    assert entropy_of(np.eye(201)[40]) == 0.0


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ([0.5, 0.5, 0, 0], 0.5),  # 1 bit of 2
        ([0.5, 0.25, 0.25, 0], 0.75),  # 1.5 bits of 2
        ([0.5, 0.25, 0.125, 0.125], 0.875),
        ([0.75, 0.25], 0.811278),  # 2 - 0.75 log2(3) bits of 1
    ],
)
def test_by_hand(probabilities, expected):
    assert entropy_of(probabilities) == pytest.approx(expected, abs=1e-5)


def test_finite_with_finite_gradient_where_all_mass_is_on_one_atom():
    logits = jnp.zeros(201).at[3].set(1e4)  # every other probability underflows to 0
    value, gradient = jax.value_and_grad(lambda x: normalized_entropy(jax.nn.log_softmax(x)))(logits)
    assert value == 0.0
    assert np.all(np.isfinite(gradient))


def test_gradient_where_nothing_underflows():
    logits = jnp.array([0.3, -0.2, 0.9])

    def by_definition(x):
        p = jax.nn.softmax(x)
        return -jnp.sum(p * jnp.log(p)) / jnp.log(3.0)

    np.testing.assert_allclose(
        jax.grad(lambda x: normalized_entropy(jax.nn.log_softmax(x)))(logits),
        jax.grad(by_definition)(logits),
        atol=1e-6,
    )
