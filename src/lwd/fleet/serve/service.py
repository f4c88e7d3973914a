"""The process of `lwd serve`: snapshots in, chunks out, until told to stop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from lwd import __version__
from lwd.config import Experiment
from lwd.errors import ConfigError, RobotError
from lwd.fleet.folder import RunFolder, Services, open_services
from lwd.fleet.policies import newest_announced
from lwd.fleet.robot_config import NEWEST, RELEASES, Follow
from lwd.fleet.serve.held import SILENT_S, HeldSnapshots, Runner
from lwd.fleet.serve.policies import ServerFollower, Wanted, driver_runner, loader, only, released
from lwd.fleet.serve.server import PolicyServer, ServerSettings
from lwd.fleet.serve.tokens import TokenFile
from lwd.fleet.service import Context
from lwd.fleet.services import fleet_description
from lwd.log.checks import LOOPBACK
from lwd.snapshot.releases import ReleaseStore

log = logging.getLogger(__name__)

SAY_EVERY_S = 0.2

MakeRunner = Callable[[Experiment, int], Runner]
"""A runner of an experiment's model for batches of at most so many rows."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How a policy is served.

    Attributes:
        server: where to listen, and limits.
        tokens: file of tokens; without it only this machine may ask.
        snapshot: the only snapshot to serve, None to follow what is new.
        follow: what is new: "newest", or "releases": all that a release names, for robots that follow releases.
        room: most snapshots that are loaded at once; each costs a policy's memory.
        linger_s: for how long a snapshot stays after its last episode.
        silent_s: for how long an episode holds its snapshot after its last request, where room is needed.
    """

    server: ServerSettings = field(default_factory=ServerSettings)
    tokens: Path | None = None
    snapshot: int | None = None
    follow: Follow = NEWEST
    room: int = 4
    linger_s: float = 30.0
    silent_s: float = SILENT_S

    def __post_init__(self) -> None:
        if self.snapshot is not None and self.follow == RELEASES:
            raise ConfigError("a policy server serves one snapshot or follows releases, not both.")
        if self.room < 2:
            raise ConfigError(
                f"room must be at least 2 (the running snapshot and the next one), got {self.room}."
            )
        patience_s = self.server.batch.patience_s
        if not self.silent_s > patience_s:  # else an episode whose request waits would count as silent
            raise ConfigError(
                f"silent_s must be more than the {patience_s:g} s that a request may wait, got {self.silent_s:g}."
            )
        if self.tokens is None and self.server.host not in LOOPBACK:
            raise ConfigError(
                f"a policy server on {self.server.host} needs --token-file; without one it only listens on 127.0.0.1."
            )
        if (self.server.certificate is None) != (self.server.key is None):
            raise ConfigError("TLS needs both --tls-certificate and --tls-key.")


def run_serve(
    context: Context,
    experiment: Experiment,
    folder: RunFolder,
    options: ServeOptions,
    make_runner: MakeRunner = driver_runner,
) -> None:
    """Serve the fleet's policy until told to stop.

    Args:
        context: when to stop, and who is told.
        experiment: robot, model, and `serve`: the keys of an observation.
        folder: of the snapshots.
        options: where to listen.
        make_runner: for the experiment's model.

    Raises:
        ConfigError: it cannot listen, or the tokens cannot be read.
        SnapshotError: the only snapshot to serve does not exist, or is refused.
        RobotError: the server's thread died.
    """
    spec, _ = fleet_description(experiment)
    tokens = None if options.tokens is None else TokenFile(options.tokens)
    runner = make_runner(experiment, options.server.batch.max_batch)
    held = HeldSnapshots(runner, options.room, options.linger_s, options.silent_s)
    metadata = {"server": "lwd", "version": __version__, "recipe": experiment.name, "follow": options.follow}
    with ExitStack() as stack:
        services = stack.enter_context(open_services(folder))
        if options.snapshot is not None:
            services.snapshots.read(options.snapshot)  # else it would be waited for, for ever
        wanted = _wanted(options, services, spec.name, held)
        follower = ServerFollower(wanted, loader(experiment, services), held, context.telemetry)
        stack.callback(follower.close)
        server = stack.enter_context(
            PolicyServer(
                held, runner, spec, experiment.serve, options.server, tokens, context.telemetry, metadata
            )
        )
        log.info("policy_server_listens host=%s port=%d", options.server.host, server.port)
        while not context.should_stop():
            if options.snapshot in follower.refused:
                raise follower.refused[options.snapshot]
            if not server.alive:
                raise RobotError("the policy server's thread died; its log says why. Start it again.")
            context.say(
                state="runs" if held.newest is not None else "waits",
                waits_for=follower.waits_for,
                port=server.port,
                snapshot=held.newest,
                loaded=len(held.loaded()),
                **server.status(),
            )
            time.sleep(SAY_EVERY_S)


def _wanted(
    options: ServeOptions, services: Services, kind: str, held: HeldSnapshots
) -> Callable[[], Wanted | None]:
    """What is to be loaded; cheap enough to be asked ten times a second."""
    if options.snapshot is not None:
        one = only(options.snapshot)
        return lambda: one
    if options.follow == NEWEST:

        def newest() -> Wanted | None:
            number = max(newest_announced(services, kind) or 0, held.newest or 0)  # it never goes back
            return only(number) if number else None

        return newest
    store = ReleaseStore(services.catalogue, services.snapshots, services.snapshots.public_key)
    return lambda: released(store.newest(kind))
