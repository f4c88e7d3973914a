"""A networked fleet on one machine: which processes `lwd fleet up` supervises, with which credentials."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lwd.config import Experiment
from lwd.errors import ConfigError
from lwd.fleet.authority import Authority, server_address
from lwd.fleet.broker import server_pid
from lwd.fleet.deployment import FleetFolder, found_fleet, invite, nats_server, write_broker
from lwd.fleet.folder import RunFolder
from lwd.fleet.robot_config import SIMULATED
from lwd.fleet.services import fleet_description
from lwd.fleet.supervisor import ONE_THREAD, Managed, ends_with_parent
from lwd.snapshot.promotion import MAX_CANARIES

FLEET_NAME = "local"


@dataclass(frozen=True, kw_only=True)
class LocalFleet:
    """What `lwd fleet up` was asked for; see `lwd.cli.fleet.FleetUp`."""

    experiment: Experiment
    recipe: str
    out: Path
    broker: str | None
    catalogue: str | None = None
    objects: str | None = None
    robots: int | None = None
    evaluator: bool = False
    promote_with: int | None = None
    pace: float = 0.0
    metrics_port: int = 0
    learner: bool = True

    @property
    def logs(self) -> Path:
        """Where the processes' logs are."""
        return self.out / "logs"

    def prepare(self) -> list[Managed]:
        """Found the fleet and invite everybody where that is still to do; the processes to run.

        Raises:
            ConfigError: no fleet in the folder and no broker to found one for, a broker at another address than the
                fleet's, a number of robots below 0 or of canaries below 1, or nats-server is missing.
        """
        if self.promote_with is not None and not 1 <= self.promote_with <= MAX_CANARIES:
            raise ConfigError(f"--promote-with {self.promote_with}: expected 1 to {MAX_CANARIES} robots.")
        spec, _ = fleet_description(self.experiment)
        run = RunFolder(self.out, self.catalogue, self.objects)
        fleet = FleetFolder(
            replace(run, catalogue_url=run.catalogue)
        )  # the register is where these services look
        authority = self._authority(fleet)
        names = self._robot_names(authority, spec.name)
        roles = {"coordinator": "coordinator"}
        if self.learner:
            roles["learner"] = "learner"
        if self.evaluator:
            roles["evaluator"] = "evaluator"
        if self.promote_with is not None:
            roles["promoter"] = "promoter"
        for name, role in [*roles.items(), *((name, "robot") for name in names)]:
            if not fleet.credential(name).exists():
                invite(fleet, name, role, spec.name, replace=True)
        managed = [self._service(fleet, role, number) for number, role in enumerate(roles)]
        managed += [self._robot(fleet, name) for name in names]
        if self.broker is not None:
            if server_pid(fleet.pidfile) is None:
                fleet.pidfile.unlink(missing_ok=True)  # of a broker that was killed
            write_broker(fleet, authority)
            command = ends_with_parent([nats_server(), "-c", str(fleet.broker)])
            managed.insert(0, Managed(name="broker", command=command, stage=0))
        return managed

    def _authority(self, fleet: FleetFolder) -> Authority:
        """The folder's fleet, founded where there is none."""
        if not fleet.founded:
            if self.broker is None:
                raise ConfigError(
                    f"{self.out} holds no fleet; found one with lwd fleet init, or give --broker tls://host:port."
                )
            return found_fleet(fleet, FLEET_NAME, [self.broker])
        authority = Authority(fleet.path)
        servers = authority.info.servers
        if self.broker is not None and server_address(self.broker) not in map(server_address, servers):
            raise ConfigError(
                f"the fleet in {str(fleet.path)!r} has its broker at {', '.join(servers)}, not at {self.broker}: its "
                f"credentials say so. Give --broker {servers[0]}, or choose another --out."
            )
        return authority

    def _robot_names(self, authority: Authority, kind: str) -> list[str]:
        """As many names as robots are asked for; those that were revoked do not come back."""
        count = self.experiment.fleet.robots if self.robots is None else self.robots
        if count < 0:
            raise ConfigError(f"--robots {count}: expected 0 or more simulated robots.")
        revoked = {member.name for member in authority.members() if member.revoked_at is not None}
        revoked -= {member.name for member in authority.valid_members()}
        names = (f"{kind}-{number:02d}" for number in itertools.count())
        return list(itertools.islice((name for name in names if name not in revoked), count))

    def _service(self, fleet: FleetFolder, role: str, number: int) -> Managed:
        options = ["--recipe", self.recipe, "--seed", str(self.experiment.seed), "--out", str(self.out)]
        options += ["--credential", str(fleet.credential(role)), *self._urls()]
        if self.metrics_port:
            options += ["--metrics-port", str(self.metrics_port + number)]
        if self.promote_with is not None:
            more = {
                "coordinator": ["--follow", "releases"],
                "promoter": ["--canaries", str(self.promote_with)],
            }
            options += more.get(role, [])
        stage = 1 if role == "coordinator" else 2
        return Managed(name=role, command=[*_lwd(), role, *options], environment=ONE_THREAD, stage=stage)

    def _robot(self, fleet: FleetFolder, name: str) -> Managed:
        command = [
            *_lwd(),
            "robot",
            "join",
            str(fleet.credential(name)),
            "--out",
            str(self.out / "robots" / name),
        ]
        command += ["--pace", str(self.pace)]
        if self.objects is None or "://" not in self.objects:
            command.append("--shared-folder")
        if self.experiment.fleet.deployed.tier not in SIMULATED:
            command += ["--environment", self.experiment.fleet.deployed.tier]
        return Managed(name=name, command=command, environment=ONE_THREAD, stage=3)

    def _urls(self) -> Sequence[str]:
        found: list[str] = []
        for option, url in (("--catalogue", self.catalogue), ("--objects", self.objects)):
            found += [] if url is None else [option, url]
        return found


def _lwd() -> list[str]:
    return [sys.executable, "-m", "lwd.cli"]
