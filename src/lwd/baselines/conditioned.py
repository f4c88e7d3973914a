"""A flow policy that is told whether the action it is to make is better than usual: RECAP's advantage conditioning."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from lwd.learner.flow import integrate
from lwd.models.mlp import MlpPolicy
from lwd.transition import Observation

NEGATIVE, POSITIVE = 0, 1
"""Rows of `AdvantagePolicy.embedding`. Without an indicator nothing is added: that is the plain policy."""


class Told(eqx.Module):
    """A policy under one indicator; a `Policy`. The indicator enters beside the observation, in the first pre-activation."""

    base: MlpPolicy
    embedding: Float[Array, " width"]

    def encode(self, observation: Observation) -> Float[Array, " width"]:
        """The plain policy's context, shifted by the indicator's embedding."""
        return self.base.encode(observation) + self.embedding

    def velocity(
        self, context: Float[Array, " width"], a_w: Float[Array, "H A"], w: Float[Array, ""]
    ) -> Float[Array, "H A"]:
        """The plain policy's velocity under that context."""
        return self.base.velocity(context, a_w, w)


class AdvantagePolicy(eqx.Module):
    """A flow policy with an embedding per indicator; acts as if told "positive", a `ChunkSampler`.

    With embeddings of zero it is its base, whatever it is told.
    """

    base: MlpPolicy
    embedding: Float[Array, "2 width"]
    guidance: float = eqx.field(static=True)

    def told(self, positive: Bool[Array, ""] | Int[Array, ""], kept: Bool[Array, ""]) -> Told:
        """The policy under this indicator, or without one where it is not kept."""
        return Told(self.base, jnp.where(kept, self.embedding[positive.astype(jnp.int32)], 0.0))

    def sample(
        self, observation: Observation, key: PRNGKeyArray, chunk_shape: tuple[int, int], flow_steps: int
    ) -> Float[Array, "H A"]:
        """Integrate the guided velocity from noise, clip to [-1, 1]."""
        without = self.base.encode(observation)
        told = without + self.embedding[POSITIVE]

        def velocity(a: Float[Array, "H A"], w: Float[Array, ""]) -> Float[Array, "H A"]:
            conditional = self.base.velocity(told, a, w)
            if self.guidance == 1.0:  # static: half the work where nothing is extrapolated
                return conditional
            return guided(self.base.velocity(without, a, w), conditional, self.guidance)

        noise = jax.random.normal(key, chunk_shape)
        return jnp.clip(integrate(velocity, noise, flow_steps), -1.0, 1.0)


def guided(
    without: Float[Array, "H A"], conditional: Float[Array, "H A"], strength: float
) -> Float[Array, "H A"]:
    """Classifier-free guidance: f + strength (f_told - f). 0 ignores the indicator, 1 obeys it, more exaggerates it."""
    return without + strength * (conditional - without)


def unconditioned(base: MlpPolicy, guidance: float) -> AdvantagePolicy:
    """A policy that has not learned yet what the indicator means."""
    return AdvantagePolicy(base, jnp.zeros((2, base.observe.bias.shape[0])), guidance)
