"""Stage 3 as a user runs it: `lwd fleet up` starts coordinator, learner and robots, and shows the loop turning.

A method that cannot learn while robots collect (`OnlineStage.rounds`) takes turns with them instead.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console

from lwd.config import Experiment
from lwd.errors import ConfigError
from lwd.fleet.folder import RunFolder, open_services
from lwd.fleet.policies import find_snapshot
from lwd.fleet.process import FleetError
from lwd.fleet.program import run_online
from lwd.fleet.progress import progress
from lwd.fleet.rounds import run_rounds
from lwd.robot.control import Assignment
from lwd.robot.sim.describe import operators_of
from lwd.snapshot.store import Snapshot

Status = dict[str, dict[str, Any]]


def online(experiment: Experiment, folder: RunFolder, console: Console) -> Snapshot:
    """Run the fleet until its experience is collected; the learner's last snapshot is the result.

    Raises:
        ConfigError: the recipe has a takeover rule, and nobody can take over.
        SnapshotError: the earlier stages have not been run.
        FleetError: a process died; the run can be resumed.
    """
    name, there = Assignment.operator, operators_of(experiment.fleet.deployed)
    if experiment.online.takeover is not None and name not in there:
        raise ConfigError(
            f"recipe {experiment.name!r} has a takeover rule, but its robots have no operator {name!r}, who would take over. "
            "Add one, or set `OnlineStage.takeover` to None."
        )
    with open_services(folder) as services:
        find_snapshot(services, "offline", experiment)  # says what to run first, before any process starts
    run_stage = run_rounds if experiment.online.rounds else run_concurrently
    try:
        run_stage(experiment, folder, console)
    except FleetError:
        console.print(f"[red]the fleet stopped; its logs are in {folder.path / 'logs'}")
        raise
    with open_services(folder) as services:
        return find_snapshot(services, "online", experiment)


def run_concurrently(experiment: Experiment, folder: RunFolder, console: Console) -> None:
    """Learner and robots at the same time."""
    with progress(console, "LWD online (control steps)", experiment.online.control_steps) as bar:

        def watch(status: Status) -> None:
            bar.to(status["actor"].get("control_steps", 0), describe(status))

        run_online(experiment, folder, watch)


def describe(status: Status) -> str:
    """One line: how far the learner is, what the robots run, who waits for what."""
    learner, actor = status["learner"], status["actor"]
    parts = [f"learner step {learner.get('learner_step', 0)}", f"snapshot {learner.get('snapshot', '-')}"]
    if "last" in actor:
        parts.append(f"robots run {actor['last']['snapshot']}")
    for waiting, who in (("learner waits", learner), ("robots wait", actor)):
        if who.get("waits_for"):
            parts.append(f"{waiting} for {who['waits_for']}")
    return ", ".join(parts)
