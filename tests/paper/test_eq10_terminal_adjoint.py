"""Eq 10: the adjoint starts at g_1 = -grad_a Q(s, a^1) / lambda, at the path's own endpoint."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwd.learner.qam import QamConfig, action_gradient, adjoint_matching_loss
from lwd.transition import Observation

pytestmark = pytest.mark.usefixtures("quick_compilation")

OBSERVATION = Observation(jnp.zeros(1), jnp.zeros(1), {})


class QuadraticCritic(eqx.Module):
    """Head j is -1/2 sum (a - c_j)^2 + offset_j; its gradient at a is c_j - a."""

    centres: jax.Array
    offsets: jax.Array

    def encode(self, observation):
        return observation.proprio

    def value_logits(self, z):
        return z

    def q(self, z, chunk):
        return self.offsets - 0.5 * jnp.sum((chunk - self.centres) ** 2, axis=(1, 2))


class StillPolicy(eqx.Module):
    """Velocity 0 everywhere."""

    def encode(self, observation):
        return observation.proprio

    def velocity(self, context, a_w, w):
        return jnp.zeros_like(a_w)


def critic(offsets=(0.0, 10.0)):
    return QuadraticCritic(jnp.array([[[0.5, -0.5]], [[-0.9, 0.1]]]), jnp.asarray(offsets))


def test_gradient_of_the_lower_head():
    chunk = jnp.array([[0.2, 0.3]])
    np.testing.assert_allclose(action_gradient(critic(), OBSERVATION, chunk), [[0.3, -0.8]], atol=1e-6)
    np.testing.assert_allclose(
        action_gradient(critic((10.0, 0.0)), OBSERVATION, chunk), [[-1.1, -0.2]], atol=1e-6
    )


@pytest.mark.parametrize(
    ("chunk", "expected"),
    [
        ([[1.5, 0.3]], [[0.0, -0.8]]),  # the coordinate outside pulls nowhere, the other as before
        ([[0.2, -7.0]], [[0.3, 0.0]]),
        ([[1.001, -1.001]], [[0.0, 0.0]]),
        ([[0.999, -0.999]], [[-0.499, 0.499]]),
    ],
)
def test_zero_outside_the_box(chunk, expected):
    np.testing.assert_allclose(action_gradient(critic(), OBSERVATION, jnp.array(chunk)), expected, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_divided_by_the_temperature_at_the_paths_endpoint(temperature):
    # Both velocities 0 and two flow steps: a moves by -h a / h = -a plus sqrt(h) sigma_0 eps with sigma_0^2 = 6, then stays.
    config = QamConfig(temperature=temperature, flow_steps=2)
    noise = jnp.array([[[0.3, 0.1]], [[0.2, -0.4]]])
    end = np.sqrt(0.5 * 6.0) * np.array([0.2, -0.4])
    _, metrics = adjoint_matching_loss(StillPolicy(), StillPolicy(), critic(), OBSERVATION, noise, config)
    gradient = np.array([0.5, -0.5]) - end
    assert float(metrics["policy/adjoint_norm"]) == pytest.approx(
        np.linalg.norm(gradient) / temperature, rel=1e-5
    )
    assert float(metrics["policy/saturated_share"]) == 0.0
    assert float(metrics["policy/path_kl"]) == 0.0


def test_an_endpoint_outside_the_box_has_no_adjoint():
    noise = jnp.array([[[0.0, 0.0]], [[9.0, -9.0]]])
    loss, metrics = adjoint_matching_loss(
        StillPolicy(), StillPolicy(), critic(), OBSERVATION, noise, QamConfig(flow_steps=2)
    )
    assert float(metrics["policy/saturated_share"]) == 1.0
    assert float(metrics["policy/adjoint_norm"]) == 0.0
    assert float(loss) == 0.0
