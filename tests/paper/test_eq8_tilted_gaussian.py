"""Eq 8 in closed form: a Gaussian reference flow and a quadratic Q, whose tilted policy pi* is a known Gaussian.

Reference N(m, s^2), Q(a) = -(k / 2) (a - c)^2, so pi* ~ pi_beta exp(Q / lambda) has precision 1 / s^2 + k / lambda. Every flow
step's correction to the reference velocity is affine, the best affine correction is a linear regression, and the fixed point of
"follow paths, regress, update" is what QAM converges to. Nothing here is a network; paths and adjoints are the module's own.

There is no Monte-Carlo error: the noise is whitened (sample mean 0, sample covariance the identity), and for linear paths every
regression depends on nothing else. The tolerance is that of the published numbers: three decimals from 40,000 particles, and
their standard error of about sd / sqrt(40000) <= 0.002 on each of mean and sd.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwd.learner.flow import integrate, time_grid
from lwd.learner.qam import lean_adjoint, memoryless_path, noise_scale

PUBLISHED = 0.004


def gaussian_flow(m, s):
    """The exact velocity E[a^1 - a^0 | a^w] of the straight-line flow from N(0, 1) to N(m, s^2)."""

    def velocity(a, w):
        variance = (1.0 - w) ** 2 + (w * s) ** 2
        return m + (w * s**2 - (1.0 - w)) / variance * (a - w * m)

    return velocity


def whitened_noise(flow_steps, paths):
    x = np.random.default_rng(8).normal(size=(paths, flow_steps))
    q, _ = np.linalg.qr(x - x.mean(0))
    return jnp.asarray(q * np.sqrt(paths), jnp.float32).reshape(paths, flow_steps, 1, 1)


def endpoint(velocity, flow_steps):
    """Mean and sd of the acting policy: its ODE is affine, so two noises tell all."""
    at_zero, at_one = (integrate(velocity, jnp.full((1, 1), x), flow_steps)[0, 0] for x in (0.0, 1.0))
    return at_zero, at_one - at_zero


def fixed_point(m, s, k, c, temperature, flow_steps, jacobian_time="next", paths_from="policy"):
    """Mean and sd of the converged policy. Damped by half: the undamped iteration can diverge."""
    reference, noise = gaussian_flow(m, s), whitened_noise(flow_steps, 400)
    variance = noise_scale(*time_grid(flow_steps)) ** 2

    def corrected(correction):
        def velocity(a, w):
            i = jnp.round(w * flow_steps).astype(int)
            return reference(a, w) + correction[i, 0] + correction[i, 1] * a

        return velocity

    def step(correction, _):
        followed = corrected(correction) if paths_from == "policy" else reference
        path = jax.vmap(lambda n: memoryless_path(followed, reference, n))(noise)
        terminal = k * (path.endpoint - c) / temperature  # Eq 10: -grad Q / lambda
        adjoint = jax.vmap(lambda p, g: lean_adjoint(reference, p, g, jacobian_time))(path.points, terminal)
        a, g = path.points[..., 0, 0], adjoint[..., 0, 0]
        slope = jnp.mean((a - a.mean(0)) * (g - g.mean(0)), 0) / jnp.var(a, axis=0)
        best = -0.5 * variance[:, None] * jnp.stack([g.mean(0) - slope * a.mean(0), slope], 1)
        return correction + 0.5 * (best - correction), jnp.max(jnp.abs(best - correction))

    correction, change = jax.lax.scan(step, jnp.zeros((flow_steps, 2)), None, length=150)
    return (*endpoint(corrected(correction), flow_steps), change[-1])


fixed_point = jax.jit(fixed_point, static_argnums=(5, 6, 7))


def tilted(m, s, k, c, temperature):
    precision = s**-2 + k / temperature
    return (m * s**-2 + k * c / temperature) / precision, precision**-0.5


WIDE, MEDIUM, NARROW = (0.0, 0.5, 4.0, 1.0, 1.0), (0.2, 0.3, 10.0, 0.6, 1.0), (0.0, 0.1, 20.0, 0.2, 1.0)
STYLE = (0.3, 0.8, 4.0, 1.2, 2.0)  # temperature 2, pi* = N(0.805, 0.530^2)


@pytest.mark.parametrize(
    ("case", "target", "base"),
    [
        (WIDE, (0.500, 0.354), (0.000, 0.430)),
        (MEDIUM, (0.389, 0.218), (0.200, 0.246)),
        (NARROW, (0.033, 0.091), (0.000, 0.062)),
        (STYLE, (0.805, 0.530), None),
    ],
)
def test_targets_and_the_references_own_discretisation(case, target, base):
    np.testing.assert_allclose(tilted(*case), target, atol=6e-4)
    if base is not None:
        np.testing.assert_allclose(endpoint(gaussian_flow(*case[:2]), 10), base, atol=1e-3)


@pytest.mark.parametrize(
    ("case", "flow_steps", "jacobian_time", "expected"),
    [
        (WIDE, 10, "next", (0.496, 0.291)),
        (WIDE, 10, "same", (0.406, 0.313)),
        (WIDE, 30, "next", (0.485, 0.334)),
        (WIDE, 100, "next", (0.492, 0.348)),
        (MEDIUM, 10, "next", (0.414, 0.153)),
        (MEDIUM, 10, "same", (0.361, 0.176)),
        (MEDIUM, 30, "next", (0.389, 0.200)),
        (MEDIUM, 100, "next", (0.388, 0.212)),
        (NARROW, 10, "next", (0.082, 0.035)),
        (NARROW, 10, "same", (-0.009, 0.064)),
        (NARROW, 30, "next", (0.040, 0.076)),
        (NARROW, 100, "next", (0.035, 0.087)),
    ],
)
def test_the_published_table(case, flow_steps, jacobian_time, expected):
    """Mean and sd that an independent implementation of the public method's numerics reached, for temperature 1."""
    mean, sd, change = fixed_point(*case, flow_steps, jacobian_time)
    assert change < 1e-4  # converged
    np.testing.assert_allclose((mean, sd), expected, atol=PUBLISHED)


@pytest.mark.parametrize(
    ("paths_from", "flow_steps", "expected"),
    [
        ("policy", 20, (0.729, 0.513)),
        ("policy", 100, (0.784, 0.526)),
        ("reference", 20, (0.958, 0.411)),
        ("reference", 100, (1.036, 0.419)),
    ],
)
def test_paths_from_policy_and_reference(paths_from, flow_steps, expected):
    """Numbers of an earlier, independent run: 3,000 Adam steps on 512 paths each, endpoints from 200,000 samples."""
    mean, sd, _ = fixed_point(*STYLE, flow_steps, "same", paths_from)
    np.testing.assert_allclose((mean, sd), expected, atol=PUBLISHED)


@pytest.mark.parametrize("jacobian_time", ["next", "same"])
@pytest.mark.parametrize("case", [WIDE, MEDIUM, NARROW, STYLE], ids=["wide", "medium", "narrow", "style"])
def test_policy_paths_converge_to_the_tilted_gaussian(case, jacobian_time):
    mean, sd = tilted(*case)
    errors = []
    for flow_steps in (30, 100, 300):
        got_mean, got_sd, _ = fixed_point(*case, flow_steps, jacobian_time)
        errors.append(max(abs(float(got_mean) - mean) / sd, abs(float(got_sd) / sd - 1.0)))
    # First order in h: each step down, by a factor of about 3 (2 allowed), and under 3 % of an sd in the end.
    assert errors[1] < errors[0] / 2
    assert errors[2] < errors[1] / 2
    assert errors[2] < 0.03


def test_reference_paths_do_not_converge_to_it():
    mean, sd = tilted(*STYLE)
    far_mean, far_sd, change = fixed_point(*STYLE, 300, "same", "reference")
    assert change < 1e-4
    assert far_mean > mean + 0.2  # they tilt further than lambda asks, at any number of steps
    assert far_sd < sd - 0.09
