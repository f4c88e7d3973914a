"""The object store: immutable bytes under a key, on a local directory or any store that obstore opens by URL."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, from_url

from lwd.errors import ConfigError, StoreError

MAX_KEY_CHARS = 512
_KEY = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")


@runtime_checkable
class ObjectSink(Protocol):
    """All that a robot needs of the store; a later one puts through presigned URLs instead of a bucket key."""

    def put_once(self, key: str, data: bytes) -> bool:
        """Store `data` under `key` unless it is there. See `ObjectStore.put_once`."""
        ...


@runtime_checkable
class ObjectSource(Protocol):
    """All that a reader needs of the store."""

    def get(self, key: str, max_bytes: int | None = None) -> bytes:
        """Read a whole object. See `ObjectStore.get`."""
        ...


class MissingObjectError(StoreError):
    """There is no object under this key (as opposed to a store that cannot be reached)."""


class TooLargeError(StoreError):
    """The object under this key is larger than the caller allows."""


def check_key(key: str) -> str:
    """Return `key`, or raise StoreError if it could leave the store: `..`, absolute, empty parts, odd characters."""
    whole = len(key) <= MAX_KEY_CHARS and _KEY.fullmatch(key)
    if not whole or any(part.strip(".") == "" for part in key.split("/")):
        raise StoreError(
            f"object key {key[:80]!r} is not allowed: expected at most {MAX_KEY_CHARS} characters, "
            "parts of letters, digits, '.', '_' and '-' joined by '/', no '.' or '..' part."
        )
    return key


class ObjectStore:
    """Immutable objects. Thread- and process-safe; a reader never sees a half-written object.

    `url` is a path, `file:///path`, or `s3://bucket/prefix` and the like, with credentials from the environment.
    """

    def __init__(self, url: str | Path) -> None:
        self.url = str(url)
        self._root = _local_root(self.url)
        try:
            if self._root is None:
                self._store = from_url(self.url)
            else:
                self._root.mkdir(parents=True, exist_ok=True)
                self._store = LocalStore(str(self._root))
        except (BaseError, OSError, ValueError) as error:
            raise StoreError(
                f"object store {self.url!r} cannot be opened: {_line(error)}. Check the URL, the directory's "
                "permissions or the bucket's credentials."
            ) from error

    def put_once(self, key: str, data: bytes) -> bool:
        """Store `data` under `key`, atomically and durably, unless an object is there already.

        Returns:
            True if this call created the object, False if the same bytes were there: both are success.

        Raises:
            StoreError: other bytes are there already, or the store cannot be reached or refuses.
        """
        check_key(key)
        with self._reporting("put", key):
            try:
                obstore.put(self._store, key, data, mode="create")
            except AlreadyExistsError:
                return self._confirm(key, data)
            self._sync(key)
        return True

    def get(self, key: str, max_bytes: int | None = None) -> bytes:
        """The object's bytes.

        Raises:
            MissingObjectError: there is no such object.
            TooLargeError: it has more than `max_bytes` bytes.
            StoreError: the store cannot be reached.
        """
        check_key(key)
        with self._reporting("get", key):
            result = obstore.get(self._store, key)
            size = result.meta["size"]
            if max_bytes is not None and size > max_bytes:
                raise TooLargeError(
                    f"object {key!r} has {size} bytes, more than the {max_bytes} that are allowed."
                )
            return bytes(result.bytes())

    def size(self, key: str) -> int:
        """The object's size in bytes; MissingObjectError if there is none."""
        check_key(key)
        with self._reporting("head", key):
            return obstore.head(self._store, key)["size"]

    def exists(self, key: str) -> bool:
        """Whether an object is there."""
        try:
            self.size(key)
        except MissingObjectError:
            return False
        return True

    def list(self, prefix: str = "") -> Iterator[str]:
        """Keys below the folder `prefix` ("" for all), in no promised order."""
        if prefix:
            check_key(prefix)
        with self._reporting("list", prefix):
            for batch in obstore.list(self._store, prefix or None):
                yield from (meta["path"] for meta in batch)

    def _confirm(self, key: str, data: bytes) -> bool:
        """Whether what is there is what was to be stored; a torn object under its own hash is mended."""
        if self.get(key, max_bytes=None) == data:
            return False
        if hashlib.sha256(data).hexdigest() not in key:
            raise StoreError(
                f"object {key!r} exists with other bytes; objects are immutable, so it was not replaced."
            )
        # A machine that lost power can leave the name without the bytes. The name says what the bytes must be,
        # so putting them there cannot take anything away from anybody.
        obstore.put(self._store, key, data, mode="overwrite")
        self._sync(key)
        return True

    def _sync(self, key: str) -> None:
        """Make a local object outlive a power cut: the robot deletes its own copy once this one is acknowledged."""
        if self._root is None:
            return
        path = self._root / key
        folders: list[Path] = []
        for parent in path.parents:
            folders.append(parent)
            if (
                parent == self._root or len(folders) == 2
            ):  # the file's folder and the one that may be new above it
                break
        for name in [path, *folders]:
            handle = os.open(name, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    @contextlib.contextmanager
    def _reporting(self, action: str, key: str) -> Generator[None]:
        try:
            yield
        except FileNotFoundError as error:  # obstore's NotFoundError is one
            raise MissingObjectError(f"object {key!r} does not exist in {self.url!r}.") from error
        except (BaseError, OSError) as error:
            raise StoreError(
                f"object store {self.url!r}: {action} {key!r} failed: {_line(error)}. It will be tried again; check "
                "the network, the credentials and the free space."
            ) from error


def _local_root(url: str) -> Path | None:
    """The directory that a path or a file:// URL names, None for any other scheme."""
    parts = urlsplit(url)
    if not url:
        raise ConfigError("object store: an empty URL; expected a path, file:///path or s3://bucket/prefix.")
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise ConfigError(
                f"object store {url!r}: a file URL has three slashes, as in file:///data/objects."
            )
        return Path(unquote(parts.path)).absolute()
    return None if "://" in url else Path(url).expanduser().absolute()


def _line(error: Exception) -> str:
    """The first line of an error; obstore appends pages of debug output."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
