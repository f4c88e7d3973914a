"""Statistics of proprio: part of every policy and critic, because a policy without them is another policy."""

from __future__ import annotations

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lwd.transition import Observation

Statistics = Literal["mean_std", "quantile"]
"""How a coordinate is scaled: to mean 0 and deviation 1, or its 1st and 99th percentile to -1 and 1 (published pi0.5)."""


class Normalizer(eqx.Module):
    """Per-coordinate mean and scale of proprio; never trained."""

    mean: Float[Array, " P"]
    scale: Float[Array, " P"]

    def __call__(self, proprio: Float[Array, " P"]) -> Float[Array, " P"]:
        """Standardise, clipped to +-10 so that a sensor spike cannot saturate the network. Never trained."""
        mean, scale = jax.lax.stop_gradient((self.mean, self.scale))
        return jnp.clip((proprio - mean) / scale, -10.0, 10.0)

    def observe(self, observation: Observation) -> Float[Array, " Z"]:
        """Standardised proprio and instruction in one vector: what every MLP here sees."""
        return jnp.concatenate([self(observation.proprio), observation.instruction])

    @staticmethod
    def identity(dim: int) -> Normalizer:
        """Mean 0 and scale 1."""
        return Normalizer(jnp.zeros(dim), jnp.ones(dim))

    @staticmethod
    def quantiles(low: Float[Array, " P"], high: Float[Array, " P"]) -> Normalizer:
        """`low` to -1 and `high` to 1, as published: 2 (x - low) / (high - low + 1e-6) - 1."""
        scale = (high - low + 1e-6) / 2.0
        return Normalizer(low + scale, scale)
