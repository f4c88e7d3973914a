"""A learner that takes turns with the fleet (`OnlineStage.rounds`): what a round learns, and the service that does one by one.

A round repeats the offline stage on everything recorded so far, from where the round before ended. Robots of a simulated fleet
wait meanwhile (`lwd.fleet.rounds`); robots at work go on under the policy that they have.
"""

from __future__ import annotations

import logging
import shutil
import time
from typing import Any

from rich.console import Console

from lwd.config import Experiment, stage_of_round
from lwd.episode import Source
from lwd.errors import ConfigError
from lwd.fleet.folder import RunFolder, Services, open_services
from lwd.fleet.hosts import Team
from lwd.fleet.metrics_log import event
from lwd.fleet.offline import last_state, offline_result, train_on_replay
from lwd.fleet.policies import announce_newest, load_reference, publish, snapshots_of
from lwd.fleet.service import Context
from lwd.fleet.services import fleet_description, open_replay
from lwd.fleet.training import Hooks, own
from lwd.snapshot.store import Snapshot

log = logging.getLogger(__name__)

_POLL_S = 1.0


def run_learner_in_rounds(
    context: Context, experiment: Experiment, folder: RunFolder, team: Team | None = None
) -> None:
    """A round whenever the fleet has delivered its part since the last one, until told to stop. Resumes from its checkpoints.

    A part is `control_steps / rounds`, and the rounds go on for as long as the fleet does. What arrives while a round learns
    counts for the next. `team` says which of the learner's processes this is; by default it is the only one.
    """
    team, quiet = team or Team(), Console(quiet=True)
    steps = stage_of_round(experiment).steps
    with open_services(folder) as services:
        if team.leads:
            announce_newest(experiment, services)
        published = rounds_published(services, experiment)
        done, manifest = len(published), _learned_from(published)
        team.agreement.same(done, "the rounds that have published")
        while _await_part(context, experiment, services, team, manifest, done):
            context.say(waits_for=None)
            hooks = Hooks(
                should_stop=context.should_stop,
                tell=lambda step: context.say(learner_step=step),
                steps_before=done * steps,
            )
            learned_from = train_round(experiment, services, done + 1, quiet, team, hooks)
            if learned_from is None:
                return
            done, manifest = done + 1, learned_from
            context.say(snapshot=services.snapshots.newest())


def train_round(
    experiment: Experiment,
    services: Services,
    number: int,
    console: Console,
    team: Team | None = None,
    hooks: Hooks | None = None,
) -> int | None:
    """Learn on everything collected so far, from where the round before (or the offline stage) ended, and publish.

    Returns the manifest that it learned from; None where `hooks` stopped it, to go on another time.

    Raises:
        ConfigError: the round before left no checkpoint.
    """
    stage, team = stage_of_round(experiment), team or Team()
    state = _first_state(experiment, services, number, team)
    name = round_name(number)
    state, manifest = train_on_replay(experiment, services, console, stage, state, name, team, hooks)
    if int(state.step) < stage.steps:
        return None
    acting = team.layout.whole(stage.learner.acting(state))
    if team.leads:
        publish(
            experiment,
            services,
            acting,
            stage="online",
            learner_step=number * stage.steps,
            manifest=manifest,
        )
        # The next round begins with this one's; a fleet that runs for ever must not fill the disk.
        shutil.rmtree(services.folder.checkpoints(round_name(number - 1)), ignore_errors=True)
    return manifest


def rounds_published(services: Services, experiment: Experiment | None = None) -> list[Snapshot]:
    """The snapshots of the rounds that are done, one each, oldest first; of this experiment's kind of robot if given."""
    kind = None if experiment is None else fleet_description(experiment)[0].name
    return snapshots_of(services, kind, "online")


def round_name(number: int) -> str:
    """Of a round's checkpoints, metrics and random numbers; rounds count from 1."""
    return f"online_round_{number}"


def _await_part(
    context: Context, experiment: Experiment, services: Services, team: Team, learned_from: int, done: int
) -> bool:
    """Follow the log until the fleet has delivered another part; False if told to stop before."""
    part = experiment.online.control_steps // experiment.online.rounds
    step = done * stage_of_round(experiment).steps
    with open_replay(experiment, services, team.replay_name("learner")) as (replay, reader):
        while not team.agreement.any(context.should_stop()):
            team.rest(step)
            reader.refresh()
            before = replay.view(learned_from).steps_from(Source.ONLINE)
            new = team.agreement.least(replay.view().steps_from(Source.ONLINE) - before)
            if new >= part:
                event(log, "round_begins", round=done + 1, manifest=replay.manifest, control_steps=new)
                return True
            why = f"{part - new} more control steps before round {done + 1}"
            context.say(learner_step=step, manifest=replay.manifest, waits_for=why)
            time.sleep(_POLL_S)
    return False


def _first_state(experiment: Experiment, services: Services, number: int, team: Team) -> Any:
    """The networks that the round before ended with, under this round's optimisers."""
    learner = experiment.online.learner
    if number == 1:
        before = offline_result(experiment, services, team.layout)
    else:
        last = services.folder.checkpoints(round_name(number - 1))
        if not last.exists():
            raise ConfigError(
                f"{last} is missing, and round {number} goes on from it. Either it was deleted, or the online snapshots of the "
                "run are of a learner that does not take turns. Begin in a new run folder after the offline stage, "
                "or go on with the recipe that made them."
            )
        before = last_state(experiment, services, learner, round_name(number - 1), team.layout)
    return own(learner.continued(load_reference(experiment, services), team.layout.whole(before)))


def _learned_from(published: list[Snapshot]) -> int:
    """The manifest of the newest round; 0, which is empty, before the first."""
    return (published[-1].manifest or 0) if published else 0
