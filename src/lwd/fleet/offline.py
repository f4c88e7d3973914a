"""What learns without robots, as a user runs it: `lwd train sft`, `lwd train offline`, `lwd train consolidated`."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
from rich.console import Console

from lwd.config import CloneStage, Experiment, OfflineStage
from lwd.episode import Source
from lwd.errors import ConfigError
from lwd.fleet.folder import Services, no_demonstrations
from lwd.fleet.hosts import Team
from lwd.fleet.policies import (
    content_of,
    find_snapshot,
    load_reference,
    model_config,
    prompts_of,
    publish,
    snapshots_of,
)
from lwd.fleet.progress import progress
from lwd.fleet.services import fleet_description, open_replay
from lwd.fleet.statistics import check_statistics, demonstration_normalizer
from lwd.fleet.training import Hooks, StageRun, draws_of, open_checkpoints, open_metrics, own
from lwd.learner.checkpoint import Checkpoints
from lwd.learner.clone import init_clone
from lwd.learner.method import Acting, Method
from lwd.learner.sharding import Layout
from lwd.learner.stages import Update, augmented, clone_stage
from lwd.models.protocols import LearnedPolicy
from lwd.models.vla.lora import merged
from lwd.replay.reader import Reader
from lwd.replay.replay import Replay
from lwd.replay.sampler import Sampler
from lwd.replay.view import View
from lwd.snapshot.store import Snapshot

_SFT_STREAM, _CRITIC_STREAM = 1, 2


def train_sft(
    experiment: Experiment, services: Services, console: Console, team: Team | None = None
) -> Snapshot | None:
    """Clone the demonstrations; the result is published and is pi_beta from then on. Resumes from its checkpoints.

    Several processes call it together, each with its own place in the `team`; the one that leads publishes, and the others get
    None.

    Raises:
        ConfigError: nobody has demonstrated yet.
    """
    stage, team = experiment.clone, team or Team()
    kind = fleet_description(experiment)[0].name
    if not any(row.spec == kind for row in services.catalogue.episodes(source=Source.DEMO.value)):
        raise no_demonstrations(services.folder.path)
    with open_replay(experiment, services, team.replay_name("learner")) as (replay, reader):
        view = _common_view(replay, reader, team)
        networks = model_config(experiment)
        normalizer = demonstration_normalizer(view, networks.statistics)
        key = jax.random.fold_in(jax.random.key(experiment.seed), _SFT_STREAM)
        policy = networks.make_policy(key, normalizer)
        sampler = replay.sampler(view, stage.mixture, experiment.seed, networks.prompts(policy))
        with _stage_run(
            "sft", experiment, services, stage, console, "policy/flow_matching_loss", team
        ) as run:
            state = run.restore(init_clone(stage.learner, policy))
            state = run.train(
                augmented(clone_stage(stage.learner), stage.learner.augment),
                state,
                sampler,
                batch=stage.learner.batch,
                until_step=stage.steps,
            )
        acting = team.layout.whole(merged(state.acting_policy))
        if not team.leads:
            return None
        return _published(experiment, services, acting, "sft", stage.steps, sampler.manifest)


def train_offline(
    experiment: Experiment, services: Services, console: Console, team: Team | None = None
) -> Snapshot | None:
    """Offline learning from the SFT snapshot; publishes what the stage ends with. Resumes from its checkpoints.

    `team` as in `train_sft`.
    """
    return _train_from_reference(experiment, services, console, experiment.offline, "offline", team or Team())


def train_consolidated(
    experiment: Experiment, services: Services, console: Console, team: Team | None = None
) -> Snapshot | None:
    """`Experiment.consolidated`: learning once more from the SFT snapshot, on all that the fleet recorded; published. Resumes.

    `team` as in `train_sft`.

    Raises:
        ConfigError: the experiment has no such stage.
        SnapshotError: the online stage has not been run.
    """
    if experiment.consolidated is None:
        raise ConfigError(
            f"recipe {experiment.name} learns nothing after the online stage. Set its `consolidated`, for example with "
            "lwd.recipes.once_more.clone_once_more."
        )
    find_snapshot(services, "online", experiment)
    return _train_from_reference(
        experiment, services, console, experiment.consolidated, "consolidated", team or Team()
    )


def _train_from_reference(
    experiment: Experiment, services: Services, console: Console, stage: OfflineStage, name: str, team: Team
) -> Snapshot | None:
    state = first_state(experiment, stage.learner, load_reference(experiment, services))
    state, manifest = train_on_replay(experiment, services, console, stage, state, name, team)
    acting = team.layout.whole(stage.learner.acting(state))
    if not team.leads:
        return None
    return _published(experiment, services, acting, name, stage.steps, manifest)


def _published(
    experiment: Experiment,
    services: Services,
    acting: Acting,
    stage: str,
    learner_step: int,
    manifest: int,
) -> Snapshot:
    """The snapshot of a stage's end: the newest one where it is that already, since a stage that was done is run again."""
    kind = fleet_description(experiment)[0].name
    for newest in snapshots_of(services, kind, stage)[-1:]:
        if services.snapshots.holds(newest, *content_of(experiment, acting, stage)):
            return newest
    return publish(experiment, services, acting, stage=stage, learner_step=learner_step, manifest=manifest)


def train_on_replay(
    experiment: Experiment,
    services: Services,
    console: Console,
    stage: OfflineStage,
    state: Any,
    name: str,
    team: Team | None = None,
    hooks: Hooks | None = None,
) -> tuple[Any, int]:
    """The value alone, then the method's whole update, on what the log holds now. Resumes from its checkpoints.

    `stage` says what is learned, how long and from what; `state` is where it starts, if it has not been started before; `name`
    is that of its checkpoints, its metrics and its stream of random numbers. Returns the state after the last learner step,
    which is an earlier one where `hooks` told it to stop, and the number of the manifest.
    """
    with prepared(experiment, services, console, stage, state, name, team or Team(), hooks) as ready:
        state, run = ready.state, ready.run
        for part in ready.parts:
            state = run.train(
                part.update, state, part.sampler, batch=stage.learner.batch, until_step=part.until_step
            )
        run.keep(state, ready.manifest)
        return state, ready.manifest


class Part(NamedTuple):
    """Learner steps of one kind: what is done with which batches, and up to which learner step."""

    update: Update[Any]
    sampler: Sampler
    until_step: int


class Prepared(NamedTuple):
    """A stage that could train now.

    Attributes:
        run: its loop, with its metrics and checkpoints.
        state: of its newest checkpoint, or where it starts.
        parts: the value alone, then the whole update.
        manifest: what it learns from.
    """

    run: StageRun
    state: Any
    parts: tuple[Part, Part]
    manifest: int


@contextmanager
def prepared(
    experiment: Experiment,
    services: Services,
    console: Console,
    stage: OfflineStage,
    state: Any,
    name: str,
    team: Team,
    hooks: Hooks | None = None,
) -> Generator[Prepared]:
    """What `train_on_replay` trains, with everything open that it needs."""
    reference, learner = load_reference(experiment, services), stage.learner
    with open_replay(experiment, services, team.replay_name("learner")) as (replay, reader):
        view = _common_view(replay, reader, team)
        check_statistics(reference.normalizer, view)
        prompts = prompts_of(experiment, reference)
        first = stage.warm_up_mixture or stage.mixture
        sampler = replay.sampler(view, stage.mixture, experiment.seed, prompts, draws_of(name))
        warm_up = replay.sampler(view, first, experiment.seed, prompts, draws_of(name))
        with _stage_run(name, experiment, services, stage, console, "value/quantile", team, hooks) as run:
            parts = (
                Part(augmented(learner.warm_up(reference), learner.augment), warm_up, stage.critic_steps),
                Part(augmented(learner.update(reference), learner.augment), sampler, stage.steps),
            )
            yield Prepared(run, run.restore(state), parts, sampler.manifest)


def first_state(experiment: Experiment, learner: Method, reference: LearnedPolicy) -> Any:
    """The state that offline learning starts from; also the template that checkpoints are read into."""
    key = jax.random.fold_in(jax.random.key(experiment.seed), _CRITIC_STREAM)
    return own(learner.start(reference, model_config(experiment), key))


def offline_result(experiment: Experiment, services: Services, layout: Layout | None = None) -> Any:
    """Networks and optimisers at the end of stage 2, from its last checkpoint."""
    state = last_state(experiment, services, experiment.offline.learner, "offline", layout)
    if int(state.step) < experiment.offline.steps:
        raise ConfigError(
            f"offline RL stopped at learner step {int(state.step)} of {experiment.offline.steps}. "
            "Run `lwd train offline` to its end first; it resumes."
        )
    return state


def last_state(
    experiment: Experiment, services: Services, learner: Method, name: str, layout: Layout | None = None
) -> Any:
    """The newest checkpoint under this name; on the mesh where one is given."""
    template = first_state(experiment, learner, load_reference(experiment, services))
    template = template if layout is None else layout.place(template)
    checkpoints = Checkpoints(services.folder.checkpoints(name))
    try:
        return checkpoints.restore(template)[0]
    finally:
        checkpoints.close()


def _common_view(replay: Replay, reader: Reader, team: Team) -> View:
    """What all processes of the learner hold of the log."""
    reader.refresh()
    return replay.view(team.agreement.least(replay.manifest))


@contextmanager
def _stage_run(
    name: str,
    experiment: Experiment,
    services: Services,
    stage: CloneStage | OfflineStage,
    console: Console,
    shown: str,
    team: Team,
    hooks: Hooks | None = None,
) -> Generator[StageRun]:
    with (
        progress(console if team.leads else Console(quiet=True), f"train {name}", stage.steps) as bar,
        open_checkpoints(services.folder, name, team) as checkpoints,
        open_metrics(services.folder, name, team) as metrics,
    ):

        def show(step: int, numbers: dict[str, float]) -> None:
            bar.to(step, f"{shown} {numbers[shown]:.3f}" if shown in numbers else "")

        yield StageRun(
            name,
            seed=experiment.seed,
            loop=stage.loop,
            metrics=metrics,
            checkpoints=checkpoints,
            progress=show,
            team=team,
            hooks=hooks,
        )
