"""The whole system on one page: robot -> episode -> log -> replay -> learner -> snapshot -> robot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lwd.config import Experiment
from lwd.fleet.actor import run_actor
from lwd.fleet.coordinator import run_coordinator
from lwd.fleet.folder import RunFolder
from lwd.fleet.learner import run_learner
from lwd.fleet.process import ProcessSpec, RunningFleet
from lwd.fleet.supervisor import ONE_THREAD


def program(experiment: Experiment, folder: RunFolder) -> list[ProcessSpec]:
    """The fleet as processes that know one another only through log and snapshots (paper, Appendix D)."""
    arguments = (experiment, folder)
    return [
        # episodes -> catalogue -> manifests; the only singleton
        ProcessSpec("coordinator", run_coordinator, arguments),
        # manifests -> replay -> Algorithm 2 -> snapshots
        ProcessSpec("learner", run_learner, arguments, ONE_THREAD),
        # snapshots -> robots and operators -> episodes
        ProcessSpec("actor", run_actor, arguments, ONE_THREAD, ends_fleet=True),
    ]


def run_online(
    experiment: Experiment,
    folder: RunFolder,
    watch: Callable[[dict[str, dict[str, Any]]], None],
    *,
    learner: bool = True,
) -> None:
    """Start the fleet, watch it until the robots have collected their experience, stop it in the loop's order.

    Without `learner` it collects only: nothing learns meanwhile.

    Raises:
        FleetError: a process died.
    """
    logs = folder.path / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    specs = [spec for spec in program(experiment, folder) if learner or spec.name != "learner"]
    fleet = RunningFleet(specs, str(logs))
    try:
        while fleet.poll():
            watch(fleet.status)
            fleet.processes["actor"].join(0.2)
        # The last episodes are in a manifest before the learner ends.
        fleet.stop([spec.name for spec in specs if not spec.ends_fleet])
        watch(fleet.status)
    finally:
        fleet.kill()
