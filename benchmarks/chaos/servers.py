"""Postgres and an S3 protocol server as commands that a supervisor can run, and how to wait for them."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from lwd.errors import ConfigError
from lwd.fleet.supervisor import Managed, ends_with_parent

WAIT_S = 120.0
BUCKET = "lwd"
KEYS = {"AWS_ACCESS_KEY_ID": "chaos", "AWS_SECRET_ACCESS_KEY": "chaos-secret"}
"""moto checks no signature; every service but no robot gets them."""


def free_port() -> int:
    """A loopback port that nobody uses now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def database(folder: Path, port: int) -> Managed:
    """Postgres with its data in `folder`; made here.

    Without fsync: what was committed outlives a killed process, and nothing here cuts the power.
    """
    programs, data, user = _programs(), folder / "data", _unprivileged()
    folder.mkdir(parents=True, exist_ok=True)
    drop: list[str] = []
    if user is not None:  # Postgres refuses to run as root
        os.chown(folder, user.pw_uid, user.pw_gid)
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise ConfigError("setpriv (util-linux) is not installed; run as another user than root.")
        drop = [setpriv, "--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups"]
    make = [*drop, str(programs / "initdb"), "-D", str(data), "-U", "lwd", "-A", "trust", "-E", "UTF8", "-N"]
    subprocess.run(make, check=True, capture_output=True, timeout=WAIT_S, cwd="/")
    where = ["-F", "-D", str(data), "-h", "127.0.0.1", "-p", str(port), "-k", ""]
    # In this order: a change of user clears the wish to end with the parent.
    command = [*drop, *ends_with_parent([str(programs / "postgres"), *where])]
    return Managed(name="database", command=command, stage=0)


def database_url(port: int) -> str:
    """Its URL."""
    return f"postgresql://lwd@127.0.0.1:{port}/postgres"


def store(port: int) -> Managed:
    """Moto. It keeps objects in memory, so it is paused, slowed and cut, but never killed."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    return Managed(name="store", command=ends_with_parent(command), stage=0)


def store_url(port: int) -> str:
    """URL of the run's folder in it."""
    return f"s3://{BUCKET}/run?endpoint=http://127.0.0.1:{port}"


def wait_for_database(port: int) -> None:
    """Until it answers."""
    import psycopg

    def answers() -> bool:
        try:
            with psycopg.connect(database_url(port), connect_timeout=2) as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except psycopg.OperationalError:
            return False

    _wait("database", answers)


def make_bucket(port: int) -> None:
    """Wait for the store, and make the bucket."""

    def made() -> bool:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT")
        try:
            urllib.request.urlopen(request, timeout=10).close()
        except OSError:
            return False
        return True

    _wait("store", made)


def _wait(name: str, ready: object) -> None:
    deadline = time.monotonic() + WAIT_S
    assert callable(ready)
    while not ready():
        if time.monotonic() > deadline:
            raise ConfigError(f"the {name} did not answer within {WAIT_S:.0f} s; see its log.")
        time.sleep(0.2)


def _programs() -> Path:
    """The folder of Debian's newest initdb and postgres, or of those in the wheel `pgserver`."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    wheel = importlib.util.find_spec("pgserver")  # without running its import, which changes the system
    if wheel is None or wheel.origin is None:
        raise ConfigError("neither Debian's postgresql nor the wheel pgserver is installed.")
    return Path(wheel.origin).parent / "pginstall" / "bin"


def _unprivileged() -> pwd.struct_passwd | None:
    """Whom Postgres runs as when we are root, None when we are not."""
    if os.geteuid() != 0:
        return None
    known = {user.pw_name: user for user in pwd.getpwall()}
    return known.get("postgres") or known["nobody"]
