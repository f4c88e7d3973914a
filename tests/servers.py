"""Real servers for tests: NATS, Postgres and S3, each on a free loopback port with a folder of its own.

Every server is a child process that can be killed, paused and started again; starting is bounded in time and fails with the
server's own log. Nothing here stops a process that it did not start.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import pytest

START_TIMEOUT_S = 60.0
NATS_SERVER = Path(sys.executable).with_name("nats-server")


class Server:
    """One server process. `kill` is SIGKILL; `start` brings it back on the same port and the same data."""

    name = "server"

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder, self.port = folder, port or free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} does not run"
        return self._process.pid

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def healthy(self) -> bool:
        """Whether it answers; may raise OSError while it does not."""
        raise NotImplementedError

    def options(self) -> Mapping[str, int]:
        """Further arguments of Popen."""
        return {}

    def start(self) -> None:
        assert self._process is None, f"{self.name} runs already"
        # It must not outlive a test run that is itself killed.
        setpriv = shutil.which("setpriv")
        guard = [setpriv, "--pdeathsig", "KILL"] if setpriv else []
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*guard, *self.command()], stdout=log, stderr=log, stdin=subprocess.DEVNULL, **self.options()
            )
        self._wait()

    def kill(self) -> None:
        """As a power cut for this process; it may be paused."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end, and end it if it does not."""
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        self.kill()
        self.start()

    def pause(self) -> None:
        """Connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)

    def _wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                break
            with suppress(OSError):
                if self.healthy():
                    return
            time.sleep(0.05)
        text = self.log.read_text(errors="replace")[-3000:]
        self.kill()
        raise RuntimeError(f"{self.name} did not start on port {self.port}:\n{text}")


class NatsServer(Server):
    """JetStream. `config` writes the whole configuration file in place of the plain one.

    With `sync` each write reaches the disk before it is acknowledged, as in a fleet; slower.
    """

    name = "nats"

    def __init__(
        self, folder: Path, config: Callable[[NatsServer], str] | None = None, sync: bool = True
    ) -> None:
        super().__init__(folder)
        self._config, self._sync = config, sync

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pidfile(self) -> Path:
        return self.folder / "nats.pid"

    @property
    def configuration(self) -> Path:
        return self.folder / "nats.conf"

    def write_configuration(self) -> None:
        plain = (
            f'listen: "127.0.0.1:{self.port}"\npid_file: "{self.pidfile}"\nmax_payload: 65536\n'
            f'jetstream {{ store_dir: "{self.folder / "store"}"{", sync_interval: always" * self._sync} }}\n'
        )
        self.configuration.write_text(plain if self._config is None else self._config(self))

    def command(self) -> Sequence[str]:
        self.write_configuration()
        return [str(NATS_SERVER), "-c", str(self.configuration)]

    def clear(self) -> None:
        """Delete all streams."""
        from lwd.log.nats_link import NatsLink  # not above: tests instrument lwd after this file is loaded

        with NatsLink(self.url) as link:
            names = json.loads(link.request("$JS.API.STREAM.NAMES", b"", 20.0).data)["streams"] or []
            for name in names:
                link.request(f"$JS.API.STREAM.DELETE.{name}", b"", 20.0)

    def healthy(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), 1.0):
            return "Server is ready" in self.log.read_text().rpartition("Starting nats-server")[2]


class PostgresServer(Server):
    """Debian's Postgres, or the one inside the wheel `pgserver` (only its programs: importing it changes the system)."""

    name = "postgres"
    user = "postgres"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._programs = _postgres_programs()
        self._system_user = _unprivileged()

    @property
    def url(self) -> str:
        return self.database_url("postgres")

    def database_url(self, database: str) -> str:
        return f"postgresql+psycopg://{self.user}@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str) -> str:
        """A database of its own for a test; its URL."""
        import psycopg

        plain = self.url.replace("+psycopg", "")
        with psycopg.connect(plain, autocommit=True, connect_timeout=10) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.database_url(name)

    def options(self) -> Mapping[str, int]:
        if self._system_user is None:
            return {}
        return {"user": self._system_user.pw_uid, "group": self._system_user.pw_gid}

    def command(self) -> Sequence[str]:
        data = self.folder / "data"
        if not data.exists():
            if self._system_user is not None:  # Postgres refuses to run as root
                os.chown(self.folder, self._system_user.pw_uid, self._system_user.pw_gid)
            make = [self._programs / "initdb", "-D", data, "-U", self.user, "-A", "trust", "-E", "UTF8", "-N"]
            subprocess.run(
                make, check=True, capture_output=True, timeout=START_TIMEOUT_S, cwd="/", **self.options()
            )
        # Without fsync ("-F"): what was committed outlives a killed process, and no test cuts the power.
        where = ["-F", "-D", str(data), "-h", "127.0.0.1", "-p", str(self.port), "-k", ""]
        return [str(self._programs / "postgres"), *where]

    def healthy(self) -> bool:
        import psycopg

        try:
            with psycopg.connect(self.url.replace("+psycopg", ""), connect_timeout=2) as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except psycopg.OperationalError:
            return False

    def stop(self) -> None:
        self._end(signal.SIGINT)  # "fast": does not wait for clients to leave


class S3Server(Server):
    """moto's S3 server. It keeps its objects in memory: `pause` takes it away without losing them, `kill` does not."""

    name = "s3"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]

    def healthy(self) -> bool:
        with urllib.request.urlopen(self.url, timeout=5) as answer:  # the list of buckets
            return answer.status == 200

    def create_bucket(self, name: str) -> None:
        request = urllib.request.Request(f"{self.url}/{name}", method="PUT")
        urllib.request.urlopen(request, timeout=10).close()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


AnyServer = TypeVar("AnyServer", bound=Server)


@contextmanager
def running(server: AnyServer) -> Iterator[AnyServer]:
    """Start, and end whatever the test has made of it."""
    server.start()
    try:
        yield server
    finally:
        with suppress(AssertionError, ProcessLookupError):
            server.resume()
        server.stop()


@contextmanager
def _folder(name: str) -> Iterator[Path]:
    # Not below pytest's own folder: only root may enter that, and Postgres does not run as root.
    with tempfile.TemporaryDirectory(prefix=f"lwd-{name}-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="session")
def nats_process() -> Iterator[NatsServer]:
    with _folder("nats") as folder, running(NatsServer(folder, sync=False)) as server:
        yield server


@pytest.fixture
def nats_server(nats_process: NatsServer) -> Iterator[NatsServer]:
    """One for all tests, empty for each of them; do not kill it (take `own_nats_server` for that)."""
    yield nats_process
    nats_process.clear()


@pytest.fixture
def own_nats_server() -> Iterator[NatsServer]:
    """To be killed and restarted."""
    with _folder("nats") as folder, running(NatsServer(folder)) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One for all tests: take a database of your own, and do not kill it."""
    with _folder("postgres") as folder, running(PostgresServer(folder)) as server:
        yield server


@pytest.fixture
def own_postgres_server() -> Iterator[PostgresServer]:
    """To be killed and restarted."""
    with _folder("postgres") as folder, running(PostgresServer(folder)) as server:
        yield server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One for all tests: take a bucket of your own, and do not kill it."""
    with _folder("s3") as folder, running(S3Server(folder)) as server:
        yield server


def _postgres_programs() -> Path:
    """The folder of initdb and postgres."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    wheel = importlib.util.find_spec("pgserver")  # finds it without running its import
    assert wheel is not None, "neither Debian's postgresql nor the wheel pgserver is installed"
    assert wheel.origin is not None
    return Path(wheel.origin).parent / "pginstall" / "bin"


def _unprivileged() -> pwd.struct_passwd | None:
    """Whom Postgres runs as when we are root, None when we are not."""
    if os.geteuid() != 0:
        return None
    names = [name for name in ("postgres", "nobody") if _exists(name)]
    return pwd.getpwnam(names[0])


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
