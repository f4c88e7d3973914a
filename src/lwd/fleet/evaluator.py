"""Evaluation of a snapshot on the deployed fleet, on starts that training never sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console

from lwd.config import Experiment
from lwd.episode import Episode, Source
from lwd.evaluate.scores import EvaluationRecord
from lwd.fleet.acting import fleet_driver
from lwd.fleet.policies import load_policy
from lwd.fleet.progress import progress
from lwd.fleet.services import Services, fleet_description
from lwd.robot.control import Assignment
from lwd.robot.memory import MemoryRecorder
from lwd.robot.sim.fleet import SimFleet
from lwd.robot.sim.run import EpisodeReport, run


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
    experiment: Experiment, services: Services, snapshot: int, console: Console, label: str
) -> Evaluation:
    """Run the held-out episodes under one snapshot, without operator and without noise; nothing of it is learned from."""
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

        run(fleet, _from(waiting), driver.act_batch, recorder, report)
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


def _from(waiting: list[Assignment]) -> Callable[[int], Assignment | None]:
    return lambda robot: waiting.pop() if waiting else None
