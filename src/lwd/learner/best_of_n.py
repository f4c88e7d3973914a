"""Robots that draw several chunks and execute the one that the critic values most.

An option of LWD beyond the paper (`BestOfNLwd`, `BestOfNRefitLwd`), and half of the baseline without QAM
(`lwd.baselines.best_of_n`).
"""

from __future__ import annotations

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lwd.errors import ConfigError
from lwd.learner.divl import pessimistic_q
from lwd.learner.flow import draw_chunk
from lwd.learner.method import Acting, ActorCritic, Lwd
from lwd.learner.refit import RefitLwd, RefitState
from lwd.learner.state import LearnerConfig, LearnerState
from lwd.models.normalizer import Normalizer
from lwd.models.protocols import LearnedCritic, LearnedPolicy
from lwd.models.vla.lora import merged
from lwd.transition import Observation


class BestOfNPolicy(eqx.Module):
    """Draws `n` chunks from a flow policy and executes the one that the critic values most; a `ChunkSampler`."""

    policy: LearnedPolicy
    critic: LearnedCritic
    n: int = eqx.field(static=True)

    @property
    def normalizer(self) -> Normalizer:
        """The policy's."""
        return self.policy.normalizer

    def sample(
        self, observation: Observation, key: PRNGKeyArray, chunk_shape: tuple[int, int], flow_steps: int
    ) -> Float[Array, "H A"]:
        """The best of n chunks by the minimum of the critic's heads."""

        def draw(key: PRNGKeyArray) -> Float[Array, "H A"]:
            return draw_chunk(self.policy, observation, key, chunk_shape, flow_steps)

        chunks = jax.vmap(draw)(jax.random.split(key, self.n))
        values = jax.vmap(pessimistic_q, (None, None, 0))(self.critic, observation, chunks)
        return chunks[jnp.argmax(values)]


@dataclass(frozen=True, kw_only=True)
class Choosing(LearnerConfig):
    """The setting of a method whose robots choose among chunks.

    Attributes:
        n: chunks to choose from. Robots carry the target critic as well as the policy.
    """

    n: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n < 1:
            raise ConfigError(f"{type(self).__name__}.n must be at least 1, got {self.n}.")

    def chooser(self, state: LearnerState) -> BestOfNPolicy:
        """The averaged policy with the target critic beside it."""
        return BestOfNPolicy(merged(state.acting_policy), state.target, self.n)


@dataclass(frozen=True, kw_only=True)
class ChoosingRobots(Choosing, ActorCritic):
    """The part of a method on `LearnerState` whose robots choose among chunks."""

    def acting(self, state: LearnerState) -> Acting:
        """The averaged policy with the target critic beside it."""
        return self.chooser(state)


@dataclass(frozen=True, kw_only=True)
class BestOfNLwd(ChoosingRobots, Lwd):
    """LWD whose robots choose among chunks of the trained policy. Decision record 0027."""


@dataclass(frozen=True, kw_only=True)
class BestOfNRefitLwd(Choosing, RefitLwd):
    """Both options: the reference is refitted, and robots choose among chunks of the policy. Decision record 0032."""

    def acting(self, state: RefitState) -> Acting:
        """As `BestOfNLwd`."""
        return self.chooser(state.lwd)
