"""The seam between a learning method and the loop around it: LWD is one value of it, `lwd.baselines` holds the others.

A method brings its state and its learner step. Replay, stages, checkpoints, fleet, snapshots and evaluation are the same for
all, so that a comparison compares methods and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float, PRNGKeyArray

from lwd.learner.augment import AugmentConfig
from lwd.learner.flow import draw_chunk
from lwd.learner.stages import Update, critic_stage, rl_stage
from lwd.learner.state import LearnerConfig, LearnerState, init_state, with_fresh_optimizers
from lwd.learner.trainable import check_shared_prefix
from lwd.models.networks import Networks
from lwd.models.protocols import ChunkSampler, LearnedPolicy, Policy
from lwd.models.vla.lora import merged
from lwd.transition import Observation

Acting = Policy | ChunkSampler
"""What a robot runs: a flow policy as it is, or a module that makes chunks in a way of its own."""


@runtime_checkable
class Method(Protocol):
    """A learning method with its settings: a frozen dataclass. State is a pytree whose `step` counts learner steps.

    Every stage that uses the method calls `start` once (also for a template to read checkpoints into) and then runs the
    updates in blocks. What `acting` returns is published as a snapshot and must keep its structure throughout a stage.
    """

    @property
    def batch(self) -> int:
        """Transitions per learner step."""
        ...

    @property
    def augment(self) -> AugmentConfig | None:
        """Of the pictures that its learner steps see, applied around them by the stage; None for none."""
        ...

    def start(self, reference: LearnedPolicy, model: Networks, key: PRNGKeyArray) -> Any:
        """The state that offline learning starts from, given the cloned policy."""
        ...

    def continued(self, reference: LearnedPolicy, state: Any) -> Any:
        """What the method has learned, at learner step 0 of new schedules: how a later stage starts."""
        ...

    def warm_up(self, reference: LearnedPolicy) -> Update[Any]:
        """The learner step of the first `critic_steps` of the offline stage."""
        ...

    def update(self, reference: LearnedPolicy) -> Update[Any]:
        """The learner step after that, and online."""
        ...

    def acting(self, state: Any) -> Acting:
        """What robots run when this state is published."""
        ...


def from_scratch(
    config: LearnerConfig, reference: LearnedPolicy, model: Networks, key: PRNGKeyArray, atoms: int
) -> LearnerState:
    """Policy from the reference, a new value (of so many outputs) and critic. Paper: Algorithm 1."""
    return init_state(config, reference, model.make_critic(key, reference.normalizer, atoms))


def go_on(config: LearnerConfig, reference: LearnedPolicy, state: LearnerState) -> LearnerState:
    """Fresh optimisers on the same networks, with what the new configuration trains of them.

    Raises:
        ConfigError: policy and reference are to share an encoding, and their backbones differ.
    """
    fresh = with_fresh_optimizers(config, state)
    check_shared_prefix(config.trainable, reference, fresh.policy)
    return fresh


@dataclass(frozen=True, kw_only=True)
class ActorCritic(LearnerConfig):
    """What methods on `LearnerState` share: how it begins, how it goes on, what of it acts. The learner steps are theirs."""

    @property
    def value_outputs(self) -> int:
        """Numbers that the value gives for a state."""
        return self.divl.atoms

    def start(self, reference: LearnedPolicy, model: Networks, key: PRNGKeyArray) -> LearnerState:
        """Policy from the reference, value and critic from scratch. Paper: Algorithm 1."""
        return from_scratch(self, reference, model, key, self.value_outputs)

    def continued(self, reference: LearnedPolicy, state: LearnerState) -> LearnerState:
        """Fresh optimisers on the same networks."""
        return go_on(self, reference, state)

    def acting(self, state: LearnerState) -> Acting:
        """The averaged policy, adapters merged."""
        return merged(state.acting_policy)


@dataclass(frozen=True, kw_only=True)
class Lwd(ActorCritic):
    """Learning While Deploying: DIVL for the value, QAM for the policy. Paper: Algorithm 2."""

    def warm_up(self, reference: LearnedPolicy) -> Update[LearnerState]:
        """Value and critic alone."""
        return critic_stage(self)

    def update(self, reference: LearnedPolicy) -> Update[LearnerState]:
        """Algorithm 2."""
        return rl_stage(self, reference)


def act(
    acting: Acting,
    observation: Observation,
    key: PRNGKeyArray,
    chunk_shape: tuple[int, int],
    flow_steps: int,
) -> Float[Array, "H A"]:
    """The chunk that a robot executes, for one observation; all randomness follows from `key`."""
    if isinstance(acting, ChunkSampler):
        return acting.sample(observation, key, chunk_shape, flow_steps)
    return draw_chunk(acting, observation, key, chunk_shape, flow_steps)
