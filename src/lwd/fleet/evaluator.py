"""Evaluation of a snapshot on the deployed fleet, on starts that training never sees."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from rich.console import Console

from lwd.config import Experiment
from lwd.episode import Episode, Source
from lwd.errors import ConfigError
from lwd.evaluate.scores import EvaluationRecord
from lwd.fleet.acting import fleet_driver
from lwd.fleet.folder import RunFolder, Services, open_services
from lwd.fleet.metrics_log import MetricsLog, event
from lwd.fleet.policies import load_policy
from lwd.fleet.progress import progress
from lwd.fleet.service import Context
from lwd.fleet.services import fleet_description
from lwd.robot.control import Assignment
from lwd.robot.memory import MemoryRecorder
from lwd.robot.sim.fleet import SimFleet
from lwd.robot.sim.run import EpisodeReport, run
from lwd.spec import TaskSpec

log = logging.getLogger(__name__)

_POLL_S = 0.2


@dataclass(frozen=True)
class Evaluation:
    """Records for the scores, and the episodes themselves for the report's figures."""

    snapshot: int
    records: list[EvaluationRecord]
    episodes: list[Episode]


def plan(experiment: Experiment, snapshot: int) -> list[Assignment]:
    """The held-out episodes; the same for every policy. Long tasks first, so that no robot is left with one at the end."""
    _, tasks = fleet_description(experiment)
    config = experiment.evaluate
    return [
        Assignment(task=name, seed=config.first_seed + i, source=Source.ROLLOUT, snapshot=snapshot)
        for name in reversed(list(tasks))
        for i in range(config.episodes)
    ]


def evaluate(
    experiment: Experiment,
    services: Services,
    snapshot: int,
    console: Console,
    label: str,
    should_stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Run the held-out episodes under one snapshot, without operator and without noise; nothing of it is learned from.

    Told to stop, it begins no further episode and returns what is there.
    """
    policy, _ = load_policy(experiment, services, snapshot)
    driver = fleet_driver(experiment)
    driver.load(snapshot, policy)
    waiting = plan(experiment, snapshot)[::-1]
    recorder = MemoryRecorder()
    total, wins = len(waiting), 0
    with (
        SimFleet(experiment.fleet.deployed, experiment.fleet.robots, experiment.fleet.workers) as fleet,
        progress(console, f"evaluate {label}", total) as bar,
    ):

        def report(done: EpisodeReport) -> None:
            nonlocal wins
            wins += done.verdict.outcome == "success"
            bar.advance(note=f"{wins} succeed")

        run(fleet, _from(waiting, should_stop), driver.act_batch, recorder, report)
    episodes = sorted(recorder.episodes, key=lambda e: (e.header.task, e.header.seed or 0))
    return Evaluation(snapshot, [record(episode) for episode in episodes], episodes)


def record(episode: Episode) -> EvaluationRecord:
    """One line of an evaluation."""
    return EvaluationRecord(
        task=episode.header.task,
        seed=episode.header.seed or 0,
        success=episode.success,
        stage_score=episode.verdict.stage_score,
        cycle_time_s=episode.cycle_time_s,
        steps=episode.steps,
        interventions=0,
    )


def _from(waiting: list[Assignment], should_stop: Callable[[], bool]) -> Callable[[int], Assignment | None]:
    return lambda robot: waiting.pop() if waiting and not should_stop() else None


def run_evaluator(
    context: Context, experiment: Experiment, folder: RunFolder, every_s: float = 600.0, episodes: int = 10
) -> None:
    """The evaluator process: evaluate the newest policy of its kind of robot every `every_s` seconds until told to stop.

    Appends one line per evaluation to `metrics/evaluator.jsonl`: snapshot, success over all, short and long tasks.

    Args:
        context: when to stop, and who is told.
        experiment: robots, tasks and seeds.
        folder: log and snapshots.
        every_s: seconds between two beginnings.
        episodes: per task.

    Raises:
        ConfigError: no episodes, or a time that is none.
    """
    if episodes < 1:
        raise ConfigError(f"--episodes is {episodes}; expected 1 or more per task.")
    if not 0 <= every_s < math.inf:
        raise ConfigError(f"--every-s is {every_s}; expected a number of seconds, 0 or more.")
    x = replace(experiment, evaluate=replace(experiment.evaluate, episodes=episodes))
    spec, tasks = fleet_description(x)
    done: int | None = None
    with open_services(folder) as services, MetricsLog(folder.metrics("evaluator")) as metrics:
        while not context.should_stop():
            began = time.monotonic()
            newest = services.snapshots.latest(spec.name)  # another kind of robot may have published since
            number = None if newest is None else newest.number
            if number is None or number == done:
                context.say(waits_for="a new snapshot")
            else:
                context.say(waits_for=None, snapshot=number)
                found = evaluate(
                    x, services, number, Console(quiet=True), f"snapshot {number}", context.should_stop
                )
                if context.should_stop():
                    return
                done = number
                numbers = {
                    f"success/{name}": fmean(r.success for r in records)
                    for name, records in _groups(found.records, tasks).items()
                }
                metrics.write(snapshot=number, episodes=len(found.records), time_s=time.time(), **numbers)
                context.say(evaluated=number, **numbers)
                event(log, "evaluated", snapshot=number, average=numbers["success/average"])
            time.sleep(_POLL_S)  # even where --every-s is 0: there may be nothing to evaluate for hours
            while not context.should_stop() and time.monotonic() - began < every_s:
                time.sleep(_POLL_S)


def _groups(
    records: Sequence[EvaluationRecord], tasks: Mapping[str, TaskSpec]
) -> dict[str, list[EvaluationRecord]]:
    groups = {"average": list(records)}
    for horizon in ("short", "long"):
        chosen = [record for record in records if tasks[record.task].horizon == horizon]
        if chosen:
            groups[horizon] = chosen
    return groups
