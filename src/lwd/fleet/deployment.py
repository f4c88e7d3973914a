"""Founding a fleet and inviting into it: authority, broker configuration, register. No JAX."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError

from lwd.errors import ConfigError, LwdError, StoreError
from lwd.fleet import broker
from lwd.fleet.authority import Authority, check_member, server_address
from lwd.fleet.credential import Credential, write_private
from lwd.fleet.folder import RunFolder, check_catalogue
from lwd.log import robots
from lwd.log.catalogue import Catalogue
from lwd.snapshot.keys import load_or_create_key

REGISTERED = ("robot", "evaluator")
"""Roles that record episodes, and so have a row in the register."""
CONFIRM_S = 5.0
"""How long a broker may take to read its configuration again."""


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
    def pidfile(self) -> Path:
        """nats-server writes its pid there."""
        return self.path / "nats.pid"

    @property
    def founded(self) -> bool:
        """Whether there is a fleet."""
        return (self.path / "fleet.json").exists()

    @property
    def register(self) -> str:
        """URL of the catalogue with the register: what is named now, else what was named when somebody was invited."""
        try:
            noted = self._register_file.read_text().strip()
        except FileNotFoundError:
            noted = ""
        except OSError as error:
            raise ConfigError(f"{str(self._register_file)!r} cannot be read: {error}.") from error
        return self.run.catalogue_url or noted or self.run.catalogue

    @property
    def _register_file(self) -> Path:
        return self.path / "register.url"

    def note_register(self) -> None:
        """Keep the catalogue's URL, if one is named now, for who revokes later; its password is not kept."""
        if self.run.catalogue_url is not None:
            write_private(self._register_file, _bare(self.run.catalogue_url).encode(), replace=True)

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
    folder.note_register()
    write_broker(folder, authority)
    return authority


def write_broker(folder: FleetFolder, authority: Authority) -> None:
    """Write nats-server's configuration for the present members, and tell one that runs on this machine.

    Raises:
        ConfigError: it cannot be written, or the server belongs to another user; restarting it has the same effect.
    """
    host, port = server_address(authority.info.servers[0])
    config = broker.BrokerConfig(
        host="127.0.0.1" if host in ("127.0.0.1", "localhost") else "0.0.0.0",
        port=port,
        store=folder.path / "broker",
        pidfile=folder.pidfile,
    )
    with authority.exclusive():  # else a list from before a revocation could be written after it
        broker.write_configuration(authority, config, folder.broker)
        if broker.server_pid(config.pidfile) is not None:
            broker.reload(config.pidfile)


def invite(
    folder: FleetFolder, name: str, role: str, spec: str, path: Path | None = None, *, replace: bool = False
) -> tuple[Credential, Path]:
    """Enter a robot into the register, make a credential file, let the broker know.

    Args:
        folder: of the fleet.
        name: of the robot or service.
        role: "robot", "coordinator", "learner", "promoter", "evaluator", "server" or "operator".
        spec: kind of robot; robots only.
        path: where the file goes.
        replace: revoke what this name holds and make a new one; a robot that has delivered nothing may change its kind.

    Raises:
        ConfigError: bad or taken name, the file exists or cannot be written, or the broker must be restarted.
        StoreError: the register refuses: the name was revoked before.
    """
    authority = Authority(folder.path)
    check_member(name, role)  # before it becomes a path
    path = path or folder.credential(name)
    if path.exists() and not replace:
        raise ConfigError(f"{str(path)!r} exists; choose another path, or replace it.")
    authority.check_invitation(name, role, replace_old=replace)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(f"{str(path.parent)!r} cannot be made: {error}. Choose another --file.") from error
    if role in REGISTERED:
        _register(folder, name, spec, replace)
    folder.note_register()
    credential = authority.invite(name, role, replace_old=replace)
    credential.save(path, replace=replace)
    try:
        write_broker(folder, authority)
        _confirm_revoked(authority, name)
    except ConfigError as error:
        raise ConfigError(
            f"{str(path)!r} is written, but the broker may not know it yet, or still let in what it replaces: {error}"
        ) from error
    return credential, path


def revoke(folder: FleetFolder, name: str) -> int:
    """Take back all that this name holds; how many credentials. What it delivered stays.

    What can be done is done: a register that is away does not keep the broker from disconnecting the robot.

    Raises:
        UnknownNameError: nobody of this name was ever invited.
        ConfigError: the broker still lets it in or cannot be asked, or the register was not changed; says what to do.
    """
    authority = Authority(folder.path)
    revoked = authority.revoke(name)
    registered = any(m.name == name and m.role in REGISTERED for m in authority.members())
    left: list[str] = []
    for step in (
        lambda: write_broker(folder, authority),
        lambda: _strike(folder, name) if registered else None,
        lambda: _confirm_revoked(authority, name),
    ):
        try:
            step()
        except LwdError as error:
            left.append(str(error))
    if left:
        raise ConfigError(
            f"{name!r} is revoked in {str(folder.path)!r}, but that is not all: {' '.join(left)} "
            f"Then run lwd fleet revoke {name} again, which looks whether it is done."
        )
    return revoked


def _register(folder: FleetFolder, name: str, spec: str, replace: bool) -> None:
    with Catalogue(folder.register) as catalogue:
        known = {row.name: row for row in robots.robots(catalogue)}.get(name)
        if known is None:
            robots.invite(catalogue, name, spec)
        elif known.revoked_at is not None:
            raise StoreError(f"robot {name!r} was revoked; invite its computer under another name.")
        elif known.spec != spec and not replace:
            raise StoreError(
                f"robot {name!r} is a {known.spec!r} already; choose another name, or replace it while it has delivered "
                "nothing."
            )
        elif known.spec != spec:
            robots.change_spec(catalogue, name, spec)


def _strike(folder: FleetFolder, name: str) -> None:
    """Revoke in the register. A catalogue that does not exist is not made: it would be the wrong one."""
    wrong = ConfigError(
        f"the register in {_bare(folder.register)!r} has no robot {name!r}. Name the fleet's catalogue with --catalogue."
    )
    try:
        check_catalogue(folder.register)
    except ConfigError:
        raise wrong from None
    with Catalogue(folder.register) as catalogue:
        if all(row.name != name for row in robots.robots(catalogue)):
            raise wrong
        robots.revoke(catalogue, name)


def _confirm_revoked(authority: Authority, name: str) -> None:
    """Wait until the running broker refuses what this name held; ConfigError if it does not, or cannot be asked."""
    deadline = time.monotonic() + CONFIRM_S
    for member in authority.revoked_members():
        while member.name == name and broker.lets_in(authority, member):
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"The broker still lets {name!r} in with a revoked credential: restart it, so that it reads its list."
                )
            time.sleep(0.1)


def _bare(url: str) -> str:
    """The catalogue's URL without its password, a path as an absolute one; ConfigError if it is no URL."""
    if "://" not in url:
        return str(Path(url).expanduser().absolute())
    try:
        parsed = sa.make_url(url)
    except ArgumentError as error:
        raise ConfigError(
            f"catalogue: {error}. Expected a path or postgresql://user@host/database."
        ) from error
    place = {name: getattr(parsed, name) for name in ("username", "host", "port", "database", "query")}
    return str(sa.URL.create(parsed.drivername, **place).difference_update_query(["password"]))


def nats_server() -> str:
    """The broker's program; ConfigError if it is not installed."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise ConfigError(
            "nats-server is not installed; install it (2.11 or newer), or start the broker yourself and give --bus."
        )
    return found
