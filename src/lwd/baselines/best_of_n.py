"""LWD without QAM: the policy stays the reference, and the critic chooses among several of its chunks on the robot."""

from __future__ import annotations

from dataclasses import dataclass

from lwd.learner.best_of_n import ChoosingRobots
from lwd.learner.stages import Update, critic_stage
from lwd.learner.state import LearnerState
from lwd.models.protocols import LearnedPolicy


@dataclass(frozen=True, kw_only=True)
class BestOfN(ChoosingRobots):
    """DIVL for value and critic; the policy stays the reference, so `policy`, `qam` and `policy_batch` are not read."""

    def warm_up(self, reference: LearnedPolicy) -> Update[LearnerState]:
        """Value and critic."""
        return critic_stage(self)

    def update(self, reference: LearnedPolicy) -> Update[LearnerState]:
        """Value and critic, as in the warm-up."""
        return critic_stage(self)
