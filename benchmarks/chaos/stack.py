"""The stack under test: the fleet as `lwd fleet up` would run it, with proxies between its parts and everything supervised."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.chaos import servers
from benchmarks.chaos.prepare import DONE, move
from benchmarks.chaos.process import CLOCK, WITNESS, set_clock
from benchmarks.chaos.proxy import Proxies, Proxy
from benchmarks.chaos.recipe import experiment
from benchmarks.chaos.schedule import robot_name
from benchmarks.chaos.toy import CONTROL, LEAVE
from lwd.fleet.credential import load_credential
from lwd.fleet.deployment import FleetFolder
from lwd.fleet.folder import RunFolder
from lwd.fleet.local import ONE_THREAD, LocalFleet
from lwd.fleet.supervisor import Managed, Supervisor

ROOT = Path(__file__).resolve().parents[2]
RECIPE = "benchmarks.chaos.recipe:experiment"
PREPARE_LIMIT_S = 900.0
LEAVE_S = 3.0
SPOOL_BYTES = 8 * 2**20
"""Size of the disk of the robot whose disk is filled."""


@dataclass
class Stack:
    """Folders, ports, proxies and supervisors of one run. Use it as a context manager, then `start`.

    Attributes:
        folder: everything is below it.
        robots: how many.
        prepared: folder of the stages before the deployment, made there if it is empty; a new one by default.
    """

    folder: Path
    robots: int
    prepared: Path | None = None
    proxies: dict[str, Proxy] = field(default_factory=dict[str, Proxy])
    small_disk: bool = False

    def __post_init__(self) -> None:
        self.run = self.folder / "run"
        self.witness, self.control = self.folder / "witness", self.folder / "control"
        self._ports = {name: servers.free_port() for name in ("broker", "database", "store")}
        self._exit = ExitStack()
        self._supervisors: list[tuple[Supervisor, threading.Event, threading.Thread]] = []

    @property
    def broker_url(self) -> str:
        """The broker itself, not behind a proxy."""
        return f"tls://127.0.0.1:{self._ports['broker']}"

    @property
    def direct(self) -> RunFolder:
        """Catalogue and objects, not behind proxies."""
        return RunFolder(
            self.run,
            servers.database_url(self._ports["database"]),
            servers.store_url(self._ports["store"]),
        )

    @property
    def pids(self) -> dict[str, int]:
        """Pids of what runs now, by name."""
        return {name: pid for each, _, _ in self._supervisors for name, pid in each.pids.items()}

    @property
    def restarts(self) -> int:
        """How often the supervisors started something again."""
        return sum(each.restarts for each, _, _ in self._supervisors)

    @property
    def names(self) -> list[str]:
        """All processes that must run."""
        services = ["database", "store", "broker", "coordinator", "learner", "evaluator", "reader"]
        return services + self.robot_names

    @property
    def robot_names(self) -> list[str]:
        """The robots."""
        return [robot_name(i) for i in range(self.robots)]

    def spool(self, robot: str) -> Path:
        """A robot's spool."""
        return self.run / "robots" / robot / "spool"

    def log(self, name: str) -> Path:
        """A process's log."""
        return self.run / "logs" / f"{name}.log"

    def clock(self, name: str) -> Path:
        """The file that moves a process's clock."""
        return self.folder / "clock" / name

    def __enter__(self) -> Stack:
        os.environ.update(servers.KEYS)  # this process reads the store too
        for folder in (self.witness, self.control):
            folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        while self._supervisors:
            self._end(len(self._supervisors) - 1)
        self._exit.close()

    def start_servers(self) -> None:
        """Database, store and the proxies."""
        opened = self._exit.enter_context(Proxies())
        targets = {
            "robots-broker": "broker",
            "services-broker": "broker",
            "robots-store": "store",
            "services-store": "store",
            "services-database": "database",
        }
        self.proxies = {name: opened.open(self._ports[target]) for name, target in targets.items()}
        # Not below `folder`: Postgres does not run as root, and only root may be able to enter that.
        data = self._exit.enter_context(
            tempfile.TemporaryDirectory(prefix="lwd-chaos-", ignore_cleanup_errors=True)
        )
        Path(data).chmod(0o755)
        self._supervise(
            self.folder / "servers",
            [
                servers.database(Path(data) / "postgres", self._ports["database"]),
                servers.store(self._ports["store"]),
            ],
        )
        servers.wait_for_database(self._ports["database"])
        servers.make_bucket(self._ports["store"])

    def prepare(self) -> None:
        """The stages before the deployment, in a process of their own, then moved to database and store."""
        source = self.prepared or self.folder / "prepared"
        if not (source / DONE).exists():
            source.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, "-m", "benchmarks.chaos.prepare", str(source)]
            with (self.folder / "prepare.log").open("wb") as out:
                environment = {**os.environ, **self._environment()}
                subprocess.run(
                    command, check=True, timeout=PREPARE_LIMIT_S, stdout=out, stderr=out, env=environment
                )
        move(source, self.direct)

    def start_fleet(self) -> None:
        """Broker, services, robots."""
        self._mount()
        fleet = LocalFleet(
            experiment=experiment(),
            recipe=RECIPE,
            out=self.run,
            broker=self.broker_url,
            catalogue=servers.database_url(self.proxies["services-database"].port),
            objects=servers.store_url(self.proxies["services-store"].port),
            robots=self.robots,
            evaluator=True,
            pace=1.0,
        )
        managed = [self._arranged(item) for item in fleet.prepare()]
        found = FleetFolder(RunFolder(self.run))
        for item in managed:
            if item.name != "broker":
                link = "robots-broker" if item.stage == 3 else "services-broker"
                self._redirect(found.credential(item.name), self.proxies[link].port)
        managed.append(self._reader(str(fleet.catalogue), str(fleet.objects)))
        self._supervise(self.run / "logs", managed)

    def stop_fleet(self) -> None:
        """In order: robots first, broker last. Database and store stay."""
        # Held robots are let go only when they have been told to stop, so that none begins one more episode.
        leave = threading.Timer(LEAVE_S, (self.control / LEAVE).touch)
        leave.start()
        self._end(1)
        leave.join()

    def _arranged(self, item: Managed) -> Managed:
        """The same process with our witness, clock and keys, reached through the proxies."""
        command, environment = list(item.command), {**item.environment}
        if item.name == "broker":
            return item
        assert command[1:3] == ["-m", "lwd.cli"], command
        command[2] = "benchmarks.chaos.process"
        set_clock(self.clock(item.name), 0.0)
        environment |= self._environment() | {CLOCK: str(self.clock(item.name))}
        if item.stage == 3:
            environment |= {WITNESS: str(self.witness), CONTROL: str(self.control)}
            environment |= dict.fromkeys(servers.KEYS, "")  # robots hold no bucket key
        if item.name == "coordinator":
            command += ["--public-objects", f"http://127.0.0.1:{self.proxies['robots-store'].port}"]
        if item.name == "evaluator":
            command += ["--every-s", "60", "--episodes", "1"]
        return replace(item, command=command, environment=environment)

    def _reader(self, catalogue: str, objects: str) -> Managed:
        command = [sys.executable, "-m", "benchmarks.chaos.reader", "--out", str(self.run)]
        command += ["--catalogue", catalogue, "--objects", objects]
        return Managed(name="reader", command=command, environment=self._environment(), stage=2)

    def _environment(self) -> Mapping[str, str]:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        return {
            **ONE_THREAD,
            **servers.KEYS,
            "PYTHONPATH": path,
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiled to run a few times
            "JAX_COMPILATION_CACHE_DIR": str((self.prepared or self.folder) / "jax"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }

    def _redirect(self, path: Path, port: int) -> None:
        """Let a credential name the proxy in place of the broker."""
        credential = load_credential(path)
        path.unlink()
        replace(credential, servers=(f"tls://127.0.0.1:{port}",)).save(path)

    def _mount(self) -> None:
        """A small disk of its own for one robot, where we may."""
        place = self.run / "robots" / robot_name(0)
        place.mkdir(parents=True, exist_ok=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={SPOOL_BYTES}", "lwd-chaos", str(place)]
        self.small_disk = os.geteuid() == 0 and _succeeds(mount)
        if self.small_disk:
            self._exit.callback(_succeeds, ["umount", "-l", str(place)])

    def _supervise(self, logs: Path, managed: Sequence[Managed]) -> None:
        supervisor, stop = Supervisor(managed, logs), threading.Event()
        thread = threading.Thread(target=supervisor.run, args=(stop,), name="chaos-supervisor", daemon=True)
        thread.start()
        self._supervisors.append((supervisor, stop, thread))

    def _end(self, index: int) -> None:
        _, stop, thread = self._supervisors.pop(index)
        stop.set()
        thread.join()


def _succeeds(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=30).returncode == 0
    except OSError:
        return False
