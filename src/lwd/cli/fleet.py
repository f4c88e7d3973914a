"""Commands that found a fleet, invite into it, run it and look at it."""

from __future__ import annotations

import contextlib
import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console

from lwd.cli.options import RUN, Read, StageOptions, Stored, experiment, folder, print_json
from lwd.errors import ConfigError

if TYPE_CHECKING:
    from lwd.config import Experiment


@dataclass(frozen=True, kw_only=True)
class FleetUp(StageOptions):
    """Online RL on this machine: coordinator, learner, robots.

    By default without any server, until the recipe's experience is collected. With --broker or --bus every part is a
    process of its own (`lwd coordinator`, `lwd learner`, `lwd evaluator`, `lwd robot join`), restarted when it dies, until
    Ctrl-C. The stages before must have been run (`lwd collect`, `lwd train sft`, `lwd train offline`).

    Attributes:
        broker: found a fleet in the run folder if there is none, and run a nats-server for it at this address.
        bus: instead: the fleet's broker runs elsewhere, and this folder holds the fleet (`lwd fleet init`).
        robots: how many simulated robots run here; the recipe's number by default, 0 where all are elsewhere.
        evaluator: whether to evaluate new snapshots meanwhile.
        promote_with: how many robots test a new snapshot before all run it (`lwd promoter`); without it all take the newest.
        pace: of the simulated robots; 1 is the robot's control rate, 0 as fast as it goes.
        metrics_port: Prometheus port of the coordinator; the learner's is the next, then the evaluator's and the promoter's. 0
            for none.
    """

    broker: str | None = None
    bus: bool = False
    robots: int | None = None
    evaluator: bool = False
    promote_with: int | None = None
    pace: float = 0.0
    metrics_port: int = 0

    def run(self) -> None:
        """Run it."""
        if self.promote_with is not None and self.broker is None and not self.bus:
            raise ConfigError("--promote-with needs a fleet of processes: give --broker or --bus too.")
        chosen = experiment(self)
        self.check_catalogue()
        if self.broker is not None or self.bus:
            self._supervise(chosen)
            return
        from lwd.fleet.online import online

        snapshot = online(chosen, self.run_folder, Console())
        print(f"newest snapshot {snapshot.number} at learner step {snapshot.learner_step}")

    def _supervise(self, chosen: Experiment) -> None:
        from lwd.fleet.local import LocalFleet
        from lwd.fleet.service import ServiceContext
        from lwd.fleet.supervisor import Supervisor

        logging.getLogger("lwd").setLevel(logging.INFO)
        fleet = LocalFleet(
            experiment=chosen,
            recipe=self.recipe,
            out=self.out.absolute(),
            broker=self.broker,
            catalogue=self.catalogue,
            objects=self.objects,
            robots=self.robots,
            evaluator=self.evaluator,
            promote_with=self.promote_with,
            pace=self.pace,
            metrics_port=self.metrics_port,
        )
        managed = fleet.prepare()
        context = ServiceContext("fleet", "supervisor")
        stop = threading.Event()
        context.stop_sets(stop)
        print(
            f"{len(managed)} processes; logs in {fleet.logs}; `lwd status --out {self.out}` shows them; Ctrl-C stops all"
        )
        with context.signals():
            Supervisor(managed, fleet.logs).run(stop)


@dataclass(frozen=True, kw_only=True)
class FleetInit:
    """Found a fleet: certificate authority, key of the snapshots, nats-server's configuration.

    Attributes:
        name: of the fleet.
        server: address of the broker as robots will reach it, tls://host:port; several are allowed.
        out: run folder; the secrets go into its folder `fleet`.
    """

    name: str
    server: tuple[str, ...]
    out: Path = RUN

    def run(self) -> None:
        """Run it."""
        from lwd.fleet.deployment import FleetFolder, found_fleet

        fleet = FleetFolder(folder(self.out))
        found_fleet(fleet, self.name, self.server)
        print(f"fleet {self.name} founded in {fleet.path}")
        print(f"start its broker:  nats-server -c {fleet.broker}")
        print(f"invite:            lwd fleet invite robot-00 --out {self.out}")


@dataclass(frozen=True, kw_only=True)
class FleetInvite:
    """Make a credential: one file that lets a robot or a service join.

    Attributes:
        name: of the robot or service, one in the fleet.
        role: what it may do.
        spec: kind of robot: the RobotSpec.name of its environment ("scene", "metaworld", or your robot's).
        file: where the credential goes; by default fleet/credentials/NAME.json in the run folder.
        replace: revoke what this name holds and make a new one; also mends --spec while nothing was delivered.
        out: run folder with the fleet.
        catalogue: URL of the fleet's catalogue, in place of the run folder's own; kept, without its password, for later.
    """

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    role: Literal["robot", "coordinator", "learner", "promoter", "evaluator", "server", "operator"] = "robot"
    spec: str = "scene"
    file: Path | None = None
    replace: bool = False
    out: Path = RUN
    catalogue: str | None = None

    def run(self) -> None:
        """Run it."""
        from lwd.fleet.deployment import FleetFolder, invite
        from lwd.fleet.folder import RunFolder

        fleet = FleetFolder(RunFolder(self.out.absolute(), self.catalogue))
        _, path = invite(fleet, self.name, self.role, self.spec, self.file, replace=self.replace)
        print(path)
        if self.role == "robot":
            print(f"copy it to the robot's computer and run there: lwd robot join {path.name}")


@dataclass(frozen=True, kw_only=True)
class FleetRevoke:
    """Take back what a name holds: the broker lets it in no more, the coordinator grants it nothing.

    Attributes:
        name: of the robot or service.
        out: run folder with the fleet.
        catalogue: URL of the fleet's catalogue; by default the one that was named when somebody was invited.
    """

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    out: Path = RUN
    catalogue: str | None = None

    def run(self) -> None:
        """Run it."""
        from lwd.fleet.deployment import FleetFolder, revoke
        from lwd.fleet.folder import RunFolder

        count = revoke(FleetFolder(RunFolder(self.out.absolute(), self.catalogue)), self.name)
        print(f"{count} credentials of {self.name} revoked")


@dataclass(frozen=True, kw_only=True)
class Status(Read):
    """How the fleet is: every process with its last word, what waits for what, latencies, counts."""

    def run(self) -> None:
        """Run it."""
        from lwd.fleet.status import fleet_status, print_status

        with self.opened_catalogue() as catalogue:
            found = fleet_status(catalogue)
        if self.json:
            print_json(found)
        else:
            print_status(Console(), found)


@dataclass(frozen=True, kw_only=True)
class Dashboard(Stored):
    """A page that shows the running fleet and refreshes itself: what `lwd status` says, and how the policy does.

    Read-only, for browsers on this machine. Evaluations are those of `lwd evaluator` in the run folder.

    Attributes:
        host: 127.0.0.1, ::1 or localhost: the page asks nobody who they are. From elsewhere, open it through ssh -L.
        port: 0 for a free one.
    """

    host: str = "127.0.0.1"
    port: int = 8460

    def run(self) -> None:
        """Run it."""
        from lwd.dashboard.gather import Gathering
        from lwd.dashboard.server import serving
        from lwd.fleet.service import ServiceContext

        self.check_catalogue()
        context = ServiceContext("dashboard", "dashboard")
        with (
            context.signals(),
            contextlib.closing(Gathering(self.run_folder)) as gathering,
            serving(gathering.document, self.host, self.port) as url,
        ):
            print(f"{url}  Ctrl-C stops it", flush=True)
            context.stopping.wait()


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Look for what keeps a fleet from working, and say what to do. Exit code 1 if something was found.

    Attributes:
        credential: this machine's credential file.
        guard: file of a robot's action guard.
        out: run folder: its catalogue, objects and disk are looked at too.
        catalogue: URL in place of the run folder's own.
        objects: URL in place of the run folder's own.
    """

    credential: Path | None = None
    guard: Path | None = None
    out: Path | None = None
    catalogue: str | None = None
    objects: str | None = None

    def run(self) -> None:
        """Run it."""
        from lwd.fleet.doctor import examine, print_findings
        from lwd.fleet.folder import RunFolder

        if self.credential is None and self.guard is None and self.out is None:
            raise ConfigError(
                "nothing to look at; give --credential FILE on a robot, --out FOLDER on a server, or both."
            )
        run = None if self.out is None else RunFolder(self.out.absolute(), self.catalogue, self.objects)
        findings = examine(self.credential, run, self.guard)
        print_findings(Console(), findings)
        if any(not finding.good for finding in findings):
            raise SystemExit(1)
