"""The seam between `lwd` and any robot, simulated or real: five methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lwd.episode import Outcome
from lwd.spec import RobotSpec, TaskSpec


@dataclass(frozen=True)
class Sensed:
    """What a robot senses at one control step.

    Attributes:
        proprio: float32 [P].
        images: camera name -> JPEG bytes; empty in state tasks.
        at: when the oldest part of it was sensed, by `time.monotonic()` of this computer; None: when it was returned. Only an
            action guard with `GuardLimits.stale_s` looks at it.
    """

    proprio: NDArray[np.float32]
    images: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    at: float | None = None


@runtime_checkable
class Environment(Protocol):
    """A robot with its workspace. One instance runs one episode at a time."""

    @property
    def spec(self) -> RobotSpec:
        """The kind of robot."""
        ...

    @property
    def tasks(self) -> Mapping[str, TaskSpec]:
        """The tasks it can be asked to do, by name."""
        ...

    def reset(self, task: str, seed: int) -> Sensed:
        """Begin an episode; the same task and seed begin the same episode.

        Raises:
            UnknownNameError: no such task.
        """
        ...

    def apply(self, action: NDArray[np.float32]) -> Sensed:
        """Execute one control step with an action [A] in [-1, 1] and sense again."""
        ...

    def outcome(self) -> Outcome | None:
        """None while the attempt runs; then its verdict (a time limit reached is a failure)."""
        ...

    def milestones_reached(self) -> int:
        """How many milestones of the task are latched so far."""
        ...

    def close(self) -> None:
        """Release the robot or simulator."""
        ...


@runtime_checkable
class HoldingEnvironment(Environment, Protocol):
    """A robot that can be told to stop and stay, whatever its control loop is doing; an action guard calls it."""

    def hold(self) -> None:
        """Stop, and stay until the next `reset`; called from another thread too, while `apply` runs. Must not wait for it.

        The guard sends no further command in the episode. An exception is logged.
        """
        ...
