"""Offline data in the paper's proportions (Table IV): demonstrations, play that fails, rollouts of weaker policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from rich.console import Console

from lwd.config import Experiment
from lwd.episode import Episode, Outcome, Source
from lwd.errors import ConfigError, RobotError
from lwd.fleet.acting import PolicyDriver, fleet_driver
from lwd.fleet.folder import Services
from lwd.fleet.policies import find_snapshot, load_policy
from lwd.fleet.progress import progress
from lwd.fleet.recording import FleetRecorder, recording
from lwd.fleet.services import fleet_description
from lwd.robot.control import Assignment
from lwd.robot.memory import MemoryRecorder
from lwd.robot.sim.describe import operators_of
from lwd.robot.sim.fleet import SimFleet
from lwd.robot.sim.fleet_spec import FleetSpec
from lwd.robot.sim.run import ActBatch, EpisodeReport, run
from lwd.spec import TaskSpec

SEEDS_PER_RUN = 100_000
_FIRST_SEED: Mapping[Source, int] = {
    Source.DEMO: 0,
    Source.PLAY: 2_000_000,
    Source.ROLLOUT: 4_000_000,
    Source.ONLINE: 6_000_000,
}


def first_seed(experiment: Experiment, source: Source) -> int:
    """Where the episode seeds of a source begin in this run; no two sources and no two runs share one."""
    if not 0 <= experiment.seed < 20:
        raise ConfigError(
            f"seed {experiment.seed}: episode seeds are laid out for runs 0 to 19, apart from the evaluation's."
        )
    return _FIRST_SEED[source] + experiment.seed * SEEDS_PER_RUN


def collect(experiment: Experiment, services: Services, sources: Sequence[Source], console: Console) -> None:
    """Make the episodes of these sources and see them through to a manifest; what the log holds already is not made again.

    Raises:
        SnapshotError: rollouts were asked for before a policy was published.
    """
    with recording(experiment, services) as recorder:
        for source in sources:
            plan = _missing(experiment, services, _PLANS[source](experiment))
            fleet = experiment.fleet
            spec = fleet.demonstrated if source is Source.DEMO else fleet.deployed
            act = _rollout_driver(experiment, services) if source is Source.ROLLOUT else None
            if act is not None:
                number = find_snapshot(services, "sft", experiment).number
                plan = [replace(assignment, snapshot=number) for assignment in plan]
            _run_plan(experiment, recorder, spec, plan, act, f"collect {source.value}", console)


def check_operators(experiment: Experiment, sources: Sequence[Source]) -> None:
    """ConfigError if the robots lack an operator whom the recipe asks for these sources; before a folder is claimed for it."""
    asked, collect = dict[str, tuple[FleetSpec, str]](), experiment.collect
    if Source.DEMO in sources:
        why = "`CollectConfig.demos` names operators, not tasks, and how many episodes of each task they demonstrate"
        asked |= {
            name: (experiment.fleet.demonstrated, why) for name, count in collect.demos.items() if count
        }
    if Source.PLAY in sources and collect.play:
        asked["play"] = (experiment.fleet.deployed, "set `CollectConfig.play` to 0 where nobody plays")
    for name, (fleet, advice) in asked.items():
        there = operators_of(fleet)
        if name not in there:
            raise ConfigError(
                f"recipe {experiment.name!r} asks for operator {name!r}, but the robots of {fleet.tier!r} have "
                f"{', '.join(map(repr, sorted(there))) or 'none'}: {advice}."
            )


def _missing(experiment: Experiment, services: Services, plan: list[Assignment]) -> list[Assignment]:
    """What an earlier, perhaps cut, collection has not brought in.

    An episode's seed names it among those of its kind of robot, since sources share none; two kinds of one fleet do.
    """
    kind = fleet_description(experiment)[0].name
    there = {
        row.seed
        for row in services.catalogue.episodes()
        if row.spec == kind and row.outcome != Outcome.UNJUDGED.value
    }
    return [assignment for assignment in plan if assignment.seed not in there]


def _demos(experiment: Experiment) -> list[Assignment]:
    plan: list[tuple[str, str]] = []
    for style, count in experiment.collect.demos.items():
        plan += [(task, style) for task in _times(experiment, count)]
    seed = first_seed(experiment, Source.DEMO)
    return [
        Assignment(task=task, seed=seed + i, source=Source.DEMO, driver="operator", operator=style)
        for i, (task, style) in enumerate(plan)
    ]


def _play(experiment: Experiment) -> list[Assignment]:
    seed = first_seed(experiment, Source.PLAY)
    return [
        Assignment(task=task, seed=seed + i, source=Source.PLAY, driver="operator", operator="play")
        for i, task in enumerate(_times(experiment, experiment.collect.play))
    ]


def _rollouts(experiment: Experiment) -> list[Assignment]:
    seed = first_seed(experiment, Source.ROLLOUT)
    rng = np.random.default_rng(seed)
    largest = experiment.collect.rollout_noise
    tasks = _times(experiment, experiment.collect.rollouts)
    noise = [float(rng.uniform(0, largest)) if rng.random() < 0.5 else 0.0 for _ in tasks]
    return [
        Assignment(task=task, seed=seed + i, source=Source.ROLLOUT, action_noise=noise[i])
        for i, task in enumerate(tasks)
    ]


_PLANS = {Source.DEMO: _demos, Source.PLAY: _play, Source.ROLLOUT: _rollouts}


def _times(experiment: Experiment, count: int) -> list[str]:
    """Every task `count` times, long ones `long_task_weight` times as often; long episodes first within a round."""
    _, tasks = fleet_description(experiment)
    return [
        name
        for i in range(round(count * max(1.0, experiment.collect.long_task_weight)))
        for name, task in reversed(list(tasks.items()))
        if i < _count(experiment, task, count)
    ]


def _count(experiment: Experiment, task: TaskSpec, count: int) -> int:
    return round(count * (experiment.collect.long_task_weight if task.horizon == "long" else 1.0))


def _rollout_driver(experiment: Experiment, services: Services) -> PolicyDriver:
    policy, snapshot = load_policy(experiment, services, find_snapshot(services, "sft", experiment).number)
    driver = fleet_driver(experiment)
    driver.load(snapshot.number, policy)
    return driver


def _run_plan(
    experiment: Experiment,
    recorder: FleetRecorder,
    spec: FleetSpec,
    plan: Sequence[Assignment],
    driver: PolicyDriver | None,
    name: str,
    console: Console,
) -> None:
    """Run the assignments, if any; an attempt at play that succeeded by accident is filed as a rollout, since play fails."""
    if not plan:
        return
    waiting = list(plan)[::-1]
    steps = successes = done = 0

    def keep(episode: Episode) -> None:
        if episode.header.source is Source.PLAY and episode.success:
            episode = replace(episode, header=replace(episode.header, source=Source.ROLLOUT))
        recorder.submit(episode)

    with (
        SimFleet(spec, experiment.fleet.robots, experiment.fleet.workers) as fleet,
        progress(console, name, len(plan)) as bar,
    ):

        def report(done_episode: EpisodeReport) -> None:
            nonlocal steps, successes, done
            steps, done = steps + done_episode.steps, done + 1
            successes += done_episode.verdict.outcome == "success"
            bar.advance(note=f"{steps} control steps, {successes / done:.0%} succeed")

        run(
            fleet,
            lambda robot: waiting.pop() if waiting else None,
            driver.act_batch if driver else _nobody_drives,
            MemoryRecorder(keep) if plan[0].source is Source.PLAY else recorder,
            report,
        )


def _nobody_drives(batch: ActBatch) -> np.ndarray:
    raise RobotError(
        f"robots {batch.robots} asked for a policy's chunk while operators drive; this is a bug."
    )
