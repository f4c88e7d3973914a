"""Section 3: the straight-line flow from noise (w = 0) to action (w = 1), its loss, and how actions are sampled from it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwd.learner.clone import CloneConfig, init_clone
from lwd.learner.flow import flow_matching_loss, integrate, interpolate, sample_chunk, time_grid
from lwd.learner.optimizers import OptimizerConfig
from lwd.learner.stages import clone_stage, run_block
from lwd.models.mlp import MlpConfig, MlpPolicy, Normalizer
from lwd.transition import Observation, Transition
from tests.paper.paper_examples import IDENTITY

OBSERVATION = Observation(jnp.zeros(3), jnp.zeros(2), {})


class LinearPolicy(eqx.Module):
    """f(a, w) = rate a + shift."""

    rate: jax.Array
    shift: jax.Array

    def encode(self, observation):
        return observation.proprio

    def velocity(self, context, a_w, w):
        return self.rate * a_w + self.shift


def test_one_grid_for_everything():
    times, h = time_grid(4)
    np.testing.assert_array_equal(times, [0.0, 0.25, 0.5, 0.75])
    assert h == 0.25


def test_interpolation():
    noise, action = jnp.array([[1.0, -2.0]]), jnp.array([[0.5, 1.0]])
    np.testing.assert_array_equal(interpolate(noise, action, jnp.float32(0.0)), noise)
    np.testing.assert_array_equal(interpolate(noise, action, jnp.float32(1.0)), action)
    np.testing.assert_array_equal(interpolate(noise, action, jnp.float32(0.25)), [[0.875, -1.25]])


@pytest.mark.parametrize("flow_steps", [2, 10, 50])
def test_integrating_a_linear_velocity(flow_steps):
    # Euler on da/dw = r a + b: a_T = (a_0 + b / r) (1 + r / T)^T - b / r.
    noise, r, b = jnp.array([[0.3, -1.2], [2.0, 0.0]]), -1.3, 0.4
    expected = (np.asarray(noise) + b / r) * (1 + r / flow_steps) ** flow_steps - b / r
    np.testing.assert_allclose(integrate(lambda a, w: r * a + b, noise, flow_steps), expected, atol=1e-5)


def test_integration_sees_every_time_of_the_grid_once():
    # f = w: the sum of h w_i over the grid is (1 - h) / 2.
    got = integrate(lambda a, w: jnp.full_like(a, w), jnp.zeros((1, 1)), 10)
    np.testing.assert_allclose(got, [[0.45]], atol=1e-6)


def test_a_sampled_chunk_is_clipped_but_the_integral_is_not():
    policy = LinearPolicy(jnp.float32(0.0), jnp.float32(1.5))
    noise = jnp.array([[0.0, -2.0], [-1.0, -3.0]])
    np.testing.assert_allclose(
        sample_chunk(policy, OBSERVATION, noise, 10), [[1.0, -0.5], [0.5, -1.0]], atol=1e-5
    )


def test_loss_of_the_right_constant_velocity():
    # f = c against a^1 - a^0: with the same key the noise is known, so the loss is too.
    chunk, key = jnp.array([[0.2, -0.4], [0.6, 0.0], [0.1, 0.9]]), jax.random.key(1)
    noise = jax.random.normal(jax.random.split(key)[0], chunk.shape)
    errors = np.mean(np.square(0.7 - (chunk - noise)), axis=-1)
    policy = LinearPolicy(jnp.float32(0.0), jnp.float32(0.7))
    for valid in ([True, True, True], [True, False, False]):
        loss = flow_matching_loss(policy, OBSERVATION, chunk, jnp.array(valid), key)
        assert float(loss) == pytest.approx(np.mean(errors[np.array(valid)]), rel=1e-5)


def test_padded_steps_of_a_chunk_do_not_matter():
    policy, key = LinearPolicy(jnp.float32(0.0), jnp.float32(0.7)), jax.random.key(1)
    chunk, valid = jnp.array([[0.2, -0.4], [0.6, 0.0]]), jnp.array([True, False])
    losses = [flow_matching_loss(policy, OBSERVATION, chunk.at[1].set(x), valid, key) for x in (0.0, 123.0)]
    assert losses[0] == losses[1]
    assert flow_matching_loss(policy, OBSERVATION, chunk, jnp.array([False, False]), key) == 0.0


def test_cloning_a_gaussian_recovers_mean_and_sd_in_each_state():
    """Two states, actions N(0.5, 0.2^2) and N(-0.3, 0.1^2): what a small network learns to sample."""
    means, sds = np.array([0.5, -0.3]), np.array([0.2, 0.1])
    steps, size = 1200, 256
    rng = np.random.default_rng(4)
    state = rng.integers(0, 2, (steps, size))
    onehot = jnp.asarray(np.eye(2)[state] * 2 - 1, jnp.float32)
    observation = Observation(onehot, jnp.zeros((steps, size, 1)), {})
    chunk = jnp.asarray(means[state] + sds[state] * rng.normal(size=(steps, size)), jnp.float32)[
        ..., None, None
    ]
    zeros = jnp.zeros((steps, size))
    batches = Transition(
        observation,
        chunk,
        jnp.ones((steps, size, 1), bool),
        zeros,
        zeros,
        observation,
        zeros > 0,
        zeros > 0,
        zeros,
    )
    sizes = MlpConfig(proprio_dim=2, instruction_dim=1, chunk_steps=1, action_dim=1, width=32, depth=2)
    config = CloneConfig(
        policy=OptimizerConfig(learning_rate=5e-3, decay_steps=steps, warmup_steps=20), policy_ema_rate=0.02
    )
    policy = MlpPolicy.init(jax.random.key(0), sizes, Normalizer(IDENTITY.mean[:2], IDENTITY.scale[:2]))
    learned, metrics = run_block(clone_stage(config), init_clone(config, policy), batches, jax.random.key(1))
    assert np.isfinite(float(metrics["policy/flow_matching_loss"]))
    noise = jnp.asarray(rng.normal(size=(2000, 1, 1)), jnp.float32)

    @eqx.filter_jit
    def samples(policy, proprio):
        one = Observation(proprio, jnp.zeros(1), {})
        return jax.vmap(lambda n: sample_chunk(policy, one, n, 60))(noise)[:, 0, 0]

    for i in range(2):
        got = np.asarray(samples(learned.acting_policy, jnp.asarray(np.eye(2)[i] * 2 - 1, jnp.float32)))
        # Sampling error of 2,000: sd / 45 = 0.004 of a mean and 1.6 % of a sd. Euler with 60 steps takes off some 5 % of a
        # narrow sd; the rest of the tolerance is the network's, trained for seconds.
        assert got.mean() == pytest.approx(means[i], abs=0.03)
        assert got.std() == pytest.approx(sds[i], rel=0.2)
