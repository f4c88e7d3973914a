"""The object store: immutable bytes under a key, on a local directory or any store that obstore opens by URL."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Generator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, S3Store, from_url

from lwd.errors import ConfigError, StoreError
from lwd.log.s3 import Credentials, S3Location

if TYPE_CHECKING:
    from obstore.store import S3Config

MAX_KEY_CHARS = 512
CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30
"""How long a remote store may send nothing."""
RETRIES, RETRY_S = 2, 20
"""How often, and until how long after the first try, a request to a remote store is repeated before it is an error."""
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

    Args:
        url: a path, `file:///path`, `s3://bucket/prefix?endpoint=http://host:port&region=name` (the options name a server
            that is not AWS), or anything else that obstore opens by URL.
        credentials: the bucket's key; by default from AWS_ACCESS_KEY_ID and the like.

    Attributes:
        url: as it was given.
        root: the directory of a local store, None for others.
        location: of an S3 store, None for others.
        credentials: of an S3 store; None where the machine's role is used.
    """

    def __init__(self, url: str | Path, credentials: Credentials | None = None) -> None:
        self.url = str(url)
        self.root = _local_root(self.url)
        self.location = S3Location.parse(self.url) if self.url.startswith("s3:") else None
        self.credentials = (
            (credentials or Credentials.from_environment()) if self.location is not None else None
        )
        try:
            if self.location is not None:
                self._store = _s3(self.location, self.credentials)
            elif self.root is None:
                self._store = from_url(self.url)
            else:
                self.root.mkdir(parents=True, exist_ok=True)
                self._store = LocalStore(str(self.root))
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

    def delete(self, key: str) -> bool:
        """Remove an object for good; False if there was none. Only for what nobody may use any more."""
        check_key(key)
        if not self.exists(key):
            return False
        with self._reporting("delete", key):
            obstore.delete(self._store, key)
        return True

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
        if self.root is None:
            return
        path = self.root / key
        folders: list[Path] = []
        for parent in path.parents:
            folders.append(parent)
            if (
                parent == self.root or len(folders) == 2
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


def _s3(location: S3Location, credentials: Credentials | None) -> S3Store:
    """A bucket, with waits that end: nobody waits for a silent server for minutes without a log line."""
    config: S3Config = {"endpoint": location.endpoint, "region": location.region}
    if credentials is not None:
        config["access_key_id"] = credentials.access_key
        config["secret_access_key"] = credentials.secret_key
        if credentials.session_token:
            config["session_token"] = credentials.session_token
    return S3Store(
        location.bucket,
        prefix=location.prefix or None,
        config=config,
        client_options={
            "allow_http": location.endpoint.startswith("http:"),
            "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
            "read_timeout": timedelta(seconds=READ_TIMEOUT_S),
            "timeout": timedelta(hours=1),  # of a whole transfer: a large snapshot over a slow line
        },
        retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_S)},
    )


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
