"""LWD without QAM: the policy stays the reference, and the critic chooses among several of its chunks on the robot."""

from __future__ import annotations

from dataclasses import dataclass, replace

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lwd.errors import ConfigError
from lwd.learner.divl import pessimistic_q
from lwd.learner.flow import draw_chunk
from lwd.learner.method import Acting, from_scratch
from lwd.learner.stages import Update, critic_stage
from lwd.learner.state import LearnerConfig, LearnerState, with_fresh_optimizers
from lwd.models.mlp import MlpConfig, MlpCritic, MlpPolicy
from lwd.transition import Observation


class BestOfNPolicy(eqx.Module):
    """Draws `n` chunks from a flow policy and executes the one that the critic values most; a `ChunkSampler`."""

    policy: MlpPolicy
    critic: MlpCritic
    n: int = eqx.field(static=True)

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
class BestOfN(LearnerConfig):
    """DIVL for value and critic; nothing trains the policy, so `policy`, `qam` and `policy_batch` are not read.

    Attributes:
        n: chunks to choose from. Robots carry the target critic as well as the policy.
    """

    n: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n < 1:
            raise ConfigError(f"BestOfN.n must be at least 1, got {self.n}.")

    def start(self, reference: MlpPolicy, model: MlpConfig, key: PRNGKeyArray) -> LearnerState:
        """As LWD: value and critic from scratch; the policy is the reference and stays it."""
        return from_scratch(self, reference, replace(model, atoms=self.divl.atoms), key)

    def continued(self, reference: MlpPolicy, state: LearnerState) -> LearnerState:
        """Fresh optimisers on the same networks."""
        return with_fresh_optimizers(self, state)

    def warm_up(self, reference: MlpPolicy) -> Update[LearnerState]:
        """Value and critic."""
        return critic_stage(self)

    def update(self, reference: MlpPolicy) -> Update[LearnerState]:
        """Value and critic, as in the warm-up."""
        return critic_stage(self)

    def acting(self, state: LearnerState) -> Acting:
        """The reference with the target critic beside it."""
        return BestOfNPolicy(state.acting_policy, state.target, self.n)
