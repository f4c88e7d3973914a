"""What the action guard costs per control step: 14 coordinates, bounds, rates, rate changes and the watchdog.

Processor time of one thread per command, least of twenty episodes of 500: for commands that all pass, and for ones that are all
changed. Beside it what a control step at 30 Hz has, and what the smallest useful check, clipping to the bounds, takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from benchmarks.processor_time import least_cpu_s
from lwd.episode import Outcome
from lwd.robot.environment import Sensed
from lwd.robot.guard import Guard
from lwd.robot.guard_limits import GuardLimits
from lwd.spec import RobotSpec, TaskSpec

SPEC = RobotSpec(name="bench", proprio_dim=32, action_dim=14, control_hz=30.0, chunk_steps=30)
LIMITS = GuardLimits(
    low=-0.9, high=0.9, rate_per_s=6.0, rate_change_per_s2=120.0, hold=0.0, patience_s=None, silence_s=5.0
)
STEPS, REPEATS = 500, 20
Commands = NDArray[np.float32]


class Standing:
    """A robot that does nothing."""

    spec = SPEC
    tasks: Mapping[str, TaskSpec] = {}

    def reset(self, task: str, seed: int) -> Sensed:
        """Stands already."""
        return Sensed(np.zeros(SPEC.proprio_dim, np.float32))

    def apply(self, action: Commands) -> Sensed:
        """Stands."""
        return Sensed(np.zeros(SPEC.proprio_dim, np.float32))

    def outcome(self) -> Outcome | None:
        """Never over."""
        return None

    def milestones_reached(self) -> int:
        """None."""
        return 0

    def hold(self) -> None:
        """Stands."""

    def close(self) -> None:
        """Holds nothing."""


def main() -> dict[str, float]:
    time_s = np.arange(STEPS) / SPEC.control_hz
    calm = np.repeat(0.5 * np.sin(2.0 * time_s)[:, None], SPEC.action_dim, axis=1).astype(np.float32)
    wild = np.random.default_rng(0).uniform(-1.0, 1.0, calm.shape).astype(np.float32)
    guard = Guard(LIMITS, Standing())
    passed, changed = (_guarded_us(guard, commands) for commands in (calm, wild))
    clipped = _least_us(lambda: [np.clip(command, -0.9, 0.9) for command in calm])
    return {
        "coordinates": SPEC.action_dim,
        "passed_cpu_us": passed[0],
        "passed_changed_steps": passed[1],
        "changed_cpu_us": changed[0],
        "changed_changed_steps": changed[1],
        "clip_cpu_us": clipped,
        "of_a_control_step_share": changed[0] * 1e-6 * SPEC.control_hz,
    }


def _guarded_us(guard: Guard, commands: Commands) -> tuple[float, int]:
    """Microseconds per command, and how many of an episode's commands were changed."""

    def episode() -> None:
        guard.begin()
        for command in commands:
            guard.command(command, stale=False, operated=False)
        guard.end(judged=True)

    return _least_us(episode), len(guard.events)


def _least_us(work: Callable[[], object]) -> float:
    return 1e6 * least_cpu_s(work, REPEATS) / STEPS


if __name__ == "__main__":
    print(main())
