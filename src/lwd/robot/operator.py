"""The human's seam: who demonstrates, who takes over, and who decides when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lwd.errors import ConfigError


@runtime_checkable
class Operator(Protocol):
    """Someone who can command a robot from any state: a person at a leader arm, or a scripted expert.

    Their name is the key under which the robot's operators hold them; it is written into the episodes that they take part in.
    """

    def begin(self, task: str, seed: int) -> None:
        """Be ready to command this task from the present state; all randomness follows from the seed."""
        ...

    def act(self) -> NDArray[np.float32]:
        """The action [A] for the next control step, in [-1, 1]."""
        ...


@runtime_checkable
class GatingOperator(Operator, Protocol):
    """An operator who decides when to take the robot and when to give it back, such as a person with a button.

    What a `TakeoverRule` says of steps and numbers does not hold for them. It only has to be there: without one nobody may
    intervene, and nobody is asked. Nor are they asked in an episode that they drive from its beginning.
    """

    def wants_control(self) -> bool:
        """Whether the operator wants to command the next control step; must not wait for anybody.

        Asked before every control step that the policy would command, and after every one that the operator commanded. True
        takes over at that very step, in the middle of a chunk if need be. At the end of a round the latest answer counts: if
        it is False the policy gets the robot back, so until then `act` goes on being asked. An exception ends the episode
        without a verdict, as one in `act` does.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class TakeoverRule:
    """When an operator takes over from the policy, and when the policy gets the robot back.

    A `GatingOperator` may intervene where there is a rule, and decides alone: its numbers are not applied to them.

    Attributes:
        stall_steps: control steps without a new milestone after which the operator takes over.
        max_steps: the operator hands back after this many steps even without a new milestone.
        max_takeovers: per episode; afterwards the policy is left alone until the time limit.
    """

    stall_steps: int = 100
    max_steps: int = 150
    max_takeovers: int = 3

    def __post_init__(self) -> None:
        if min(self.stall_steps, self.max_steps) < 1 or self.max_takeovers < 0:
            raise ConfigError(
                "TakeoverRule: stall_steps and max_steps must be at least 1 and max_takeovers at least 0, got "
                f"{self.stall_steps}, {self.max_steps}, {self.max_takeovers}."
            )
