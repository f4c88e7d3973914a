"""Eq 9: memoryless paths, the lean adjoint, and the loss that regresses the policy's velocity on it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwd.learner import qam
from lwd.learner.flow import time_grid
from lwd.learner.qam import QamConfig, lean_adjoint, matching_loss, memoryless_path, noise_scale, path_kl
from tests.paper.paper_examples import assert_trees_close, random_batch, tiny_critic, tiny_policy

pytestmark = pytest.mark.usefixtures("quick_compilation")

T = 6
SHAPE = (2, 2)
SIGMA_SQUARED = [22, 10, 6, 4, 2.8, 2, 10 / 7, 1, 2 / 3, 0.4]


def nonlinear(seed):
    """A smooth velocity with a full, point-dependent, time-dependent Jacobian."""
    mix, time, bend = np.random.default_rng(seed).normal(size=(3, 4, 4)) / 2

    def velocity(a, w):
        return jnp.tanh(mix @ a.ravel() + w * time[0] + bend @ jnp.sin(2 * a.ravel() + w)).reshape(SHAPE)

    return velocity


REFERENCE, POLICY = nonlinear(0), nonlinear(1)
NOISE = jax.random.normal(jax.random.key(9), (T, *SHAPE))


def endpoint_utility(a):
    return jnp.sum(jnp.sin(a) + 0.3 * a**2)


def follow(velocity, noise, nudges):
    """The memoryless SDE by Euler, all T steps, noise fixed; `nudges` shift the points, to differentiate by."""
    h = 1.0 / T
    a, points = noise[0], []
    for i in range(T):
        a, w = a + nudges[i], jnp.float32(i * h)
        points.append(a)
        a = a + h * (2.0 * velocity(a, w) - a / (w + h))
        if i < T - 1:
            a = a + np.sqrt(h * 2.0 * (1 - i * h + h) / (i * h + h)) * noise[i + 1]
    return a, jnp.stack(points)


# ---- schedule and path -----------------------------------------------------------------------------------------------


def test_schedule_values():
    np.testing.assert_allclose(noise_scale(*time_grid(10)) ** 2, SIGMA_SQUARED, rtol=1e-5)


def test_the_drift_is_memoryless_for_the_schedule():
    # sigma^2 / 2 must be the rate at which a Gaussian reference forgets: the SDE keeps the marginals of the flow, as h -> 0.
    # One step from the flow's marginal N(0, 1) of a reference N(0, 1) at w: variance (1-w)^2 + w^2 at both ends.
    h = 1e-4
    for w in (0.2, 0.5, 0.8):
        variance = (1 - w) ** 2 + w**2
        slope = 2 * (2 * w - 1) / variance - 1 / (w + h)
        stepped = (1 + h * slope) ** 2 * variance + h * float(noise_scale(jnp.float32(w), h)) ** 2
        assert stepped == pytest.approx((1 - w - h) ** 2 + (w + h) ** 2, abs=5e-7)


def test_path_follows_the_policy_and_ends_with_a_noiseless_reference_step():
    path = jax.jit(lambda n: memoryless_path(POLICY, REFERENCE, n))(NOISE)
    _, points = jax.jit(lambda n: follow(POLICY, n, jnp.zeros((T, *SHAPE))))(NOISE)
    times, h = time_grid(T)
    np.testing.assert_allclose(path.points, points, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(path.velocities, jax.vmap(POLICY)(points, times), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        path.endpoint, points[-1] + h * REFERENCE(points[-1], times[-1]), rtol=1e-5, atol=1e-5
    )


# ---- lean adjoint ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adjoints():
    """The module's adjoint in both conventions, and automatic differentiation through the reference SDE."""

    @jax.jit
    def both():
        nudges = jnp.zeros((T, *SHAPE))
        end, points = follow(
            POLICY, NOISE, nudges
        )  # any points: the adjoint belongs to the reference drift through them
        increments = []  # noise that makes the reference SDE pass through exactly these points
        h = 1.0 / T
        for i in range(T):
            following = points[i + 1] if i < T - 1 else end
            w = i * h
            mean = points[i] + h * (2.0 * REFERENCE(points[i], jnp.float32(w)) - points[i] / (w + h))
            increments.append(following - mean)

        def reference_endpoint(nudges):
            a = points[0]
            for i in range(T):
                a, w = a + nudges[i], i * h
                a = a + h * (2.0 * REFERENCE(a, jnp.float32(w)) - a / (w + h)) + increments[i]
            return endpoint_utility(a)

        terminal = jax.grad(endpoint_utility)(end)
        return {
            "autodiff": jax.grad(reference_endpoint)(nudges),
            "same": lean_adjoint(REFERENCE, points, terminal, "same"),
            "next": lean_adjoint(REFERENCE, points, terminal, "next"),
            "points": points,
            "terminal": terminal,
        }

    return both()


def test_same_time_equals_automatic_differentiation_through_the_reference_sde(adjoints):
    np.testing.assert_allclose(adjoints["same"], adjoints["autodiff"], rtol=2e-4, atol=1e-5)


def test_next_time_equals_the_public_methods_loop(adjoints):
    h, g, expected = 1.0 / T, adjoints["terminal"].ravel(), []
    jacobian = jax.jit(
        jax.jacfwd(lambda a, w, pole: (2.0 * REFERENCE(a.reshape(SHAPE), w)).ravel() - a / pole)
    )
    for i in reversed(range(T)):
        w_next = jnp.float32(i * h + h)
        g = g + h * jacobian(adjoints["points"][i].ravel(), w_next, w_next).T @ g
        expected.append(g.reshape(SHAPE))
    np.testing.assert_allclose(adjoints["next"], expected[::-1], rtol=1e-4, atol=1e-5)


def test_the_two_conventions_differ_at_few_flow_steps(adjoints):
    difference = np.abs(adjoints["next"] - adjoints["same"]).max() / np.abs(adjoints["same"]).max()
    assert 0.01 < difference < 1.0


# ---- loss ------------------------------------------------------------------------------------------------------------


def test_loss_by_hand():
    # T = 2, h = 1/2: sigma^2 = 2 * 1.5 / 0.5 = 6 and 2 * 1 / 1 = 2. One coordinate, f - f_beta = 0.3 and -0.1, g = 0.5 and 2.
    f = jnp.array([0.3, -0.1]).reshape(2, 1, 1)
    g = jnp.array([0.5, 2.0]).reshape(2, 1, 1)
    expected = (0.6 / 6**0.5 + 6**0.5 * 0.5) ** 2 + (-0.2 / 2**0.5 + 2**0.5 * 2.0) ** 2
    assert float(matching_loss(f, jnp.zeros_like(f), g)) == pytest.approx(expected, rel=1e-5)


def test_stationary_point():
    """f = f_beta - sigma^2 / 2 E[g]: gradient zero there, and the loss of one path zero at its own g."""
    rng = np.random.default_rng(1)
    g = jnp.asarray(rng.normal(size=(50, T, *SHAPE)), jnp.float32)  # 50 adjoints at the same points
    f_beta = jnp.asarray(rng.normal(size=(T, *SHAPE)), jnp.float32)
    variance = noise_scale(*time_grid(T))[:, None, None] ** 2

    def loss(f):
        return jnp.mean(jax.vmap(matching_loss, (None, None, 0))(f, f_beta, g))

    best = f_beta - 0.5 * variance * jnp.mean(g, 0)
    np.testing.assert_allclose(jax.grad(loss)(best), 0.0, atol=1e-4)  # single gradients are about 4 |g| = 4
    assert loss(best) < min(loss(best + 0.01), loss(best - 0.01))
    assert matching_loss(f_beta - 0.5 * variance * g[0], f_beta, g[0]) < 1e-8


def test_path_kl_against_the_log_density_ratio_of_the_transitions():
    rng = np.random.default_rng(2)
    f, f_beta = rng.normal(size=(2, T, *SHAPE))
    h, total = 1.0 / T, 0.0
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)  # exact for the quadratic log ratio
    for i in range(T):
        w = i * h
        sd = np.sqrt(h * 2 * (1 - w + h) / (w + h))  # of the transition from a^{w_i}
        for mean, other in zip((2 * h * f[i]).ravel(), (2 * h * f_beta[i]).ravel(), strict=True):
            x = mean + sd * nodes  # policy's next point, relative to the drift both share
            ratio = ((x - other) ** 2 - (x - mean) ** 2) / (2 * sd**2)
            total += np.sum(weights * ratio) / np.sqrt(2 * np.pi)
    assert float(path_kl(jnp.float32(f), jnp.float32(f_beta))) == pytest.approx(total, rel=1e-5)


# ---- loss of networks: where gradients go ----------------------------------------------------------------------------


def naive_loss(policy, constants, observation):
    """Eq 9 written out; path, reference velocities and adjoint are numbers that were worked out before."""
    points, reference_velocities, adjoint = constants
    h, total = 1.0 / len(points), 0.0
    for i, (a, f_beta, g) in enumerate(zip(points, reference_velocities, adjoint, strict=True)):
        sigma = np.sqrt(2 * (1 - i * h + h) / (i * h + h))
        f = policy.velocity(policy.encode(observation), a, jnp.float32(i * h))
        total = total + jnp.sum((2 / sigma * (f - f_beta) + sigma * g) ** 2)
    return total


def naive_constants(policy, reference, critic, observation, noise, config):
    steps, times = config.flow_steps, np.arange(config.flow_steps) / config.flow_steps
    h, z = 1.0 / steps, critic.encode(observation)
    followed = policy if config.paths_from == "policy" else reference
    a, points = noise[0], []
    for i, w in enumerate(times):
        points.append(a)
        network = followed if i < steps - 1 else reference
        f = network.velocity(network.encode(observation), a, jnp.float32(w))
        if i < steps - 1:
            a = a + h * (2 * f - a / (w + h)) + np.sqrt(h * 2 * (1 - w + h) / (w + h)) * noise[i + 1]
        else:
            a = a + h * f
    context = reference.encode(observation)
    g = -jax.grad(lambda b: jnp.min(critic.q(z, jnp.clip(b, -1, 1))))(a) / config.temperature
    velocities, adjoint = [], []
    for a, w in zip(points[::-1], times[::-1], strict=True):
        _, pullback = jax.vjp(lambda b, w=w: 2 * reference.velocity(context, b, jnp.float32(w + h)), a)
        g = g + h * (pullback(g)[0] - g / (w + h))
        adjoint.append(g)
        velocities.append(reference.velocity(context, a, jnp.float32(w)))
    return jnp.stack(points), jnp.stack(velocities[::-1]), jnp.stack(adjoint[::-1])


@pytest.mark.parametrize("paths_from", ["policy", "reference"])
def test_gradient_reaches_the_policy_alone_and_is_that_of_the_written_out_loss(paths_from):
    config = QamConfig(flow_steps=3, paths_from=paths_from, temperature=0.5)
    observation = random_batch(0).observation
    networks = tiny_policy(0), tiny_policy(1), tiny_critic(2)
    noise = 0.5 * jax.random.normal(jax.random.key(3), (3, *SHAPE))

    @eqx.filter_jit
    def ours(networks):
        return eqx.filter_value_and_grad(
            lambda n: qam.adjoint_matching_loss(*n, observation, noise, config), has_aux=True
        )(networks)

    @eqx.filter_jit
    def naive(networks):
        constants = naive_constants(*networks, observation, noise, config)
        return eqx.filter_value_and_grad(naive_loss)(networks[0], constants, observation)

    (loss, metrics), (policy, reference, critic) = ours(networks)
    naive_value, naive_gradient = naive(networks)
    assert metrics["policy/saturated_share"] < 1.0  # so that the critic does pull
    assert metrics["policy/adjoint_norm"] > 0.01
    assert float(loss) == pytest.approx(float(naive_value), rel=1e-4)
    assert_trees_close(policy, naive_gradient, rtol=1e-3, atol=1e-4)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(policy)) > 0.1
    for leaf in jax.tree.leaves((reference, critic)):
        np.testing.assert_array_equal(leaf, 0.0)


def test_batch_loss_is_the_mean_over_observations():
    config = QamConfig(flow_steps=2)
    observation = random_batch(0, 4).observation
    networks = tiny_policy(0), tiny_policy(1), tiny_critic(2)
    key = jax.random.key(5)

    @eqx.filter_jit
    def both(networks):
        mean = qam.policy_loss(*networks, observation, SHAPE, key, config)
        noise = jax.random.normal(key, (4, 2, *SHAPE))
        one = [
            qam.adjoint_matching_loss(
                *networks, jax.tree.map(lambda x, i=i: x[i], observation), noise[i], config
            )
            for i in range(4)
        ]
        return mean, one

    (loss, metrics), single = both(networks)
    assert float(loss) == pytest.approx(np.mean([float(value) for value, _ in single]), rel=1e-4)
    norms = [float(m["policy/adjoint_norm"]) for _, m in single]
    assert float(metrics["policy/adjoint_norm"]) == pytest.approx(np.mean(norms), rel=1e-4)
    assert float(metrics["policy/adjoint_norm_max"]) == pytest.approx(max(norms), rel=1e-4)
