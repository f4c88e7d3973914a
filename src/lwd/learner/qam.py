"""QAM, Q-learning with adjoint matching (Section 5 of the paper, Eq 8-10; numerics as in arXiv 2601.14234).

Symbols: w flow time (0 noise, 1 action), T flow steps, h = 1 / T, sigma memoryless noise scale, f velocity of the policy,
f_beta of the frozen reference, g lean adjoint, lambda temperature. Functions take velocity callables, not networks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lwd.errors import ConfigError
from lwd.learner.divl import Metrics
from lwd.learner.flow import Velocity, time_grid
from lwd.models.protocols import Context, Critic, Policy
from lwd.transition import Observation

Chunk = Float[Array, "H A"]
Points = Float[Array, "T H A"]

_LEAST_KL = 1e-12
"""Keeps the temperature positive under a critic that is flat everywhere, which asks for nothing."""


@dataclass(frozen=True, kw_only=True)
class QamConfig:
    """Settings of QAM.

    Attributes:
        temperature: lambda of Eq 8 (2 in the paper, for its networks; see "Choose the temperature" in the docs).
        flow_steps: T, for paths and adjoint alike; robots act with `ModelConfig.flow_steps`.
        paths_from: whose SDE the paths follow. Only "policy" has the tilted distribution as its fixed point.
        jacobian_time: flow time of the adjoint's Jacobian at point x_i: "next" is w_{i+1} (public QAM), "same" is w_i.
        target_kl: choose the temperature anew for every batch, such that its adjoints ask for this path-space KL in the mean
            (`asked_kl`); `temperature` is not used then. None, as in the paper, leaves it fixed. Decision record 0029.
    """

    temperature: float = 2.0
    flow_steps: int = 10
    paths_from: Literal["policy", "reference"] = "policy"
    jacobian_time: Literal["next", "same"] = "next"
    target_kl: float | None = None

    def __post_init__(self) -> None:
        if self.temperature <= 0.0:
            raise ConfigError(f"QamConfig.temperature must be positive, got {self.temperature}.")
        if self.flow_steps < 2:
            raise ConfigError(f"QamConfig.flow_steps must be at least 2, got {self.flow_steps}.")
        if self.target_kl is not None and not 0.0 < self.target_kl < math.inf:
            raise ConfigError(
                f"QamConfig.target_kl must be positive and finite, or None for a fixed temperature, got {self.target_kl}."
            )


class Path(NamedTuple):
    """One memoryless path: the points a^{w_i} for i < T, the velocity there, and the endpoint a^1.

    `last_velocity` is the reference's at the last point: the noiseless step took it, and the loss needs it again.
    """

    points: Points
    velocities: Points
    endpoint: Chunk
    last_velocity: Chunk


# ---- equations: one example ------------------------------------------------------------------------------------------


def noise_scale(w: Float[Array, "..."], h: float) -> Float[Array, "..."]:
    """sigma_w with sigma_w^2 = 2 (1 - w + h) / (w + h): the memoryless schedule, shifted by h so that it stays finite."""
    return jnp.sqrt(2.0 * (1.0 - w + h) / (w + h))


def memoryless_path(velocity: Velocity, last_velocity: Velocity, noise: Points) -> Path:
    """Follow the memoryless SDE of `velocity` from noise[0]; the last step is a noiseless step of `last_velocity`.

    Points carry no gradient, velocities do: the loss needs exactly one evaluation per flow step, and this is it.
    `noise` is [T, H, A]: the start and the T - 1 increments. Paper: Section 5, path of Eq 9.
    """
    times, h = time_grid(noise.shape[0])

    def step(a: Chunk, x: tuple[Float[Array, ""], Chunk]) -> tuple[Chunk, tuple[Chunk, Chunk]]:
        w, increment = x
        v = velocity(a, w)
        moved = a + h * (2.0 * v - a / (w + h)) + jnp.sqrt(h) * noise_scale(w, h) * increment
        return jax.lax.stop_gradient(moved), (a, v)

    last, (points, velocities) = jax.lax.scan(step, noise[0], (times[:-1], noise[1:]))
    final = last_velocity(last, times[-1])
    own = final if velocity is last_velocity else velocity(last, times[-1])
    endpoint = jax.lax.stop_gradient(last + h * final)
    return Path(
        jnp.concatenate([points, last[None]]),
        jnp.concatenate([velocities, own[None]]),
        endpoint,
        final,
    )


def lean_adjoint(
    reference: Velocity, points: Points, terminal: Chunk, jacobian_time: Literal["next", "same"] = "next"
) -> Points:
    """g_i at every point of a path, backwards from g_1 = `terminal` through the reference drift only.

    g_i = g_{i+1} + h J_i^T g_{i+1} with J_i the Jacobian of 2 f_beta(a, w) - a / (w + h), at the path's point. Paper: Eq 9.
    """
    return _adjoint_and_velocities(reference, points, terminal, jacobian_time)[0]


def _adjoint_and_velocities(
    reference: Velocity, points: Points, terminal: Chunk, jacobian_time: Literal["next", "same"]
) -> tuple[Points, Points]:
    """The lean adjoint, and the reference's velocities at the Jacobian's times, which its forward pass makes anyway."""
    times, h = time_grid(points.shape[0])
    jacobian_times = times + h if jacobian_time == "next" else times

    def step(
        g: Chunk, x: tuple[Chunk, Float[Array, ""], Float[Array, ""]]
    ) -> tuple[Chunk, tuple[Chunk, Chunk]]:
        a, w, w_jacobian = x

        def moved(b: Chunk) -> tuple[Chunk, Chunk]:
            v = reference(b, w_jacobian)
            return 2.0 * v - b / (w + h), v  # the memoryless SDE's drift

        _, pullback, v = jax.vjp(moved, a, has_aux=True)
        g = g + h * pullback(g)[0]
        return g, (g, v)

    return jax.lax.scan(step, terminal, (points, times, jacobian_times), reverse=True)[1]


def matching_loss(velocities: Points, reference_velocities: Points, adjoint: Points) -> Float[Array, ""]:
    """sum_w || 2 (f - f_beta) / sigma_w + sigma_w g_w ||^2 of one path. Paper: Eq 9."""
    times, h = time_grid(velocities.shape[0])
    sigma = noise_scale(times, h)[:, None, None]
    return jnp.sum(jnp.square(2.0 * (velocities - reference_velocities) / sigma + sigma * adjoint))


def path_kl(velocities: Points, reference_velocities: Points) -> Float[Array, ""]:
    """KL between the path measures of policy and reference: sum_w (2 h / sigma_w^2) || f - f_beta ||^2 (Girsanov)."""
    times, h = time_grid(velocities.shape[0])
    weight = 2.0 * h / jnp.square(noise_scale(times, h))[:, None, None]
    return jnp.sum(weight * jnp.square(velocities - reference_velocities))


def asked_kl(adjoint: Points) -> Float[Array, ""]:
    """The path-space KL of the velocities that make `matching_loss` zero, f = f_beta - sigma_w^2 g_w / 2.

    What the adjoint asks for before the policy has learned it; a policy, which averages over the paths through a point, follows
    with less.
    """
    times, h = time_grid(adjoint.shape[0])
    sigma = noise_scale(times, h)[:, None, None]
    return path_kl(-0.5 * jnp.square(sigma) * adjoint, jnp.zeros_like(adjoint))


# ---- loss ------------------------------------------------------------------------------------------------------------


def action_gradient(critic: Critic, observation: Observation, chunk: Chunk) -> Chunk:
    """grad_a of the heads' minimum at the clipped chunk: zero along coordinates outside [-1, 1]. Paper: Eq 10."""
    z = critic.encode(observation)
    return jax.grad(lambda a: jnp.min(critic.q(z, jnp.clip(a, -1.0, 1.0))))(chunk)


def bound(policy: Policy, context: Context) -> Velocity:
    """The policy's velocity under this context, in float32 whatever the network computes in.

    Path, adjoint and the difference of two velocities stay in float32: the difference is small, and is divided by sigma.
    """

    def velocity(a: Chunk, w: Float[Array, ""]) -> Chunk:
        return policy.velocity(context, a, w).astype(jnp.float32)

    return velocity


def reference_pass(
    reference: Velocity, path: Path, terminal: Chunk, times: Float[Array, " T"], config: QamConfig
) -> tuple[Points, Points]:
    """The lean adjoint, and the reference's velocities at the path's points, each evaluated once; no gradient."""
    adjoint, passed = _adjoint_and_velocities(reference, path.points, terminal, config.jacobian_time)
    if config.paths_from == "reference":
        velocities = path.velocities
    elif config.jacobian_time == "same":
        velocities = passed
    else:
        before = jax.vmap(reference)(path.points[:-1], times[:-1])
        velocities = jnp.concatenate([before, path.last_velocity[None]])
    return jax.lax.stop_gradient((adjoint, velocities))


class Matching(NamedTuple):
    """What one path gives Eq 9, or, each with a leading axis, a batch of paths.

    The adjoint is that of temperature 1, from `terminal`, the critic's gradient at `endpoint`: it is linear in 1 / lambda.
    """

    velocities: Points
    reference_velocities: Points
    adjoint: Points
    terminal: Chunk
    endpoint: Chunk


def one_matching(
    policy: Policy,
    reference: Policy,
    critic: Critic,
    observation: Observation,
    noise: Points,
    config: QamConfig,
    *,
    shared_prefix: bool = False,
) -> Matching:
    """One path of one observation, and what Eq 9 compares along it; gradients reach `policy` alone. Paper: Eq 8, 9, 10.

    Each network encodes the observation once, and every flow step reuses that.

    Args:
        policy: pi_theta.
        reference: pi_beta.
        critic: whose gradient ends the path.
        observation: s.
        noise: [T, H, A], see `memoryless_path`.
        config: schedule, conventions.
        shared_prefix: the two policies encode alike, and the policy's encoding is frozen: it serves the reference too.
    """
    context = policy.encode(observation)
    f = bound(policy, context)
    f_beta = bound(
        reference, jax.lax.stop_gradient(context) if shared_prefix else reference.encode(observation)
    )
    times, _ = time_grid(config.flow_steps)
    path = memoryless_path(f if config.paths_from == "policy" else f_beta, f_beta, noise)
    velocities = path.velocities if config.paths_from == "policy" else jax.vmap(f)(path.points, times)
    terminal = -action_gradient(critic, observation, path.endpoint)
    terminal = jax.lax.stop_gradient(terminal.astype(jnp.float32))
    adjoint, reference_velocities = reference_pass(f_beta, path, terminal, times, config)
    return Matching(velocities, reference_velocities, adjoint, terminal, path.endpoint)


def temperature_for(adjoint: Float[Array, "B T H A"], config: QamConfig) -> Float[Array, ""]:
    """The temperature of a batch, given its adjoints at temperature 1: the settings', or what `target_kl` asks for.

    The adjoint is linear in 1 / lambda, so the KL it asks for is proportional to 1 / lambda^2.
    """
    if config.target_kl is None:
        return jnp.asarray(config.temperature, jnp.float32)
    asked = jnp.mean(jax.vmap(asked_kl)(adjoint))
    return jnp.sqrt(jnp.maximum(asked, _LEAST_KL) / config.target_kl)


def batch_loss(batch: Matching, config: QamConfig) -> tuple[Float[Array, ""], Metrics]:
    """Eq 9 over a batch of paths, all with one temperature: mean loss and mean metrics, with the batch's largest adjoint."""
    velocities, reference_velocities, adjoint, terminal, endpoint = batch
    temperature = temperature_for(adjoint, config)
    adjoint = adjoint / temperature
    norms = jnp.linalg.norm(terminal, axis=(-2, -1)) / temperature
    loss = jnp.mean(jax.vmap(matching_loss)(velocities, reference_velocities, adjoint))
    return loss, {
        "policy/adjoint_matching_loss": loss,
        "policy/adjoint_norm": jnp.mean(norms),
        "policy/adjoint_norm_max": jnp.max(norms),
        "policy/asked_kl": jnp.mean(jax.vmap(asked_kl)(adjoint)),
        "policy/path_kl": jnp.mean(jax.vmap(path_kl)(velocities, reference_velocities)),
        "policy/saturated_share": jnp.mean(jnp.abs(endpoint) > 1.0),
        "policy/temperature": temperature,
    }


def adjoint_matching_loss(
    policy: Policy,
    reference: Policy,
    critic: Critic,
    observation: Observation,
    noise: Points,
    config: QamConfig,
    *,
    shared_prefix: bool = False,
) -> tuple[Float[Array, ""], Metrics]:
    """Eq 9 for one observation and one path; arguments as of `one_matching`. Paper: Eq 8, 9, 10."""
    one = one_matching(policy, reference, critic, observation, noise, config, shared_prefix=shared_prefix)
    return batch_loss(jax.tree.map(lambda x: x[None], one), config)


def policy_loss(
    policy: Policy,
    reference: Policy,
    critic: Critic,
    observation: Observation,
    chunk_shape: tuple[int, int],
    key: PRNGKeyArray,
    config: QamConfig,
    *,
    shared_prefix: bool = False,
) -> tuple[Float[Array, ""], Metrics]:
    """Eq 9, mean over a batch of observations with a path each. Paper: Eq 9."""
    size = jax.tree.leaves(observation)[0].shape[0]
    noise = jax.random.normal(key, (size, config.flow_steps, *chunk_shape))

    def one(seen: Observation, noise: Points) -> Matching:
        return one_matching(policy, reference, critic, seen, noise, config, shared_prefix=shared_prefix)

    return batch_loss(jax.vmap(one)(observation, noise), config)
