"""Flow matching (Section 3 of the paper): a^w = (1 - w) a^0 + w a^1, with w = 0 noise and w = 1 action.

Symbols: w flow time, T flow steps, h = 1 / T, f velocity.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from lwd.models.protocols import Policy
from lwd.transition import Observation

Velocity = Callable[[Float[Array, "H A"], Float[Array, ""]], Float[Array, "H A"]]
"""f(a^w, w) with the observation already bound."""


def time_grid(flow_steps: int) -> tuple[Float[Array, " T"], float]:
    """Flow times w_i = i h for i < T, and h. Sampling, path and adjoint all use this one grid."""
    h = 1.0 / flow_steps
    return jnp.arange(flow_steps) * h, h


def interpolate(
    noise: Float[Array, "H A"], action: Float[Array, "H A"], w: Float[Array, ""]
) -> Float[Array, "H A"]:
    """a^w on the straight line from noise to action."""
    return (1.0 - w) * noise + w * action


def flow_matching_loss(
    policy: Policy,
    observation: Observation,
    chunk: Float[Array, "H A"],
    valid: Bool[Array, " H"],
    key: PRNGKeyArray,
) -> Float[Array, ""]:
    """Squared error between the velocity and a^1 - a^0, mean over the valid steps of one chunk.

    Paper: Section 3, flow-matching objective of the behaviour-cloned reference.
    """
    k_noise, k_time = jax.random.split(key)
    noise = jax.random.normal(k_noise, chunk.shape)
    w = jax.random.uniform(k_time)
    velocity = policy.velocity(policy.encode(observation), interpolate(noise, chunk, w), w)
    error = jnp.mean(jnp.square(velocity - (chunk - noise)), axis=-1)
    return jnp.sum(error * valid) / jnp.maximum(jnp.sum(valid), 1)


def integrate(velocity: Velocity, noise: Float[Array, "H A"], flow_steps: int) -> Float[Array, "H A"]:
    """Euler integration of the flow's ODE from noise to action; not clipped."""
    times, h = time_grid(flow_steps)

    def step(a: Float[Array, "H A"], w: Float[Array, ""]) -> tuple[Float[Array, "H A"], None]:
        return a + h * velocity(a, w), None

    return jax.lax.scan(step, noise, times)[0]


def sample_chunk(
    policy: Policy, observation: Observation, noise: Float[Array, "H A"], flow_steps: int
) -> Float[Array, "H A"]:
    """The chunk that a robot executes: integrate the flow from this noise, clip to [-1, 1]."""
    context = policy.encode(observation)
    return jnp.clip(integrate(lambda a, w: policy.velocity(context, a, w), noise, flow_steps), -1.0, 1.0)


def draw_chunk(
    policy: Policy, observation: Observation, key: PRNGKeyArray, chunk_shape: tuple[int, int], flow_steps: int
) -> Float[Array, "H A"]:
    """`sample_chunk` from noise drawn with this key."""
    return sample_chunk(policy, observation, jax.random.normal(key, chunk_shape), flow_steps)
