"""How a scripted expert moves: the weaknesses that make its demonstrations human-like, drawn per episode from the seed.

They are weaknesses of choice (hesitation, slowness, detours, wrong first tries), which a clone copies and which an agent
that learns from outcomes can drop; they are not lack of precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lwd.errors import ConfigError

_DETOUR_STEPS = 40


@dataclass(frozen=True, kw_only=True)
class ExpertStyle:
    """Ranges are (low, high), drawn uniformly once per episode unless said otherwise.

    Attributes:
        noise: standard deviation of the gaussian noise on every action coordinate. Keep the low end above 0.1: without
            noise the scripted expert can lock up in a limit cycle.
        speed: factor on the translation commands; (1, 1) is as fast as the expert can.
        pause_probability: chance per control step to begin to hold still.
        pause_steps: length of each pause in control steps.
        detour_probability: chance per primitive (reach, press, pull ...) to visit a random waypoint on the way.
        mistake_probability: chance per primitive to press a wrong button, or go to a wrong object, first.
    """

    noise: tuple[float, float] = (0.1, 0.2)
    speed: tuple[float, float] = (1.0, 1.0)
    pause_probability: float = 0.0
    pause_steps: tuple[int, int] = (5, 15)
    detour_probability: float = 0.0
    mistake_probability: float = 0.0

    def __post_init__(self) -> None:
        for name in ("noise", "speed", "pause_steps"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise ConfigError(
                    f"ExpertStyle: {name} must be (low, high) with 0 <= low <= high, got {(low, high)}."
                )
        if self.speed[0] == 0:
            raise ConfigError("ExpertStyle: speed must be positive, or nothing ever moves.")
        for name in ("pause_probability", "detour_probability", "mistake_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"ExpertStyle: {name} must be within 0 and 1, got {getattr(self, name)}.")


EXPERT = ExpertStyle()
"""As good as the script is; what takes over from a stalled policy."""
HUMANLIKE = ExpertStyle(
    noise=(0.1, 0.25),
    speed=(0.5, 0.9),
    pause_probability=0.015,
    pause_steps=(5, 15),
    detour_probability=0.2,
    mistake_probability=0.1,
)
"""What demonstrations are taken with."""


class Hand:
    """Turns the commands that an expert intends into the commands that it gives, for one episode."""

    def __init__(self, style: ExpertStyle, rng: np.random.Generator) -> None:
        self._style, self._rng = style, rng
        self._noise, self._speed = float(rng.uniform(*style.noise)), float(rng.uniform(*style.speed))
        self._pause = 0
        self._waypoint: NDArray[np.float64] | None = None
        self._detour_in, self._detour_left = 0, 0
        self._grip = 0.0

    @property
    def pausing(self) -> bool:
        """Whether it holds still at the moment."""
        return self._pause > 0

    def go_round_by(self, waypoint: NDArray[np.float64]) -> None:
        """Visit a waypoint [3] (m) now, before going on."""
        self._waypoint, self._detour_in, self._detour_left = waypoint, 0, _DETOUR_STEPS // 2

    def new_primitive(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> None:
        """A new primitive begins; decide whether it gets a detour, to where in the box [3], [3] (m), and when."""
        self._waypoint = None
        if self._rng.random() < self._style.detour_probability:
            self._waypoint = self._rng.uniform(low, high)
            self._detour_in, self._detour_left = int(self._rng.integers(0, 12)), _DETOUR_STEPS

    def move(
        self, intended: NDArray[np.float64], gripper: NDArray[np.float64], reach_m: float
    ) -> NDArray[np.float64]:
        """The command given, within [-1, 1].

        Args:
            intended: [A] in [-1, 1]; the first three coordinates translate, the last one grips.
            gripper: [3] its position (m).
            reach_m: translation (m) that a command of 1 asks for.
        """
        if self._pause == 0 and self._rng.random() < self._style.pause_probability:
            self._pause = int(self._rng.integers(self._style.pause_steps[0], self._style.pause_steps[1] + 1))
        if self._pause > 0:
            self._pause -= 1
            still = np.zeros_like(intended)
            still[-1] = self._grip  # a relative grip of 0 would let go of what it holds
            return still
        command = self._detour(intended.copy(), gripper, reach_m)
        command[:3] *= self._speed
        self._grip = float(command[-1])
        return np.clip(command + self._noise * self._rng.standard_normal(command.shape), -1.0, 1.0)

    def _detour(
        self, command: NDArray[np.float64], gripper: NDArray[np.float64], reach_m: float
    ) -> NDArray[np.float64]:
        if self._waypoint is None:
            return command
        if self._detour_in > 0:
            self._detour_in -= 1
            return command
        way = self._waypoint - gripper
        self._detour_left -= 1
        if self._detour_left <= 0 or float(np.linalg.norm(way)) < reach_m:
            self._waypoint = None
            return command
        command[:3], command[3:-1], command[-1] = np.clip(way / reach_m, -1.0, 1.0), 0.0, self._grip
        return command
