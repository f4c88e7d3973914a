"""Ed25519 keys as PEM files. The learner signs snapshots with the private one, robots hold only the public one."""

from __future__ import annotations

import binascii
import contextlib
import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from lwd.errors import SnapshotError


def create_key(path: Path) -> Ed25519PrivateKey:
    """Make a key pair: the private key at `path` (mode 0600) and the public one beside it as `<path>.pub`.

    Raises:
        SnapshotError: there is a key already (it is never replaced), or the folder cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        _write(temporary, pem, 0o600)
        try:
            os.link(temporary, path)  # whole or not at all, and only if nobody else was first
        finally:
            temporary.unlink()
        _write_public(path, key)
    except FileExistsError as error:
        raise SnapshotError(
            f"key {str(path)!r} exists; it is not replaced. Load it, or choose another path."
        ) from error
    except OSError as error:
        raise SnapshotError(
            f"key {str(path)!r} cannot be written: {error}. Check the folder's permissions."
        ) from error
    return key


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key; SnapshotError if it is missing, no Ed25519 key, or readable by other users."""
    pem = _read(path)
    if path.stat().st_mode & 0o077:
        raise SnapshotError(f"key {str(path)!r} can be read by other users; run: chmod 600 {path}")
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SnapshotError(
            f"key {str(path)!r} is not an unencrypted private key in PEM: {error}."
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SnapshotError(f"key {str(path)!r} is not an Ed25519 key but {type(key).__name__}.")
    return key


def load_or_create_key(path: Path) -> Ed25519PrivateKey:
    """Read the private key at `path`, making the pair first if there is none. Safe for several processes.

    A public key that is missing (a crash came in between) is written again.
    """
    if not path.exists():
        try:
            return create_key(path)
        except SnapshotError:
            if not path.exists():
                raise
    key = load_private_key(path)
    if not public_path(path).exists():
        with contextlib.suppress(OSError):  # a folder that is only read: who signs needs no public key
            _write_public(path, key)
    return key


def public_path(path: Path) -> Path:
    """Where `create_key(path)` puts the public key."""
    return path.with_name(f"{path.name}.pub")


def _write_public(path: Path, key: Ed25519PrivateKey) -> None:
    """Write the public key beside the private one at `path`, whole or not at all."""
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    temporary = path.with_name(f".{public_path(path).name}.{os.getpid()}")
    _write(temporary, public, 0o644)
    os.replace(temporary, public_path(path))


def _write(path: Path, data: bytes, mode: int) -> None:
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(data)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SnapshotError(f"key {str(path)!r} cannot be read: {error.strerror or error}.") from error


def is_signed(signature: str, signed: bytes, key: Ed25519PublicKey) -> bool:
    """Whether a signature, in hex, of these bytes was made with the private key that belongs to this one."""
    try:
        key.verify(binascii.unhexlify(signature), signed)
    except (InvalidSignature, ValueError):  # binascii's error is a ValueError
        return False
    return True
