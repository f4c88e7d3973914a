"""What a robot is and what a task is: the two descriptions that every part of the loop agrees on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lwd.errors import ConfigError

Horizon = Literal["short", "long"]


@dataclass(frozen=True, kw_only=True)
class CameraSpec:
    """One camera: its name and picture size in pixels."""

    name: str
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class RobotSpec:
    """One kind of robot. Actions are normalised to [-1, 1] per coordinate.

    Attributes:
        name: the kind, e.g. "scene" or "metaworld"; written into every episode.
        proprio_dim: P, length of the state vector that the robot senses (with object poses in state tasks).
        action_dim: A, length of one action.
        control_hz: control steps per second.
        chunk_steps: H, control steps per action chunk, executed whole.
        cameras: what it sees; empty in state tasks.
    """

    name: str
    proprio_dim: int
    action_dim: int
    control_hz: float
    chunk_steps: int
    cameras: tuple[CameraSpec, ...] = ()

    def __post_init__(self) -> None:
        for field in ("proprio_dim", "action_dim", "control_hz", "chunk_steps"):
            if getattr(self, field) <= 0:
                raise ConfigError(
                    f"RobotSpec {self.name!r}: {field} must be positive, got {getattr(self, field)}."
                )


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """One task of the fleet.

    Attributes:
        name: short name for tables.
        instruction: the sentence the policy reads; the goal follows from it.
        milestones: ordered sub-steps; the stage score is milestones latched in order / total.
        time_limit_steps: control steps after which an unfinished attempt is judged a failure.
        horizon: "short" or "long", the two averages of the results table.
    """

    name: str
    instruction: str
    milestones: tuple[str, ...]
    time_limit_steps: int
    horizon: Horizon

    def __post_init__(self) -> None:
        if not self.milestones:
            raise ConfigError(f"TaskSpec {self.name!r}: needs at least one milestone.")
        if self.time_limit_steps <= 0:
            raise ConfigError(f"TaskSpec {self.name!r}: time_limit_steps must be positive.")
