"""The actor process: sixteen robots, each taking the newest snapshot at its episode's boundary, recording everything."""

from __future__ import annotations

import logging
import time
from itertools import count
from pathlib import Path
from typing import Any

from lwd.config import Experiment
from lwd.episode import Source
from lwd.fleet.acting import PolicyDriver, fleet_driver
from lwd.fleet.collect import first_seed
from lwd.fleet.folder import RunFolder, Services, open_services
from lwd.fleet.metrics_log import MetricsLog, event
from lwd.fleet.policies import load_policy, newest_announced
from lwd.fleet.recording import FleetRecorder, until_catalogued
from lwd.fleet.service import Context
from lwd.fleet.services import fleet_description
from lwd.log.catalogue import EpisodeRow
from lwd.robot.control import Assignment
from lwd.robot.sim.fleet import SimFleet
from lwd.robot.sim.run import EpisodeReport, run

log = logging.getLogger(__name__)

_POLL_S = 0.1


def run_actor(context: Context, experiment: Experiment, folder: RunFolder) -> None:
    """Run episodes until the experience is collected or it is told to stop; then deliver everything and end."""
    with open_services(folder) as services:
        with FleetRecorder(services) as recorder:
            # What an actor that was killed left is counted and has its seeds: it comes first.
            context.say(waits_for="the deliveries of an earlier run")
            recorder.deliver_the_rest()
            until_catalogued(services.bus)
            context.say(waits_for=None)
            fleet = experiment.fleet
            with SimFleet(fleet.deployed, fleet.robots, fleet.workers) as robots:
                actor = Actor(context, experiment, services)
                run(robots, actor.assign, actor.driver.act_batch, recorder, actor.finished)
        context.say(waits_for="the last deliveries", undelivered=recorder.undelivered())


class Actor:
    """Decides what every robot does next, and with which snapshot."""

    def __init__(self, context: Context, experiment: Experiment, services: Services) -> None:
        self._context, self._x, self._services = context, experiment, services
        self.driver: PolicyDriver = fleet_driver(experiment)
        self._episodes = Path(services.folder.path) / "episodes.jsonl"
        spec, tasks = fleet_description(experiment)
        self._kind, self._tasks = spec.name, list(tasks)
        self._seeds = count(self._next_seed())
        self._snapshot_step: dict[int, int] = {}
        self._running: dict[int, tuple[int, float]] = {}
        self.control_steps = self._delivered_steps()
        self._began = time.monotonic()

    def assign(self, robot: int) -> Assignment | None:
        """The robot's next episode, under the newest snapshot; None when enough was collected."""
        if self.control_steps >= self._x.online.control_steps or self._context.should_stop():
            return None
        snapshot = self._newest_within_rate()
        seed = next(self._seeds)
        self._running[robot] = (snapshot, time.monotonic() - self._began)
        self.driver.keep_only([number for number, _ in self._running.values()])
        return Assignment(
            task=self._tasks[seed % len(self._tasks)],
            seed=seed,
            source=Source.ONLINE,
            snapshot=snapshot,
            takeover=self._x.online.takeover,
        )

    def finished(self, done: EpisodeReport) -> None:
        """Note an episode's end for the report and for whoever watches."""
        snapshot, started_s = self._running[done.robot]
        self.control_steps += done.steps
        line: dict[str, Any] = {
            "episode_id": done.header.episode_id,
            "robot": done.header.robot,
            "task": done.header.task,
            "source": done.header.source.value,
            "snapshot": snapshot,
            "outcome": done.verdict.outcome.value,
            "stage_score": done.verdict.stage_score,
            "steps": done.steps,
            "intervention_steps": done.intervention_steps,
            "takeovers": done.takeovers,
            "cycle_time_s": done.steps / done.header.control_hz,
            "started_s": started_s,
            "ended_s": time.monotonic() - self._began,
        }
        with MetricsLog(self._episodes) as file:
            file.write(**line)
        event(log, "episode_finished", **{k: line[k] for k in list(line)[:9]})
        self._context.say(
            control_steps=self.control_steps,
            waits_for=None,
            last={k: line[k] for k in ("outcome", "takeovers", "task", "snapshot")},
        )

    def _newest_within_rate(self) -> int:
        """The newest snapshot, once the learner is not too far behind the fleet; waits and says what for."""
        while True:
            number = newest_announced(self._services, self._kind)
            assert number is not None, "the online stage starts after a policy was published"
            if number not in self._snapshot_step:
                policy, snapshot = load_policy(self._x, self._services, number)
                self.driver.load(number, policy)
                online = snapshot.meta.get("stage") == "online"
                self._snapshot_step[number] = snapshot.learner_step if online else 0
            why = self._x.online.rate.fleet_waits_for(self._snapshot_step[number], self.control_steps)
            if why is None or self._context.should_stop():
                return number
            self._context.say(control_steps=self.control_steps, waits_for=why)
            time.sleep(_POLL_S)

    def _delivered(self) -> list[EpisodeRow]:
        """What earlier actors of this run, of this kind of robot, have brought in."""
        rows = self._services.catalogue.episodes(source=Source.ONLINE.value)
        return [row for row in rows if row.spec == self._kind]

    def _delivered_steps(self) -> int:
        """Control steps of earlier actors, so that a restarted one goes on counting."""
        return sum(row.steps for row in self._delivered())

    def _next_seed(self) -> int:
        used = [row.seed for row in self._delivered() if row.seed is not None]
        return max(used, default=first_seed(self._x, Source.ONLINE) - 1) + 1
