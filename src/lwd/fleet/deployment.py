"""Founding a fleet and inviting into it: authority, broker configuration, register. No JAX."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from lwd.errors import ConfigError, StoreError
from lwd.fleet import broker
from lwd.fleet.authority import Authority
from lwd.fleet.credential import Credential
from lwd.fleet.folder import RunFolder
from lwd.log import robots
from lwd.log.catalogue import Catalogue
from lwd.snapshot.keys import load_or_create_key


@dataclass(frozen=True)
class FleetFolder:
    """Where a fleet's secrets are: `<run folder>/fleet`. Keep it on one machine, readable by one user."""

    run: RunFolder

    @property
    def path(self) -> Path:
        """The authority's folder."""
        return self.run.path / "fleet"

    @property
    def broker(self) -> Path:
        """nats-server's configuration."""
        return self.path / "nats.conf"

    @property
    def founded(self) -> bool:
        """Whether there is a fleet."""
        return (self.path / "fleet.json").exists()

    def credential(self, name: str) -> Path:
        """Where `invite` puts a credential by default."""
        return self.path / "credentials" / f"{name}.json"


def found_fleet(folder: FleetFolder, name: str, servers: Sequence[str]) -> Authority:
    """Make the authority and the broker's configuration.

    Args:
        folder: of the fleet.
        name: of the fleet.
        servers: `tls://host:port`, as robots will reach the broker.

    Raises:
        ConfigError: bad name or URL, or there is a fleet already.
    """
    key = load_or_create_key(folder.run.snapshot_key)
    authority = Authority.create(folder.path, name, servers, key.public_key())
    write_broker(folder, authority)
    return authority


def write_broker(folder: FleetFolder, authority: Authority) -> None:
    """Write nats-server's configuration for the present members, and tell a running one."""
    parts = urlsplit(authority.info.servers[0])
    config = broker.BrokerConfig(
        host="127.0.0.1" if parts.hostname in ("127.0.0.1", "localhost") else "0.0.0.0",
        port=parts.port or 4222,
        store=folder.path / "broker",
        pidfile=folder.path / "nats.pid",
    )
    broker.write_configuration(authority, config, folder.broker)
    if config.pidfile.exists():
        try:
            broker.reload(config.pidfile)
        except ConfigError:  # a pid file of a server that is gone; the next one reads the new file
            config.pidfile.unlink(missing_ok=True)


def invite(
    folder: FleetFolder, name: str, role: str, spec: str, path: Path | None = None, *, replace: bool = False
) -> tuple[Credential, Path]:
    """Make a credential file, enter a robot into the register, let the broker know.

    Args:
        folder: of the fleet.
        name: of the robot or service.
        role: "robot", "coordinator", "learner", "evaluator", "server" or "operator".
        spec: kind of robot; robots only.
        path: where the file goes.
        replace: revoke what this name holds and make a new one.

    Raises:
        ConfigError: bad or taken name, or the file exists.
        StoreError: the register refuses: the name was revoked before.
    """
    authority = Authority(folder.path)
    path = path or folder.credential(name)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.exists():
        if not replace:
            raise ConfigError(f"{str(path)!r} exists; choose another path, or replace it.")
        path.unlink()
    if role in ("robot", "evaluator"):
        with Catalogue(folder.run.catalogue) as catalogue:
            known = {row.name: row for row in robots.robots(catalogue)}
            if name not in known:
                robots.invite(catalogue, name, spec)
            elif known[name].revoked_at is not None:
                raise StoreError(f"robot {name!r} was revoked; invite its computer under another name.")
            elif known[name].spec != spec:
                raise StoreError(f"robot {name!r} is a {known[name].spec!r} already; choose another name.")
    credential = authority.invite(name, role, replace_old=replace)
    credential.save(path)
    write_broker(folder, authority)
    return credential, path


def revoke(folder: FleetFolder, name: str) -> int:
    """Take back all that this name holds; how many credentials. What it delivered stays.

    Raises:
        UnknownNameError: nobody of this name was ever invited.
    """
    authority = Authority(folder.path)
    revoked = authority.revoke(name)
    with Catalogue(folder.run.catalogue) as catalogue:
        if any(row.name == name for row in robots.robots(catalogue)):
            robots.revoke(catalogue, name)
    write_broker(folder, authority)
    return revoked


def nats_server() -> str:
    """The broker's program; ConfigError if it is not installed."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise ConfigError(
            "nats-server is not installed; install it (2.11 or newer), or start the broker yourself and give --bus."
        )
    return found
