"""The robot process (`lwd robot join FILE`): outbound connections only, no bucket key, no JAX.

Without network it keeps working under its last snapshot and spools; what it recorded is delivered when the network is back.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
import zlib
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from lwd import __version__
from lwd.episode import EpisodeHeader, Source
from lwd.errors import ConfigError, LwdError
from lwd.fleet.credential import Credential, write_private
from lwd.fleet.robot_config import RELEASES, RobotConfig
from lwd.fleet.robot_policy import Driving, PolicyFollower, PolicySource, SnapshotCache, View
from lwd.fleet.robot_release import Allowed, kept_release
from lwd.fleet.serve.client import RemoteOptions, RemotePolicies
from lwd.fleet.service import ServiceContext
from lwd.instruction import InstructionEncoder
from lwd.log.calls import CallRefusedError, Calls, NatsCalls
from lwd.log.granted_objects import GrantedObjects
from lwd.log.nats_bus import NatsBus
from lwd.log.nats_link import NatsLink
from lwd.log.robots import NotAllowedError, RobotNotActiveError
from lwd.log.signals import NatsSignals
from lwd.log.status import status_message
from lwd.log.writer import EdgeClient
from lwd.robot.control import Assignment, ControlLoop
from lwd.robot.environment import Environment
from lwd.robot.guard_limits import GuardLimits
from lwd.robot.operator import Operator
from lwd.robot.recorder import record_round
from lwd.snapshot.nats_channel import NatsChannel
from lwd.snapshot.nats_releases import NatsReleases
from lwd.snapshot.site_cache import CachedObjects

log = logging.getLogger(__name__)

POLL_S = 0.1
ASK_EVERY_S = 2.0
REFUSED = (NotAllowedError.__name__, RobotNotActiveError.__name__)
"""Kinds of answers that are about this robot, and stay."""
DRAIN_S = 20.0
"""How long a robot that stops tries to deliver what it holds; the rest stays in the spool."""


@dataclass(frozen=True, kw_only=True)
class RobotOptions:
    """How this robot computer takes part.

    Attributes:
        folder: spool, cached snapshot and cached configuration; one per robot.
        environment: "package.module:function" that makes this robot's Environment and operators, None for the simulator
            that the fleet names.
        pace: 1 keeps the robot's control rate and records measured time, 0 runs as fast as it can (simulated
            robots), 2 twice the rate.
        shared_folder: accept a directory of this machine in place of signed URLs (a fleet on one machine).
        ca_file: certificates of the object store's authority, where it is not a public one.
        site_cache: URL of the site's snapshot cache, None without one.
        spool_bytes: budget of the spool; None for as much as the disk holds.
        remote: a policy server that drives in place of a policy on this computer.
        guard: limits between whoever commands and the motors; this computer's alone, no message changes them.
    """

    folder: Path
    environment: str | None = None
    pace: float = 0.0
    shared_folder: bool = False
    ca_file: str | None = None
    site_cache: str | None = None
    spool_bytes: int | None = None
    remote: RemoteOptions | None = None
    guard: GuardLimits | None = None


def run_robot(context: ServiceContext, credential: Credential, options: RobotOptions) -> None:
    """Run episodes until told to stop, then deliver what is there.

    Raises:
        ConfigError: the coordinator refuses this robot, its environment cannot be made, or the guard's limits are not its.
    """
    name = credential.name
    options.folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        link = stack.enter_context(credential.link())
        calls, signals = NatsCalls(link), NatsSignals(link)
        objects = GrantedObjects(calls, name, files=options.shared_folder, ca_file=options.ca_file)
        stack.callback(objects.close)
        spool, budget = options.folder / "spool", options.spool_bytes
        client = stack.enter_context(EdgeClient(spool, objects, NatsBus(link), name, budget_bytes=budget))
        client.start()

        def tell(status: dict[str, Any]) -> None:
            spooled = client.status()
            dropped = {worth.name.lower(): asdict(total) for worth, total in spooled.dropped.items()}
            more = {"spool": {**vars(spooled), "dropped": dropped}, "link": link.connected}
            signals.send(f"status.{name}", status_message("robot", {**status, **more}))

        stack.enter_context(context.telling(tell))
        config = configuration(context, calls, name, options.folder / "config.json")
        if config is None:
            return
        allowed = None
        if config.follow == RELEASES:
            path, key = options.folder / "release.json", credential.snapshot_public_key()
            releases = NatsReleases(link, key, config.spec.name, told=kept_release(path))
            stack.callback(releases.close)
            allowed = Allowed(releases, name, path, lambda edition: context.say(edition=edition))
        if options.remote is not None:
            policies = _remote(context, options.remote, config, allowed)
        else:
            policies = _local(context, credential, link, objects, options, config, allowed, stack)
        stack.callback(policies.close)
        environment, operators = _build(config, options.environment)
        stack.callback(environment.close)
        Robot(context, name, config, client, policies, environment, operators, options).run()
        _drain(context, client)


class Robot:
    """One robot at work: an episode at a time, under the newest policy that is loaded when it begins."""

    def __init__(
        self,
        context: ServiceContext,
        name: str,
        config: RobotConfig,
        client: EdgeClient,
        policies: PolicySource,
        environment: Environment,
        operators: Mapping[str, Operator],
        options: RobotOptions,
    ) -> None:
        self._context, self._name, self._config = context, name, config
        self._client, self._policies, self._options = client, policies, options
        self._loop = ControlLoop(environment, operators, options.guard)
        self._hertz = config.spec.control_hz
        self._takeover = config.takeover if Assignment.operator in operators else None
        if config.takeover is not None and operators and self._takeover is None:
            log.warning(
                "nobody_takes_over operators=%s expected=%s", ",".join(operators), Assignment.operator
            )
        # A robot's own stream of episodes: another one after each start, so that a crash does not repeat it.
        self._rng = np.random.default_rng([zlib.crc32(name.encode()), time.time_ns()])

    def run(self) -> None:
        """Episodes until told to stop."""
        while not self._context.should_stop():
            driving = self._policies.newest()
            if driving is None:
                self._context.say(state="waits", waits_for=self._policies.waits_for)
                time.sleep(POLL_S)
                continue
            try:
                self._episode(driving)
            except Exception as error:
                # One bad episode (a full disk, a driver's hiccup) must not end the robot's work. Drivers raise anything;
                # where it came from is of use only if it is not an error of ours, which says so itself.
                known = isinstance(error, LwdError)
                log.error(
                    "episode_failed robot=%s cause=%r",
                    self._name,
                    str(error),
                    exc_info=None if known else error,
                )
                self._context.telemetry.count("episodes_failed_total")
                self._context.say(state="waits", waits_for=f"an error to pass: {error!s:.300}")
                self._context.stopping.wait(1.0)

    def _assignment(self, driving: Driving) -> Assignment:
        tasks = list(self._config.tasks)
        return Assignment(
            task=tasks[int(self._rng.integers(len(tasks)))],
            seed=int(self._rng.integers(self._config.first_seed, self._config.last_seed + 1)),
            source=Source.ONLINE,
            snapshot=driving.number,
            takeover=self._takeover,
        )

    def _episode(self, driving: Driving) -> None:
        assignment = self._assignment(driving)
        task = self._config.tasks[assignment.task]
        header = EpisodeHeader(
            task=task.name,
            instruction=task.instruction,
            source=assignment.source,
            robot=self._name,
            spec=self._config.spec.name,
            control_hz=self._hertz,
            snapshot=assignment.snapshot,
            software=__version__,
            seed=assignment.seed,
            operator=assignment.operator_name,
        )
        self._context.say(
            state="runs",
            waits_for=None,
            task=task.name,
            snapshot=driving.number,
            behind=self._policies.behind(),
        )
        recording = self._client.begin(header)
        try:
            done, steps, chunks, at = self._loop.begin(assignment), 0, 0, 0.0
            start = time.monotonic()
            while done.verdict is None:
                if self._context.should_stop():
                    return  # `abort` below keeps what there is, as an episode without a verdict
                began = time.monotonic()
                chunk = None
                if done.wants_chunk:
                    view = View(done.last, task.instruction, done.images[-1] if done.images else {})
                    chunk = driving.chunk(view, assignment.seed, chunks)
                done = self._loop.run(chunk)
                # In real time a round takes what the chunk took too; what is left of its steps' time is waited for below.
                took = max(time.monotonic() - began, len(done.actions) / self._hertz)
                span = max(began - start, at), began - start + took
                chunks, at = chunks + 1, span[1]
                real = self._options.pace == 1
                steps = record_round(recording, done, steps, self._hertz, span if real else None)
                self._keep_pace(began, len(done.actions))
        finally:
            self._loop.end()  # before anything that may wait: a guarded robot without a verdict is held
            self._tell_guarded(header.episode_id)
            recording.abort()  # does nothing to an episode that was finished
        self._context.telemetry.count("episodes_total")
        log.info(
            "episode_finished episode=%s task=%s snapshot=%s outcome=%s steps=%d",
            *(header.episode_id, task.name, header.snapshot, done.verdict.outcome.value, steps),
        )

    def _tell_guarded(self, episode_id: str) -> None:
        """Which control steps of the episode the guard changed or refused, in the log and as numbers."""
        guarded = self._loop.guarded
        if not guarded:
            return
        counts = Counter(event.reason for event in guarded)
        for reason, count in counts.items():
            self._context.telemetry.count("guarded_steps_total", count, reason=reason)
        log.warning(
            "guarded episode=%s reasons=%s first_step=%d last_step=%d given_up=%r",
            *(episode_id, ",".join(f"{reason}:{count}" for reason, count in sorted(counts.items()))),
            *(guarded[0].step, guarded[-1].step, self._loop.given_up),
        )

    def _keep_pace(self, began: float, steps: int) -> None:
        if self._options.pace > 0:
            left = steps / (self._hertz * self._options.pace) - (time.monotonic() - began)
            if left > 0:
                self._context.stopping.wait(left)


def configuration(context: ServiceContext, calls: Calls, name: str, kept: Path) -> RobotConfig | None:
    """What the coordinator says; without network what it said last; None if told to stop first.

    Raises:
        ConfigError: the coordinator refuses this robot, or answers what this version cannot read.
    """
    while not context.should_stop():
        try:
            answer = calls.call(f"calls.{name}.config", {"software": __version__})
        except LwdError as error:
            if isinstance(error, CallRefusedError) and error.kind in REFUSED:
                raise ConfigError(f"robot {name!r} may not take part: {error}") from error
            # Any other error says nothing of this robot: the coordinator, or its database, is away.
            config = _kept_configuration(kept)
            if config is not None:
                log.warning("coordinator_away using=%s cause=%r", kept, str(error))
                return config
            context.say(state="waits", waits_for="the coordinator")
            context.stopping.wait(ASK_EVERY_S)
            continue
        config = RobotConfig.from_json(answer)
        _keep_configuration(kept, json.dumps(answer).encode())
        return config
    return None


def _keep_configuration(path: Path, data: bytes) -> None:
    """Whole or not at all: on a full disk, or after a power cut, what was kept before still serves."""
    with contextlib.suppress(OSError):
        if path.read_bytes() == data:
            return
    with contextlib.suppress(ConfigError):
        write_private(path, data, replace=True)


def _kept_configuration(path: Path) -> RobotConfig | None:
    """What the coordinator said last; None if it cannot be read, which is no reason to end."""
    try:
        found: object = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise ValueError("expected a JSON object")
        return RobotConfig.from_json(cast(dict[str, Any], found))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LwdError) as error:
        log.warning("configuration_unreadable path=%s cause=%r", path, str(error))
        return None


def _local(
    context: ServiceContext,
    credential: Credential,
    link: NatsLink,
    objects: GrantedObjects,
    options: RobotOptions,
    config: RobotConfig,
    allowed: Allowed | None,
    stack: ExitStack,
) -> PolicySource:
    """Policies on this computer: downloaded in the background, verified, kept on disk."""
    source = objects if options.site_cache is None else CachedObjects(options.site_cache, objects)
    key, kind = credential.snapshot_public_key(), config.spec.name
    cache = SnapshotCache(options.folder / "snapshots", source, key, kind)
    encoder = InstructionEncoder(dim=config.instruction_dim)
    if allowed is not None:
        return PolicyFollower(
            allowed.snapshot, cache, key, config.spec, encoder, context.telemetry, released=allowed.files
        )
    kept = cache.newest()
    channel = NatsChannel(
        link, key, at_least=None if kept is None else kept.number, kind=kind, told=config.snapshot
    )
    stack.callback(channel.close)
    return PolicyFollower(channel.snapshot, cache, key, config.spec, encoder, context.telemetry)


def _remote(
    context: ServiceContext, options: RemoteOptions, config: RobotConfig, allowed: Allowed | None
) -> PolicySource:
    """Policies of a server. Under releases this robot asks for what it is allowed, and for nothing else."""

    def say(waits_for: str | None) -> None:
        context.say(state="runs" if waits_for is None else "waits", waits_for=waits_for)

    choices = None if allowed is None else allowed.choices
    return RemotePolicies(options, config.spec, context.telemetry, say, context.should_stop, choices)


def _build(config: RobotConfig, environment: str | None) -> tuple[Environment, Mapping[str, Operator]]:
    # The fleet's settings for a robot of one's own too; which code runs is for this computer alone to say.
    fleet = config.fleet if environment is None else replace(config.fleet, tier=environment)
    found, operators = fleet.build()
    if found.spec != config.spec:
        found.close()
        raise ConfigError(
            f"this computer's robot is {found.spec}, but it was invited as {config.spec}. Use the environment of that robot, "
            "or invite it as what it is."
        )
    missing = sorted(config.tasks.keys() - found.tasks.keys())
    if missing:
        found.close()
        raise ConfigError(
            f"this computer's robot has no task {', '.join(missing)}, which its fleet asks for; it has "
            f"{', '.join(found.tasks)}. Use the environment that the coordinator's recipe describes, or leave them out there "
            "(FleetSpec.tasks)."
        )
    for name, task in config.tasks.items():
        if found.tasks[name] != task:
            log.warning("task_differs here=%s fleet=%s", found.tasks[name], task)
    return found, operators


def _drain(context: ServiceContext, client: EdgeClient) -> None:
    deadline = time.monotonic() + DRAIN_S
    while client.pending()[0] and time.monotonic() < deadline:
        context.say(state="stopping", waits_for=f"the delivery of {client.pending()[0]} episodes")
        threading.Event().wait(POLL_S)
