"""Commands that are one process of a networked fleet each; what a unit file or a container runs."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from lwd.cli.job import JobOptions, joined, watch
from lwd.cli.options import RUN, existing, experiment, log_to_stderr
from lwd.cli.upkeep import parse_bytes
from lwd.errors import ConfigError

if TYPE_CHECKING:
    from lwd.fleet.folder import RunFolder
    from lwd.fleet.serve.batcher import BatchSettings
    from lwd.fleet.serve.client import RemoteOptions
    from lwd.fleet.serve.server import ServerSettings
    from lwd.fleet.service import ServiceContext


@dataclass(frozen=True, kw_only=True)
class Service:
    """Options of the services.

    Attributes:
        out: folder for what the service keeps: checkpoints, metrics, keys.
        credential: this service's credential file; it names the broker.
        bus: address of a broker without credentials (nats://host:port), for a closed network.
        catalogue: postgresql://user@host/database, or a path.
        objects: s3://bucket/prefix?endpoint=http://host:port, or a folder.
        recipe: name of the experiment (`lwd show` lists them), or package.module:function, a function of the seed that returns
            a lwd.config.Experiment.
        seed: seed of the experiment.
        metrics_port: Prometheus port, 0 for none.
        metrics_address: address that it listens on.
    """

    out: Path = RUN
    credential: Path | None = None
    bus: str | None = None
    catalogue: str | None = None
    objects: str | None = None
    recipe: str = "scene"
    seed: int = 0
    metrics_port: int = 0
    metrics_address: str = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class CoordinatorCommand(Service):
    """The coordinator: the only writer of the catalogue. Episodes in, manifests out; one per fleet.

    Attributes:
        also: further recipes, for a fleet of several kinds of robots.
        public_objects: http(s)://host:port under which robots reach the object store, if not at its endpoint.
        follow: which snapshots robots run: the newest that is announced, or what a release allows them (`lwd promoter`).
            Robots ask when they start.
    """

    also: tuple[str, ...] = ()
    public_objects: str | None = None
    follow: Literal["newest", "releases"] = "newest"

    def run(self) -> None:
        """Run it."""
        from lwd.fleet.coordinator import run_coordinator
        from lwd.recipes import recipe

        experiments = [recipe(name, self.seed) for name in (self.recipe, *self.also)]
        with serving(self, "coordinator") as (context, run_folder):
            run_coordinator(context, experiments, run_folder, self.public_objects, follow=self.follow)


@dataclass(frozen=True, kw_only=True)
class LearnerCommand(JobOptions, Service):
    """The learner: follows the manifests, learns, publishes snapshots. Resumes from its newest checkpoint.

    A recipe whose learner takes turns with the fleet (`OnlineStage.rounds`) learns after every part of its hours; robots go on.
    """

    def run(self) -> None:
        """Run it, or watch over the processes that do."""
        if self.is_watched:
            watch(self, self.out)
            return
        from lwd.fleet.learner import run_learner
        from lwd.fleet.learner_rounds import run_learner_in_rounds

        x = experiment(self)
        with (
            joined(self) as team,
            serving(self, "learner", self.process_id or 0) as (context, run_folder),
        ):
            if x.online.rounds:
                run_learner_in_rounds(context, x, run_folder, team)
            else:
                run_learner(context, x, run_folder, catch_up=False, team=team)


@dataclass(frozen=True, kw_only=True)
class EvaluatorCommand(Service):
    """The evaluator: evaluates new snapshots on simulated robots, on starts that training never sees.

    Attributes:
        every_s: seconds between two beginnings.
        episodes: per task.
    """

    every_s: float = 600.0
    episodes: int = 10

    def run(self) -> None:
        """Run it."""
        from lwd.fleet.evaluator import run_evaluator

        chosen = experiment(self)
        with serving(self, "evaluator") as (context, run_folder):
            run_evaluator(context, chosen, run_folder, self.every_s, self.episodes)


@dataclass(frozen=True, kw_only=True)
class ServeCommand(Service):
    """A policy server: answers robots over openpi's websocket protocol with the fleet's newest policy.

    Without --bus and --credential it follows the snapshots of the run folder alone.

    Attributes:
        host: where it listens; another host than this one needs --token-file.
        port: the port there.
        token_file: who may ask, one "NAME TOKEN" per line, mode 0600.
        new_token: only add a token for this name to --token-file, and print the line for its owner.
        tls_certificate: PEM file; clients then use wss://.
        tls_key: PEM file of its key.
        snapshot: serve this one and no other.
        follow: the newest snapshot; or what releases name, for robots that follow them (`lwd coordinator --follow releases`).
        max_batch: most requests of one policy call.
        collect_ms: longest time that a request waits for others while the policy is idle.
        room: most snapshots in memory at once.
        silent_s: for how long an episode that asks nothing holds its snapshot where the room is needed.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token_file: Path | None = None
    new_token: str | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    snapshot: int | None = None
    follow: Literal["newest", "releases"] = "newest"
    max_batch: int = 16
    collect_ms: float = 3.0
    room: int = 4
    silent_s: float = 120.0

    def run(self) -> None:
        """Run it."""
        from lwd.fleet.serve.tokens import new_token

        if self.new_token is not None:
            if self.token_file is None:
                raise ConfigError("--new-token needs --token-file, the file to add it to.")
            print(f"{self.new_token} {new_token(self.token_file, self.new_token)}")
            return
        if self.catalogue is None:
            existing(self.out)
        from lwd.fleet.serve.batcher import BatchSettings
        from lwd.fleet.serve.service import ServeOptions, run_serve

        options = ServeOptions(
            server=_server_settings(
                self, BatchSettings(max_batch=self.max_batch, collect_s=self.collect_ms / 1000)
            ),
            tokens=self.token_file,
            snapshot=self.snapshot,
            follow=self.follow,
            room=self.room,
            silent_s=self.silent_s,
        )
        chosen = experiment(self)
        with serving(self, "server", alone=True) as (context, run_folder):
            run_serve(context, chosen, run_folder, options)


@dataclass(frozen=True, kw_only=True)
class RobotJoin:
    """Take part in a fleet: all that a robot's computer runs. Outbound connections only; no JAX, no bucket key.

    Attributes:
        file: the credential, from `lwd fleet invite`.
        out: folder for spool and snapshots; by default .lwd/FLEET/ROBOT in the home directory.
        environment: package.module:function that is called with a FleetSpec and returns this robot's Environment and its
            operators by name (docs/how-to/add_a_robot.md); without it the simulator that the fleet's recipe names.
        guard: JSON file with the limits of this robot's action guard (docs/how-to/add_a_robot.md); without it there are none.
        pace: 1 keeps the robot's control rate, 0 runs as fast as it goes.
        shared_folder: the fleet is on this machine and its objects are in a folder.
        ca_file: certificates of the object store's authority, where it is not a public one.
        site_cache: URL of the site's snapshot cache (`lwd site-cache`).
        spool: bytes that undelivered episodes may take, such as 20G; without it as much as the disk holds. Autonomous successes
            go first, failures and interventions last, and what goes is counted and reported.
        metrics_port: Prometheus port, 0 for none.
        policy_server: ws://host:port or wss://host:port of an lwd serve that drives in place of a policy on this computer.
        token_file: this robot's token for it, mode 0600.
        policy_ca_file: certificates of the policy server's authority, where it is not a public one.
    """

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    out: Path | None = None
    environment: str | None = None
    guard: Path | None = None
    pace: float = 0.0
    shared_folder: bool = False
    ca_file: str | None = None
    site_cache: str | None = None
    spool: str | None = None
    metrics_port: int = 0
    policy_server: str | None = None
    token_file: Path | None = None
    policy_ca_file: str | None = None

    def run(self) -> None:
        """Run it."""
        from lwd.fleet.credential import load_credential
        from lwd.fleet.robot import RobotOptions, run_robot
        from lwd.fleet.service import ServiceContext
        from lwd.fleet.supervisor import stop_with_parent
        from lwd.robot.guard_limits import load_limits

        credential = load_credential(self.file)
        if credential.role != "robot":
            raise ConfigError(
                f"{self.file} is the credential of a {credential.role}; a robot needs one of role robot."
            )
        guard = None if self.guard is None else load_limits(self.guard)
        log_to_stderr()
        options = RobotOptions(
            folder=self.out or Path.home() / ".lwd" / credential.fleet / credential.name,
            environment=self.environment,
            pace=self.pace,
            shared_folder=self.shared_folder,
            ca_file=self.ca_file,
            site_cache=self.site_cache,
            spool_bytes=None if self.spool is None else parse_bytes(self.spool),
            remote=self._remote(),
            guard=guard,
        )
        context = ServiceContext(credential.name, "robot")
        stop_with_parent(context.stopping)
        if self.metrics_port:
            context.telemetry.serve(self.metrics_port)
        with context.signals():
            run_robot(context, credential, options)

    def _remote(self) -> RemoteOptions | None:
        from lwd.fleet.serve.client import RemoteOptions
        from lwd.fleet.serve.tokens import load_token

        if self.policy_server is None:
            return None
        token = None if self.token_file is None else load_token(self.token_file)
        return RemoteOptions(url=self.policy_server, token=token, ca_file=self.policy_ca_file)


def _server_settings(options: ServeCommand, batch: BatchSettings) -> ServerSettings:
    try:
        from lwd.fleet.serve.server import ServerSettings
    except ImportError as error:
        raise ConfigError(
            f"lwd serve needs websockets and msgpack: pip install 'lwd[fleet]' ({error})."
        ) from error
    return ServerSettings(
        host=options.host,
        port=options.port,
        certificate=options.tls_certificate,
        key=options.tls_key,
        batch=batch,
    )


@contextmanager
def serving(
    options: Service, role: str, number: int = 0, *, alone: bool = False
) -> Generator[tuple[ServiceContext, RunFolder]]:
    """What every service does around its work: folder, signals, status, metrics.

    A further process (`number`) has it in its name; `alone`: it can do without a broker.
    """
    from lwd.fleet.credential import load_credential
    from lwd.fleet.folder import RunFolder
    from lwd.fleet.reporting import reporting
    from lwd.fleet.service import ServiceContext
    from lwd.fleet.supervisor import stop_with_parent

    if options.bus is None and options.credential is None and not alone:
        raise ConfigError(
            f"lwd {role} needs --credential FILE (from lwd fleet invite) or --bus nats://host:port."
        )
    name = role
    if options.credential is not None:
        credential = load_credential(options.credential)
        if credential.role != role:
            raise ConfigError(
                f"{options.credential} is the credential of a {credential.role}, not of a {role}."
            )
        name = credential.name
    log_to_stderr()
    run_folder = RunFolder(
        options.out.absolute(),
        options.catalogue,
        options.objects,
        bus_url=options.bus,
        credential=options.credential,
    )
    context = ServiceContext(f"{name}-{number}" if number else name, role)
    stop_with_parent(context.stopping)
    if options.metrics_port:
        context.telemetry.serve(options.metrics_port + number, options.metrics_address)
    with context.signals(), reporting(context, run_folder):
        yield context, run_folder
