"""LWD without QAM: the policy stays the reference, and the critic chooses among several of its chunks on the robot."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import PRNGKeyArray

from lwd.learner.best_of_n import ChoosingRobots
from lwd.learner.method import from_scratch, go_on
from lwd.learner.stages import Update, critic_stage
from lwd.learner.state import LearnerState
from lwd.models.networks import Networks
from lwd.models.protocols import LearnedPolicy


@dataclass(frozen=True, kw_only=True)
class BestOfN(ChoosingRobots):
    """DIVL for value and critic; nothing trains the policy, so `policy`, `qam` and `policy_batch` are not read."""

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
