"""The human's seam: who demonstrates, and who takes over when a robot stalls."""

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


@dataclass(frozen=True, kw_only=True)
class TakeoverRule:
    """When an operator takes over from the policy, and when the policy gets the robot back.

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
