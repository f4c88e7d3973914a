"""Stage 3 in turns: collect with the newest policy, then learn on everything, `OnlineStage.rounds` times.

For methods that do not learn while robots collect, such as RECAP. Robots, operators, recording and counting are the same
processes as ever, started without the learner; learning is the offline stage again, on what the log holds by then.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rich.console import Console

from lwd.config import Experiment, stage_of_round
from lwd.fleet.offline import last_state, offline_result, train_on_replay
from lwd.fleet.policies import load_reference, publish
from lwd.fleet.program import run_online
from lwd.fleet.progress import progress
from lwd.fleet.services import RunFolder, Services, open_services
from lwd.fleet.training import own
from lwd.snapshot.store import Snapshot


def run_rounds(experiment: Experiment, folder: RunFolder, console: Console) -> None:
    """All rounds that have not published yet. A round that was cut goes on: in its collection, or from its checkpoint.

    Raises:
        FleetError: a process died while collecting; the run can be resumed.
    """
    with open_services(folder) as services:
        done = sum(snapshot.meta.get("stage") == "online" for snapshot in services.snapshots.list())
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


def train_round(experiment: Experiment, services: Services, number: int, console: Console) -> Snapshot:
    """Learn on everything collected so far, from where the round before (or the offline stage) ended, and publish."""
    stage = stage_of_round(experiment)
    learner = stage.learner
    if number == 1:
        before = offline_result(experiment, services)
    else:
        before = last_state(experiment, services, learner, round_name(number - 1))
    state = own(learner.continued(load_reference(experiment, services), before))
    state, manifest = train_on_replay(experiment, services, console, stage, state, round_name(number))
    return publish(
        experiment,
        services,
        learner.acting(state),
        stage="online",
        learner_step=number * stage.steps,
        manifest=manifest,
    )


def round_name(number: int) -> str:
    """Of a round's checkpoints, metrics and random numbers; rounds count from 1."""
    return f"online_round_{number}"
