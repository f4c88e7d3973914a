"""How fast the learner may run against the fleet: one named, validated number, and never a silent wait.

The quantity is learner steps per new control step (Reverb's samples per insert, divided by the batch). Above it the learner
would over-train on few episodes; far below it the robots would collect with a policy that has not learned from what is there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lwd.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class RateLimit:
    """The rate and its slack.

    Attributes:
        learner_steps_per_control_step: the ratio that holds on average.
        learner_slack_steps: learner steps the learner may be ahead of the ratio.
        actor_slack_steps: learner steps that the fleet may be ahead of the learner before robots wait at an episode boundary.
        control_steps_before_learning: fleet experience before the first learner step.
    """

    learner_steps_per_control_step: float
    learner_slack_steps: int = 100
    actor_slack_steps: int = 500
    control_steps_before_learning: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.learner_steps_per_control_step < math.inf:
            raise ConfigError(
                "RateLimit.learner_steps_per_control_step must be positive and finite, got "
                f"{self.learner_steps_per_control_step}."
            )
        if self.learner_slack_steps < 1 or self.actor_slack_steps < 1:
            raise ConfigError(
                "RateLimit: both slacks must be at least 1 learner step, or learner and fleet would wait for each other."
            )
        if self.control_steps_before_learning < 0:
            raise ConfigError("RateLimit.control_steps_before_learning must not be negative.")
        needed = self.control_steps_before_learning * self.learner_steps_per_control_step
        if needed > self.actor_slack_steps:
            raise ConfigError(
                f"RateLimit: the fleet may be {self.actor_slack_steps} learner steps ahead, but the learner starts only after "
                f"{self.control_steps_before_learning} control steps, worth {needed:.0f}: both would wait for ever. "
                "Raise actor_slack_steps or lower control_steps_before_learning."
            )

    def allowed_learner_steps(self, control_steps: int) -> int:
        """Online learner steps that may have been done once the fleet has delivered `control_steps`."""
        if control_steps < self.control_steps_before_learning:
            return 0
        return int(control_steps * self.learner_steps_per_control_step) + self.learner_slack_steps

    def learner_waits_for(self, learner_steps: int, block_steps: int, control_steps: int) -> str | None:
        """Why the learner may not run its next block yet, None if it may."""
        if learner_steps + block_steps <= self.allowed_learner_steps(control_steps):
            return None
        if control_steps < self.control_steps_before_learning:
            return (
                f"the fleet has delivered {control_steps} of {self.control_steps_before_learning} control steps "
                "before learning begins"
            )
        missing = learner_steps + block_steps - self.allowed_learner_steps(control_steps)
        return (
            f"{missing / self.learner_steps_per_control_step:.0f} more control steps "
            f"(at {learner_steps} learner steps for {control_steps} control steps)"
        )

    def fleet_waits_for(self, learner_steps: int, control_steps: int) -> str | None:
        """Why no robot may begin an episode yet, None if it may."""
        ahead = control_steps * self.learner_steps_per_control_step - learner_steps
        if ahead <= self.actor_slack_steps:
            return None
        return (
            f"the learner, which is {ahead:.0f} learner steps behind "
            f"(at {learner_steps} for {control_steps} control steps; {self.actor_slack_steps} allowed)"
        )
