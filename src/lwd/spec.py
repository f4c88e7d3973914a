"""What a robot is and what a task is: the two descriptions that every part of the loop agrees on."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal, get_args

from lwd.errors import ConfigError

Horizon = Literal["short", "long"]

MAX_STEPS = 100_000
"""Control steps of an episode."""
MAX_WIDTH = 65_536
"""Longest state or action vector."""
MAX_CAMERAS = 16
MAX_CONTROL_HZ = 1e6
MAX_PIXELS = 65_535
"""Largest height and width of a JPEG."""
MAX_TEXT_CHARS = 4096
TEXT = f"text of at most {MAX_TEXT_CHARS} characters without control characters and line breaks"

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What an episode id, a robot's name and a camera's name may be: they become keys, subjects and file names."""

_NO_TEXT = frozenset({"Cc", "Cs", "Zl", "Zp"})


def is_text(value: object) -> bool:
    """Whether it is TEXT: in any language. Line breaks would forge log lines, no database stores lone surrogates."""
    if not isinstance(value, str) or len(value) > MAX_TEXT_CHARS:
        return False
    return value.isprintable() or not any(unicodedata.category(sign) in _NO_TEXT for sign in value)


@dataclass(frozen=True, kw_only=True)
class CameraSpec:
    """One camera: its name, [A-Za-z0-9_-], and picture size in pixels; ConfigError if no episode could have it."""

    name: str
    height: int
    width: int

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ConfigError(
                f"camera name {self.name!r:.80} must be 1 to 64 of the characters [A-Za-z0-9_-]."
            )
        for field in ("height", "width"):
            _check_count(f"CameraSpec {self.name!r}", field, getattr(self, field), MAX_PIXELS)


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

    Raises:
        ConfigError: a value with which every episode would be refused.
    """

    name: str
    proprio_dim: int
    action_dim: int
    control_hz: float
    chunk_steps: int
    cameras: tuple[CameraSpec, ...] = ()

    def __post_init__(self) -> None:
        where = f"RobotSpec {self.name!r:.80}"
        _check_text(where, "name", self.name)
        for field, most in (
            ("proprio_dim", MAX_WIDTH),
            ("action_dim", MAX_WIDTH),
            ("chunk_steps", MAX_STEPS),
        ):
            _check_count(where, field, getattr(self, field), most)
        if not 0 < self.control_hz <= MAX_CONTROL_HZ:  # NaN is not, either
            raise ConfigError(
                f"{where}: control_hz must be positive and at most {MAX_CONTROL_HZ:g}, got {self.control_hz}."
            )
        names = [camera.name for camera in self.cameras]
        if len(names) > MAX_CAMERAS or len(set(names)) != len(names):
            raise ConfigError(
                f"{where}: cameras {', '.join(names)}; expected at most {MAX_CAMERAS}, each with a name of its own."
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

    Raises:
        ConfigError: a value with which every episode would be refused.
    """

    name: str
    instruction: str
    milestones: tuple[str, ...]
    time_limit_steps: int
    horizon: Horizon

    def __post_init__(self) -> None:
        where = f"TaskSpec {self.name!r:.80}"
        _check_text(where, "name", self.name)
        _check_text(where, "instruction", self.instruction)
        if not self.milestones:
            raise ConfigError(f"{where}: needs at least one milestone.")
        _check_count(where, "time_limit_steps", self.time_limit_steps, MAX_STEPS)
        if self.horizon not in get_args(Horizon):
            raise ConfigError(f"{where}: horizon is {self.horizon!r:.40}, expected short or long.")


def _check_text(where: str, field: str, value: str) -> None:
    if not is_text(value):
        raise ConfigError(f"{where}: {field} is {value!r:.80}, expected {TEXT}.")


def _check_count(where: str, field: str, value: int, most: int) -> None:
    if not 0 < value <= most or value % 1:  # a comparison with NaN is false
        raise ConfigError(f"{where}: {field} must be a positive integer of at most {most}, got {value}.")
