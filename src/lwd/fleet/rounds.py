"""Stage 3 in turns: collect with the newest policy, then learn on everything, `OnlineStage.rounds` times.

For methods that do not learn while robots collect, such as RECAP. Robots, operators, recording and counting are the same
processes as ever, started without the learner; what a round learns is in `lwd.fleet.learner_rounds`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rich.console import Console

from lwd.config import Experiment
from lwd.fleet.folder import RunFolder, open_services
from lwd.fleet.learner_rounds import rounds_published, train_round
from lwd.fleet.program import run_online
from lwd.fleet.progress import progress


def run_rounds(experiment: Experiment, folder: RunFolder, console: Console) -> None:
    """All rounds that have not published yet. A round that was cut goes on: in its collection, or from its checkpoint.

    Raises:
        FleetError: a process died while collecting; the run can be resumed.
    """
    with open_services(folder) as services:
        done = len(rounds_published(services, experiment))
    for number in range(done + 1, experiment.online.rounds + 1):
        collect_round(experiment, folder, number, console)
        with open_services(folder) as services:
            train_round(experiment, services, number, console)


def collect_round(experiment: Experiment, folder: RunFolder, number: int, console: Console) -> None:
    """The fleet alone, until this round's part of the experience is in a manifest."""
    x = collection_of(experiment, number)
    with progress(console, f"collect round {number}", x.online.control_steps) as bar:

        def watch(status: dict[str, dict[str, Any]]) -> None:
            actor = status["actor"]
            driven = f"robots run {actor['last']['snapshot']}" if "last" in actor else ""
            bar.to(actor.get("control_steps", 0), driven)

        run_online(x, folder, watch, learner=False)


def collection_of(experiment: Experiment, number: int) -> Experiment:
    """The experiment as the robots see it in this round: it ends earlier, and nobody waits for a learner that does not run."""
    online = experiment.online
    until = online.control_steps * number // online.rounds
    behind = int(until * online.rate.learner_steps_per_control_step) + 1
    rate = replace(online.rate, actor_slack_steps=online.rate.actor_slack_steps + behind)
    return replace(experiment, online=replace(online, control_steps=until, rounds=0, rate=rate))
