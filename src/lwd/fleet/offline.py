"""Stages 1 and 2 of Algorithm 1 as a user runs them: `lwd train sft` and `lwd train offline`."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import jax
from rich.console import Console

from lwd.config import Experiment, OfflineStage
from lwd.errors import ConfigError
from lwd.fleet.metrics_log import MetricsLog
from lwd.fleet.policies import load_reference, model_config, prompts_of, publish
from lwd.fleet.progress import Task, progress
from lwd.fleet.services import Services, open_replay
from lwd.fleet.statistics import check_statistics, demonstration_normalizer
from lwd.fleet.training import StageRun, own
from lwd.learner.checkpoint import Checkpoints
from lwd.learner.clone import init_clone
from lwd.learner.method import Method
from lwd.learner.sharding import Layout
from lwd.learner.stages import LoopConfig, clone_stage
from lwd.models.networks import MakePrompts
from lwd.models.protocols import LearnedPolicy
from lwd.models.vla.lora import merged
from lwd.replay.mixture import Mixture
from lwd.replay.replay import Replay
from lwd.replay.sampler import Sampler
from lwd.snapshot.store import Snapshot

_SFT_STREAM, _CRITIC_STREAM = 1, 2


def train_sft(experiment: Experiment, services: Services, console: Console) -> Snapshot:
    """Clone the demonstrations; the result is published and is pi_beta from then on. Resumes from its checkpoints."""
    stage = experiment.clone
    with open_replay(experiment, services, "learner") as (replay, reader):
        reader.refresh()
        networks = model_config(experiment)
        normalizer = demonstration_normalizer(replay.view(), networks.statistics)
        key = jax.random.fold_in(jax.random.key(experiment.seed), _SFT_STREAM)
        policy = networks.make_policy(key, normalizer)
        sampler = _sampler(replay, stage.mixture, experiment, networks.prompts(policy))
        with (
            progress(console, "train sft", stage.steps) as bar,
            _stage_run("sft", experiment, services, stage.loop, bar, "policy/flow_matching_loss") as run,
        ):
            state = run.restore(init_clone(stage.learner, policy))
            state = run.train(
                clone_stage(stage.learner),
                state,
                sampler,
                batch=stage.learner.batch,
                until_step=stage.steps,
            )
        return publish(
            experiment,
            services,
            merged(state.acting_policy),
            stage="sft",
            learner_step=stage.steps,
            manifest=sampler.manifest,
        )


def train_offline(experiment: Experiment, services: Services, console: Console) -> Snapshot:
    """Offline learning from the SFT snapshot; publishes what the stage ends with. Resumes from its checkpoints."""
    stage = experiment.offline
    state = first_state(experiment, stage.learner, load_reference(experiment, services))
    state, manifest = train_on_replay(experiment, services, console, stage, state, "offline")
    return publish(
        experiment,
        services,
        stage.learner.acting(state),
        stage="offline",
        learner_step=stage.steps,
        manifest=manifest,
    )


def train_on_replay(
    experiment: Experiment, services: Services, console: Console, stage: OfflineStage, state: Any, name: str
) -> tuple[Any, int]:
    """The value alone, then the method's whole update, on what the log holds now. Resumes from its checkpoints.

    `stage` says what is learned, how long and from what; `state` is where it starts, if it has not been started before; `name`
    is that of its checkpoints, its metrics and its stream of random numbers. Returns the state after the last learner step, and
    the number of the manifest.
    """
    reference = load_reference(experiment, services)
    with open_replay(experiment, services, "learner") as (replay, reader):
        reader.refresh()
        check_statistics(reference.normalizer, replay.view())
        prompts = prompts_of(experiment, reference)
        sampler = _sampler(replay, stage.mixture, experiment, prompts)
        warm_up = _sampler(replay, stage.warm_up_mixture or stage.mixture, experiment, prompts)
        with (
            progress(console, f"train {name}", stage.steps) as bar,
            _stage_run(name, experiment, services, stage.loop, bar, "value/quantile") as run,
        ):
            state = run.restore(state)
            batch = stage.learner.batch
            state = run.train(
                stage.learner.warm_up(reference), state, warm_up, batch=batch, until_step=stage.critic_steps
            )
            state = run.train(
                stage.learner.update(reference), state, sampler, batch=batch, until_step=stage.steps
            )
            run.keep(state, sampler.manifest)
        return state, sampler.manifest


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


def _sampler(
    replay: Replay, mixture: Mixture, experiment: Experiment, prompts: MakePrompts | None
) -> Sampler:
    return replay.sampler(replay.view(), mixture, experiment.seed, prompts)


@contextmanager
def _stage_run(
    stage: str, experiment: Experiment, services: Services, loop: LoopConfig, bar: Task, shown: str
) -> Generator[StageRun]:
    checkpoints = Checkpoints(services.folder.checkpoints(stage))

    def show(step: int, metrics: dict[str, float]) -> None:
        bar.to(step, f"{shown} {metrics[shown]:.3f}" if shown in metrics else "")

    try:
        with MetricsLog(services.folder.metrics(stage)) as metrics:
            yield StageRun(
                stage,
                seed=experiment.seed,
                loop=loop,
                metrics=metrics,
                checkpoints=checkpoints,
                progress=show,
            )
    finally:
        checkpoints.close()
