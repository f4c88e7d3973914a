"""The fleet's own certificate authority: who belongs to the fleet, as what, and until when. No JAX.

Each credential has an id of its own, and the broker's list of users is the list of ids that are valid now. So revoking is
taking an id off that list, and a robot that is invited again under its old name does not revive the credential it lost.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from lwd.errors import ConfigError, UnknownNameError
from lwd.fleet import certificates
from lwd.fleet.credential import ROLES, Credential, locked, write_private
from lwd.log.layout import NAME
from lwd.log.nats_client import TlsIdentity

AUTHORITY_VERSION = 1
AUTHORITY_DAYS = 20 * 365.0
SERVER_DAYS = 5 * 365.0
MEMBER_DAYS = 365.0
ASKING_DAYS = 1 / 24
DEFAULT_PORT = 4222


@dataclass(frozen=True, kw_only=True)
class Member:
    """One credential that was issued.

    Attributes:
        name, role, id: as in `Credential`.
        issued_at, expires_at: seconds since the epoch; revoked_at: None while it is not revoked.
    """

    name: str
    role: str
    id: str
    issued_at: float
    expires_at: float
    revoked_at: float | None = None

    def valid(self, now: float) -> bool:
        """Whether the broker lets it in."""
        return self.revoked_at is None and now < self.expires_at


@dataclass(frozen=True, kw_only=True)
class FleetInfo:
    """What all credentials of a fleet share: name, URLs of the broker, the public key of its snapshots (PEM)."""

    fleet: str
    servers: tuple[str, ...]
    snapshot_key: str


class Authority:
    """A fleet's authority in a folder: `ca.pem`, `ca.key`, `server.pem`, `server.key`, `fleet.json`, `members.json`.

    Whoever can read the folder can let anybody in. Keep it on one machine, readable by one user.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self.folder, self._clock = folder, clock
        try:
            found = json.loads((folder / "fleet.json").read_text())
            pair = ((folder / "ca.pem").read_bytes(), (folder / "ca.key").read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"there is no fleet authority in {str(folder)!r}: {error}. Make one with lwd fleet init."
            ) from error
        self.info = _read_info(folder / "fleet.json", found)
        self._pair = certificates.load(*pair)

    @classmethod
    def create(
        cls,
        folder: Path,
        fleet: str,
        servers: Sequence[str],
        snapshot_key: Ed25519PublicKey,
        clock: Callable[[], float] = time.time,
    ) -> Authority:
        """Found a fleet; its server certificate is for the hosts of `servers`, as robots will reach them.

        Raises:
            ConfigError: a bad name or URL, or there is an authority already: it is never replaced.
        """
        check_name("fleet", fleet)
        if not servers:
            raise ConfigError(
                "the fleet has no server; name at least one, such as tls://fleet.example.org:4222."
            )
        hosts = [server_address(server)[0] for server in servers]
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        pem = snapshot_key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode()
        pair = certificates.make_authority(fleet, clock(), AUTHORITY_DAYS)
        write_private(folder / "ca.key", pair.key_pem.encode())  # first: it refuses where there is one
        write_private(folder / "ca.pem", pair.certificate_pem.encode())
        info = FleetInfo(fleet=fleet, servers=tuple(servers), snapshot_key=pem)
        text = json.dumps({"version": AUTHORITY_VERSION, **asdict(info)}, indent=2)
        write_private(folder / "fleet.json", text.encode())
        authority = cls(folder, clock)
        authority.issue_server(hosts)
        return authority

    @property
    def ca(self) -> str:
        """The authority's certificate in PEM."""
        return self._pair.certificate_pem

    def issue_server(self, hosts: Sequence[str]) -> None:
        """Write (again) the broker's certificate, `server.pem` and `server.key`, for these names and addresses."""
        issued = certificates.issue_server(
            self._pair, self.info.fleet, list(dict.fromkeys(hosts)), self._clock(), SERVER_DAYS
        )
        write_private(self.folder / "server.key", issued.key_pem.encode(), replace=True)
        write_private(self.folder / "server.pem", issued.certificate_pem.encode(), replace=True)

    def invite(
        self, name: str, role: str = "robot", *, days: float = MEMBER_DAYS, replace_old: bool = False
    ) -> Credential:
        """Make a credential. The broker must then be given its new list (`broker.render`, `broker.reload`).

        Args:
            name: the robot's or service's name, one in the fleet.
            role: "robot", "coordinator", "learner", "promoter", "evaluator", "server" or "operator".
            days: until it expires.
            replace_old: revoke what this name holds; without it a name that holds a valid credential is refused.

        Raises:
            ConfigError: a bad name, or the name is taken.
            UnknownNameError: no such role.
        """
        check_member(name, role)
        now = self._clock()
        member = Member(
            name=name, role=role, id=secrets.token_hex(16), issued_at=now, expires_at=now + days * 86400.0
        )
        with self._changing() as members:
            old = _replaceable(members, name, role, now, replace_old)
            issued = certificates.issue_client(
                self._pair, self.info.fleet, name, identity_uri(self.info.fleet, member), now, days
            )
            _revoke(members, [other.id for other in old], now)
            members.append(member)
        return Credential(
            **asdict(self.info),
            role=role,
            name=name,
            id=member.id,
            ca=self.ca,
            certificate=issued.certificate_pem,
            key=issued.key_pem,
            expires_at=member.expires_at,
        )

    def check_invitation(self, name: str, role: str, *, replace_old: bool = False) -> None:
        """Raise what `invite` would raise now; nothing is changed."""
        check_member(name, role)
        _replaceable(self.members(), name, role, self._clock(), replace_old)

    def identity(self, member: Member) -> TlsIdentity:
        """A certificate with a member's identity and a key of its own, good for an hour: to ask the broker about it."""
        uri = identity_uri(self.info.fleet, member)
        issued = certificates.issue_client(
            self._pair, self.info.fleet, member.name, uri, self._clock(), ASKING_DAYS
        )
        return TlsIdentity(ca=self.ca, certificate=issued.certificate_pem, key=issued.key_pem)

    def revoke(self, name: str) -> int:
        """Revoke all that this name holds; how many. The broker must then be given its new list.

        Raises:
            UnknownNameError: nobody of this name was ever invited.
        """
        with self._changing() as members:
            found = [member for member in members if member.name == name]
            if not found:
                raise UnknownNameError("member", name, {member.name for member in members})
            valid = [member.id for member in found if member.revoked_at is None]
            _revoke(members, valid, self._clock())
        return len(valid)

    def members(self) -> list[Member]:
        """All credentials ever issued, oldest first."""
        path = self.folder / "members.json"
        try:
            return [Member(**member) for member in json.loads(path.read_text())]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(
                f"the fleet's members in {str(path)!r} cannot be read: {error}. Restore the file."
            ) from error

    def valid_members(self) -> list[Member]:
        """Whom the broker is to let in now."""
        now = self._clock()
        return [member for member in self.members() if member.valid(now)]

    def revoked_members(self) -> list[Member]:
        """Who was revoked and could still show a certificate that has not expired."""
        now = self._clock()
        return [m for m in self.members() if m.revoked_at is not None and now < m.expires_at]

    @contextlib.contextmanager
    def exclusive(self) -> Generator[None]:
        """Nobody else changes the members, or hands their list to the broker, until the block ends."""
        with locked(self.folder / ".lock"):
            yield

    @contextlib.contextmanager
    def _changing(self) -> Generator[list[Member]]:
        """The members, to be changed in place: written when the block ends, one process at a time."""
        with self.exclusive():
            members = self.members()
            yield members
            text = json.dumps([asdict(member) for member in members], indent=1)
            write_private(self.folder / "members.json", text.encode(), replace=True)


def identity_uri(fleet: str, member: Member) -> str:
    """What a member's certificate says and the broker's list of users holds."""
    return f"urn:lwd:{fleet}:{member.role}:{member.name}:{member.id}"


def _revoke(members: list[Member], ids: Sequence[str], now: float) -> None:
    for index, member in enumerate(members):
        if member.id in ids:
            members[index] = replace(member, revoked_at=now)


def check_member(name: str, role: str) -> None:
    """Raise unless somebody of this role may have this name: ConfigError, or UnknownNameError for the role."""
    check_name(role, name)
    if role not in ROLES:
        raise UnknownNameError("role", role, ROLES)
    if role == "robot" and name in ROLES:
        raise ConfigError(f"robot name {name!r} is the name of a service; choose another one.")


def check_name(kind: str, name: str) -> None:
    """ConfigError unless it can be the name of a fleet, a robot or a service."""
    if not NAME.fullmatch(name):
        raise ConfigError(f"{kind} name {name!r:.80} must be 1 to 64 of the characters [A-Za-z0-9_-].")


def server_address(url: str) -> tuple[str, int]:
    """Host and port of a broker's URL, `tls://host:port`; ConfigError if it is something else."""
    wrong = f"the fleet's server {url!r} is no address of a broker; expected tls://fleet.example.org:4222."
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        written = host.encode("idna").decode()
    except ValueError as error:  # UnicodeError is one too
        raise ConfigError(f"{wrong} {str(error)[:1].upper()}{str(error)[1:]}.") from error
    if parts.scheme != "tls" or not host or port == 0:
        raise ConfigError(wrong)
    if written != host:  # certificates hold ASCII only
        raise ConfigError(f"{wrong} Write the host as {written!r}.")
    return host, port or DEFAULT_PORT


def _replaceable(
    members: Sequence[Member], name: str, role: str, now: float, replace_old: bool
) -> list[Member]:
    """What this name holds now; ConfigError if a new credential may not take its place."""
    old = [other for other in members if other.name == name and other.valid(now)]
    if old and not (replace_old and all(other.role == role for other in old)):
        raise ConfigError(f"{old[0].role} {name!r} holds a valid credential; revoke it first, or replace it.")
    return old


def _read_info(path: Path, found: object) -> FleetInfo:
    values = cast(dict[str, Any], found) if isinstance(found, dict) else {}
    if values.get("version") != AUTHORITY_VERSION:
        raise ConfigError(
            f"fleet authority {str(path)!r} has version {values.get('version')!r:.20}, this program reads "
            f"{AUTHORITY_VERSION}."
        )
    try:
        return FleetInfo(
            fleet=str(values["fleet"]),
            servers=tuple(map(str, values["servers"])),
            snapshot_key=str(values["snapshot_key"]),
        )
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"fleet authority {str(path)!r} is damaged: {type(error).__name__}: {error}. Restore the file."
        ) from error
