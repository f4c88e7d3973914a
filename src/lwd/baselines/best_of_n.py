"""LWD without QAM: the policy stays the reference, and the critic chooses among several of its chunks on the robot."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import PRNGKeyArray

from lwd.errors import ConfigError
from lwd.learner.best_of_n import BestOfNPolicy
from lwd.learner.method import Acting, from_scratch, go_on
from lwd.learner.stages import Update, critic_stage
from lwd.learner.state import LearnerConfig, LearnerState
from lwd.models.networks import Networks
from lwd.models.protocols import LearnedPolicy
from lwd.models.vla.lora import merged


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

    def start(self, reference: LearnedPolicy, model: Networks, key: PRNGKeyArray) -> LearnerState:
        """As LWD: value and critic from scratch; the policy is the reference and stays it."""
        return from_scratch(self, reference, model, key, self.divl.atoms)

    def continued(self, reference: LearnedPolicy, state: LearnerState) -> LearnerState:
        """Fresh optimisers on the same networks."""
        return go_on(self, reference, state)

    def warm_up(self, reference: LearnedPolicy) -> Update[LearnerState]:
        """Value and critic."""
        return critic_stage(self)

    def update(self, reference: LearnedPolicy) -> Update[LearnerState]:
        """Value and critic, as in the warm-up."""
        return critic_stage(self)

    def acting(self, state: LearnerState) -> Acting:
        """The reference with the target critic beside it."""
        return BestOfNPolicy(merged(state.acting_policy), state.target, self.n)
