"""A credential: one file with all that a robot or a service needs to join a fleet. No JAX."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from lwd.errors import ConfigError
from lwd.log.nats_client import TlsIdentity
from lwd.log.nats_link import NatsLink

CREDENTIAL_VERSION = 1
MAX_CREDENTIAL_BYTES = 64 * 1024

ROLES = ("robot", "coordinator", "learner", "promoter", "evaluator", "server", "operator")


@dataclass(frozen=True, kw_only=True)
class Credential:
    """Who somebody is in which fleet, how to reach it and what to believe.

    Attributes:
        fleet, role, name: "robot" and the services' roles; the name is the robot's, or the service's.
        id: of this very certificate; revoking revokes ids.
        servers: URLs of the broker.
        ca, certificate, key: PEM; the key is private, whoever holds it is this robot until it is revoked.
        snapshot_key: PEM; the fleet's public key, which signs policies.
        expires_at: seconds since the epoch.
    """

    fleet: str
    role: str
    name: str
    id: str
    servers: tuple[str, ...]
    ca: str
    certificate: str
    key: str = field(repr=False)
    snapshot_key: str
    expires_at: float

    def identity(self) -> TlsIdentity:
        """For the link."""
        return TlsIdentity(ca=self.ca, certificate=self.certificate, key=self.key)

    def link(self, **options: Any) -> NatsLink:
        """Connect as this robot or service; `options` as for `NatsLink`."""
        return NatsLink(
            self.servers,
            identity=self.identity(),
            name=self.name,
            inbox=f"_INBOX.{self.name}",  # the only inbox that it may read
            **options,
        )

    def snapshot_public_key(self) -> Ed25519PublicKey:
        """What snapshots are checked against; ConfigError if it is no Ed25519 key."""
        try:
            key = serialization.load_pem_public_key(self.snapshot_key.encode())
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ConfigError(
                f"credential of {self.name!r}: its snapshot key is no key in PEM that is known here: {error}."
            ) from error
        if not isinstance(key, Ed25519PublicKey):
            raise ConfigError(
                f"credential of {self.name!r}: its snapshot key is {type(key).__name__}, expected Ed25519."
            )
        return key

    def save(self, path: Path, *, replace: bool = False) -> None:
        """Write it, readable by this user only; ConfigError if it exists (without `replace`) or cannot be written."""
        text = json.dumps({"version": CREDENTIAL_VERSION, **asdict(self)}, indent=2)
        write_private(path, text.encode(), replace=replace)


def load_credential(path: Path) -> Credential:
    """Read a credential; ConfigError if it is missing, readable by others, or none."""
    try:
        with path.open("rb") as file:
            mode, data = os.fstat(file.fileno()).st_mode, file.read(MAX_CREDENTIAL_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"credential {str(path)!r} cannot be read: {error.strerror or error}. Get one from lwd fleet invite."
        ) from error
    if mode & 0o077:
        raise ConfigError(f"credential {str(path)!r} can be read by other users; run: chmod 600 {path}")
    try:
        found = json.loads(data) if len(data) <= MAX_CREDENTIAL_BYTES else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ConfigError(
            f"credential {str(path)!r} is not a credential file. Get one from lwd fleet invite."
        )
    return _parse(str(path), cast(dict[str, Any], found))


def _parse(where: str, found: Mapping[str, Any]) -> Credential:
    if found.get("version") != CREDENTIAL_VERSION:
        raise ConfigError(
            f"credential {where!r} has version {found.get('version')!r:.20}, this program reads {CREDENTIAL_VERSION}."
        )
    texts = ("fleet", "role", "name", "id", "ca", "certificate", "key", "snapshot_key")
    servers, expires_at = found.get("servers"), found.get("expires_at")
    fits = (
        all(isinstance(found.get(text), str) and found[text].isascii() for text in texts)
        and found["role"] in ROLES
        and isinstance(servers, list)
        and all(isinstance(server, str) for server in cast(list[object], servers))
        and isinstance(expires_at, int | float)
    )
    if not fits:
        raise ConfigError(f"credential {where!r} is damaged: fields are missing. Get a new one.")
    return Credential(
        **{text: found[text] for text in texts},
        servers=tuple(found["servers"]),
        expires_at=float(found["expires_at"]),
    )


def write_private(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Write a file of mode 0600 whole or not at all; ConfigError if it exists (without `replace`) or cannot be written.

    A file that is replaced keeps its owner: what root writes anew, the service must still be able to read.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                _keep_owner(path, temporary)
                os.replace(temporary, path)
            else:
                os.link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except FileExistsError as error:
        raise ConfigError(f"{str(path)!r} exists and is not replaced; choose another path.") from error
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be written: {error}. Check the folder.") from error


@contextlib.contextmanager
def locked(path: Path) -> Generator[None]:
    """One process at a time in the block, by a lock on this file, which is made; ConfigError if it cannot be.

    Not on the file that is changed in the block: `write_private` replaces it by another one.
    """
    try:
        lock = path.open("w")
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be written: {error}. Check the folder.") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _keep_owner(old: Path, new: Path) -> None:
    """Give `new` to the owner of `old`, if there is one; only root can, others write in folders of their own."""
    if os.geteuid() == 0 and old.exists():
        found = old.stat()
        os.chown(new, found.st_uid, found.st_gid)
