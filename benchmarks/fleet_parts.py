"""A real fleet for benchmarks: broker with TLS and a synced disk, Postgres, object store, and each part a process.

The processes are in `fleet_roles`; what they measure comes back as JSON.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lwd.fleet.authority import Authority
from lwd.fleet.broker import BrokerConfig, render
from lwd.fleet.credential import Credential, load_credential
from lwd.log import tables
from lwd.log.catalogue import Catalogue
from tests.servers import NatsServer, PostgresServer, S3Server, running

ROOT = Path(__file__).resolve().parents[1]
START_TIMEOUT_S = 600.0
BUCKET = "fleet"
KEY = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench-secret"}


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """The servers of one fleet, and who belongs to it."""

    folder: Path
    host: str
    key: Ed25519PrivateKey
    authority: Authority
    nats: NatsServer
    postgres: PostgresServer
    s3: S3Server | None
    credentials: Mapping[str, Path]

    @property
    def robots(self) -> list[str]:
        """Names of the robots."""
        return [name for name in self.credentials if name not in ("coordinator", "learner")]

    def credential(self, name: str) -> Credential:
        """What a member joins with."""
        return load_credential(self.credentials[name])

    def database(self, name: str) -> str:
        """A catalogue of its own, in which all robots are registered; its URL."""
        url = self.postgres.create_database(name)
        register(url, self.robots)
        return url

    def bucket(self, name: str) -> str:
        """URL of an S3 bucket of its own."""
        assert self.s3 is not None
        request = urllib.request.Request(f"http://{self.host}:{self.s3.port}/{name}", method="PUT")
        urllib.request.urlopen(request, timeout=60).close()
        return f"s3://{name}?endpoint=http://{self.host}:{self.s3.port}"


def register(url: str, names: Sequence[str]) -> None:
    """Enter robots into a catalogue's register, all at once."""
    rows = [{"name": name, "spec": "bench", "invited_at": time.time()} for name in names]
    with Catalogue(url) as catalogue, catalogue.write() as connection:
        connection.execute(sa.insert(tables.robots), rows)


@contextmanager
def fleet(count: int, *, s3: bool = False, host: str = "127.0.0.1") -> Generator[Fleet]:
    """The servers of a fleet of `count` robots; they end with the block.

    Args:
        count: robots that get a credential.
        s3: whether to start an S3 server too.
        host: address that robots reach the servers at; they listen there and on loopback.
    """
    os.environ.update(KEY)  # for this process and its children; the S3 server takes any key
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lwd-bench-")))
        folder.chmod(0o755)  # Postgres does not run as root
        key = Ed25519PrivateKey.generate()
        (folder / "nats").mkdir()
        (folder / "postgres").mkdir()
        (folder / "s3").mkdir()

        def configuration(server: NatsServer) -> str:
            store = server.folder / "store"
            listen = "127.0.0.1" if host == "127.0.0.1" else "0.0.0.0"
            config = BrokerConfig(host=listen, port=server.port, store=store, pidfile=server.pidfile)
            return render(authority, config)

        nats = NatsServer(folder / "nats", config=configuration)
        authority = Authority.create(
            folder / "fleet", "bench", [f"tls://{host}:{nats.port}"], key.public_key()
        )
        credentials: dict[str, Path] = {}
        names = [f"robot-{i:04d}" for i in range(count)]
        for name, role in [("coordinator",) * 2, ("learner",) * 2, *((name, "robot") for name in names)]:
            credentials[name] = folder / f"{name}.json"
            authority.invite(name, role).save(credentials[name])
        stack.enter_context(running(nats))
        postgres = stack.enter_context(running(PostgresServer(folder / "postgres")))
        store = stack.enter_context(running(_Everywhere(folder / "s3"))) if s3 else None
        yield Fleet(
            folder=folder,
            host=host,
            key=key,
            authority=authority,
            nats=nats,
            postgres=postgres,
            s3=store,
            credentials=credentials,
        )


class _Everywhere(S3Server):
    """moto on all addresses, so that other network namespaces reach it."""

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "moto.server", "-H", "0.0.0.0", "-p", str(self.port)]


class Part:
    """One child process of a benchmark.

    Args:
        role: function of `fleet_roles`.
        folder: its own; made if missing.
        config: what it gets.
        prefix: command that starts it, such as `ip netns exec NAME`.
    """

    def __init__(
        self, role: str, folder: Path, config: Mapping[str, Any], prefix: Sequence[str] = ()
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.role, self._folder = role, folder
        (folder / "config.json").write_text(json.dumps({**config, "folder": str(folder)}, default=str))
        guard = [shutil.which("setpriv") or "setpriv", "--pdeathsig", "KILL"]
        command = [*prefix, *guard, sys.executable, "-m", "benchmarks.fleet_roles", role, str(folder)]
        with (folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Until it says that it is set up."""
        self._until(self._folder / "ready", timeout_s)

    def go(self) -> None:
        """Let it begin."""
        (self._folder / "go").touch()

    def result(self, timeout_s: float) -> dict[str, Any]:
        """What it measured, once it has ended by itself."""
        self._process.wait(timeout_s)
        return self._answer()

    def stop(self, timeout_s: float = 120.0) -> dict[str, Any]:
        """Ask it to end; what it measured."""
        self._process.terminate()
        self._process.wait(timeout_s)
        return self._answer()

    def kill(self) -> None:
        """End it if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _answer(self) -> dict[str, Any]:
        path = self._folder / "result.json"
        if self._process.returncode != 0 or not path.exists():
            raise RuntimeError(f"{self.role} ended with {self._process.returncode}:\n{self._tail()}")
        return json.loads(path.read_text())

    def _until(self, path: Path, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not path.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self.role} did not become ready:\n{self._tail()}")
            time.sleep(0.02)

    def _tail(self) -> str:
        return (self._folder / "log").read_text(errors="replace")[-3000:]


@contextmanager
def parts(made: Sequence[Part]) -> Generator[Sequence[Part]]:
    """Wait until all are ready; whatever happens, none outlives the block."""
    try:
        for part in made:
            part.wait_ready()
        yield made
    finally:
        for part in made:
            part.kill()


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that at least a share `q` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(q * len(ordered)) - 1, 0)]
