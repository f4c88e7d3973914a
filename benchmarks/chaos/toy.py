"""The robot of the chaos run: a point on a line with many noisy sensors, so that an episode has 50 to 80 KB. No JAX."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lwd.episode import Outcome
from lwd.robot.environment import Environment, Sensed
from lwd.robot.operator import Operator
from lwd.robot.sim.fleet_spec import FleetSpec
from lwd.spec import RobotSpec, TaskSpec

HOLD, LEAVE = "hold", "leave"
CONTROL = "LWD_CHAOS_CONTROL"
"""Variable with a folder: while it holds a file `hold`, no episode begins, until there is a file `leave` too."""

SPEC = RobotSpec(name="chaos", proprio_dim=160, action_dim=2, control_hz=20.0, chunk_steps=10)
TASKS = {
    "near": TaskSpec(
        name="near", instruction="Walk a little.", milestones=("there",), time_limit_steps=80, horizon="short"
    ),
    "far": TaskSpec(
        name="far",
        instruction="Walk far.",
        milestones=("half", "there"),
        time_limit_steps=120,
        horizon="long",
    ),
}
GOAL = {"near": 1.0, "far": 2.0}


class Line:
    """A point: action[0] moves it by 0.1 at most. Every episode lasts to its time limit."""

    spec: RobotSpec = SPEC
    tasks: Mapping[str, TaskSpec] = TASKS

    def reset(self, task: str, seed: int) -> Sensed:
        """See `Environment.reset`."""
        _wait_while_held()
        self._task, self.seed, self._x, self._k, self._best = task, seed, 0.0, 0, 0.0
        self._rng = np.random.default_rng(seed)
        return self._sensed()

    def apply(self, action: NDArray[np.float32]) -> Sensed:
        """See `Environment.apply`."""
        self._x += 0.1 * float(action[0])
        self._best, self._k = max(self._best, self._x + 1e-6), self._k + 1
        return self._sensed()

    def outcome(self) -> Outcome | None:
        """See `Environment.outcome`."""
        if self._k < TASKS[self._task].time_limit_steps:
            return None
        return Outcome.SUCCESS if self._best >= GOAL[self._task] else Outcome.FAILURE

    def milestones_reached(self) -> int:
        """See `Environment.milestones_reached`."""
        total = len(TASKS[self._task].milestones)
        return min(total, int(self._best / GOAL[self._task] * total))

    def close(self) -> None:
        """See `Environment.close`."""

    def _sensed(self) -> Sensed:
        proprio = self._rng.standard_normal(SPEC.proprio_dim).astype(np.float32)
        proprio[0] = self._x
        return Sensed(proprio)


class Walker:
    """Operator: forward at one speed."""

    def __init__(self, name: str, speed: float) -> None:
        self.name, self._speed = name, speed

    def begin(self, task: str, seed: int) -> None:
        """See `Operator.begin`."""
        self._rng = np.random.default_rng(seed)

    def act(self) -> NDArray[np.float32]:
        """See `Operator.act`."""
        return np.array([self._speed, self._rng.uniform(-1, 1)], np.float32)


def build(spec: FleetSpec) -> tuple[Environment, dict[str, Operator]]:
    """The robot and its operators; `--environment benchmarks.chaos.toy:build`."""
    return Line(), {"expert": Walker("expert", 1.0), "play": Walker("play", 0.0)}


def _wait_while_held() -> None:
    folder = os.environ.get(CONTROL)
    if folder is None:
        return
    hold, leave = Path(folder) / HOLD, Path(folder) / LEAVE
    while hold.exists() and not leave.exists():
        time.sleep(0.1)
