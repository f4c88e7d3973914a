"""The temperature as what asks for a given path-space KL. Decision record 0029."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwd.learner import qam
from lwd.learner.qam import QamConfig
from tests.paper.paper_examples import assert_trees_close, random_batch, tiny_critic, tiny_policy

pytestmark = pytest.mark.usefixtures("quick_compilation")

T, SHAPE, KEY = 3, (2, 2), jax.random.key(5)
OBSERVATION = random_batch(0, 4).observation
POLICY, REFERENCE, CRITIC = tiny_policy(0), tiny_policy(1), tiny_critic(2)
TARGETED = QamConfig(flow_steps=T, target_kl=0.3)


class Times(eqx.Module):
    """A critic times a factor."""

    critic: eqx.Module
    factor: float

    def encode(self, observation):
        return self.critic.encode(observation)

    def value_logits(self, z):
        return self.critic.value_logits(z)

    def q(self, z, chunk):
        return self.factor * self.critic.q(z, chunk)


@eqx.filter_jit
def loss_and_gradient(critic, config):
    return eqx.filter_value_and_grad(
        lambda policy: qam.policy_loss(policy, REFERENCE, critic, OBSERVATION, SHAPE, KEY, config),
        has_aux=True,
    )(POLICY)


def test_what_an_adjoint_asks_for_by_hand():
    # T = 2: h = 1/2, sigma_0^2 = 2 (3/2) / (1/2) = 6, sigma_1^2 = 2 (1) / (1) = 2; sum of h sigma^2 / 2 |g|^2.
    adjoint = jnp.array([[[1.0, 2.0]], [[3.0, 0.0]]])
    assert float(qam.asked_kl(adjoint)) == pytest.approx(0.25 * 6 * 5 + 0.25 * 2 * 9)


def test_it_is_the_path_kl_where_the_matching_loss_is_zero():
    adjoint, reference = 0.3 * jax.random.normal(KEY, (2, T, *SHAPE))
    sigma = qam.noise_scale(jnp.arange(T) / T, 1 / T)[:, None, None]
    matched = reference - 0.5 * sigma**2 * adjoint
    assert float(qam.matching_loss(matched, reference, adjoint)) == pytest.approx(0.0, abs=1e-10)
    assert float(qam.path_kl(matched, reference)) == pytest.approx(float(qam.asked_kl(adjoint)), rel=1e-5)


def test_the_batch_asks_for_the_target_and_learns_as_with_that_temperature():
    (loss, metrics), gradient = loss_and_gradient(CRITIC, TARGETED)
    assert float(metrics["policy/asked_kl"]) == pytest.approx(0.3, rel=1e-5)
    found = float(metrics["policy/temperature"])
    (same, fixed), same_gradient = loss_and_gradient(
        CRITIC, replace(TARGETED, target_kl=None, temperature=found)
    )
    assert float(loss) == pytest.approx(float(same), rel=1e-5)
    assert float(fixed["policy/asked_kl"]) == pytest.approx(0.3, rel=1e-5)
    assert_trees_close(gradient, same_gradient, rtol=1e-4, atol=1e-6)


def test_half_the_temperature_asks_for_four_times_the_kl():
    plain = replace(TARGETED, target_kl=None)
    asked = [
        float(loss_and_gradient(CRITIC, replace(plain, temperature=one))[0][1]["policy/asked_kl"])
        for one in (0.2, 0.1)
    ]
    assert asked[1] == pytest.approx(4 * asked[0], rel=1e-5)


def test_the_scale_of_the_critic_does_not_matter():
    (loss, metrics), gradient = loss_and_gradient(CRITIC, TARGETED)
    (other, scaled), other_gradient = loss_and_gradient(Times(CRITIC, 1000.0), TARGETED)
    assert float(loss) == pytest.approx(float(other), rel=1e-4)
    assert float(scaled["policy/temperature"]) == pytest.approx(
        1000 * float(metrics["policy/temperature"]), rel=1e-4
    )
    assert_trees_close(gradient, other_gradient, rtol=1e-3, atol=1e-5)


def test_a_flat_critic_asks_for_nothing_and_pulls_to_the_reference():
    (loss, metrics), gradient = loss_and_gradient(Times(CRITIC, 0.0), TARGETED)
    assert float(metrics["policy/asked_kl"]) == 0.0
    assert np.isfinite(float(loss))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
    assert (
        max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) > 0.0
    )  # POLICY is not REFERENCE
