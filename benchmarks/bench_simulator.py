"""Control steps per second of sixteen simulated robots in two worker processes, experts driving."""

from __future__ import annotations

import time

from lwd.episode import Source
from lwd.robot.control import Assignment
from lwd.robot.memory import MemoryRecorder
from lwd.robot.sim.fleet import SimFleet
from lwd.robot.sim.fleet_spec import FleetSpec
from lwd.robot.sim.metaworld_tasks import EIGHT_TASKS
from lwd.robot.sim.run import EpisodeReport, run

ROBOTS, WORKERS, EPISODES = 16, 2, 96


def main() -> dict[str, float]:
    results: dict[str, float] = {"robots": float(ROBOTS), "workers": float(WORKERS)}
    for tier, tasks in (("scene", None), ("metaworld", EIGHT_TASKS)):
        with SimFleet(FleetSpec(tier=tier, tasks=tasks), ROBOTS, WORKERS) as fleet:
            _steps(fleet, ROBOTS)  # models are compiled and loaded
            began = time.perf_counter()
            results[f"{tier}_control_steps_per_s"] = _steps(fleet, EPISODES) / (time.perf_counter() - began)
    return results


def _steps(fleet: SimFleet, episodes: int) -> int:
    tasks, total, given = list(fleet.tasks), 0, 0

    def assign(robot: int) -> Assignment | None:
        nonlocal given
        if given == episodes:
            return None
        given += 1
        return Assignment(task=tasks[given % len(tasks)], seed=given, source=Source.DEMO, driver="operator")

    def count(report: EpisodeReport) -> None:
        nonlocal total
        total += report.steps

    run(fleet, assign, lambda batch: _no_policy(), MemoryRecorder(), count)
    return total


def _no_policy() -> None:
    raise AssertionError("experts drive; nobody asks the policy")
