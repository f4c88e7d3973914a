"""A networked fleet on one machine: which processes `lwd fleet up` supervises, with which credentials."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lwd.config import Experiment
from lwd.errors import ConfigError
from lwd.fleet.authority import Authority
from lwd.fleet.deployment import FleetFolder, found_fleet, invite, nats_server, write_broker
from lwd.fleet.folder import RunFolder
from lwd.fleet.robot_config import SIMULATED
from lwd.fleet.services import fleet_description
from lwd.fleet.supervisor import Managed, ends_with_parent

FLEET_NAME = "local"
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}


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
            ConfigError: no fleet in the folder and no broker to found one for, or nats-server is missing.
        """
        spec, _ = fleet_description(self.experiment)
        fleet = FleetFolder(RunFolder(self.out, self.catalogue, self.objects))
        if not fleet.founded:
            if self.broker is None:
                raise ConfigError(
                    f"{self.out} holds no fleet; found one with lwd fleet init, or give --broker tls://host:port."
                )
            found_fleet(fleet, FLEET_NAME, [self.broker])
        names = [f"{spec.name}-{i:02d}" for i in range(self.robots or self.experiment.fleet.robots)]
        roles = {"coordinator": "coordinator"}
        if self.learner:
            roles["learner"] = "learner"
        if self.evaluator:
            roles["evaluator"] = "evaluator"
        for name, role in [*roles.items(), *((name, "robot") for name in names)]:
            if not fleet.credential(name).exists():
                invite(fleet, name, role, spec.name, replace=True)
        managed = [self._service(fleet, role, number) for number, role in enumerate(roles)]
        managed += [self._robot(fleet, name) for name in names]
        if self.broker is not None:
            write_broker(fleet, Authority(fleet.path))
            command = ends_with_parent([nats_server(), "-c", str(fleet.broker)])
            managed.insert(0, Managed(name="broker", command=command, stage=0))
        return managed

    def _service(self, fleet: FleetFolder, role: str, number: int) -> Managed:
        options = ["--recipe", self.recipe, "--seed", str(self.experiment.seed), "--out", str(self.out)]
        options += ["--credential", str(fleet.credential(role)), *self._urls()]
        if self.metrics_port:
            options += ["--metrics-port", str(self.metrics_port + number)]
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
