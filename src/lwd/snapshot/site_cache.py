"""One download per site: robots of a site fetch snapshots through a cache of their own, which asks the origin once.

The cache is trusted with nothing: a file's name is its hash, which the cache checks before it serves and the robot checks
again. A cache that is gone, full or hostile costs the robot a detour to the origin, not a policy.

    GET /snapshots/<sha256>.safetensors    200 with the bytes, 404 not at the origin, 502 origin silent, 507 no room
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import urllib3
from urllib3.exceptions import HTTPError

from lwd.errors import ConfigError, SnapshotError, StoreError
from lwd.log.checks import check_port
from lwd.log.objects import MissingObjectError, ObjectSource, TooLargeError, check_key

log = logging.getLogger(__name__)

MAX_SNAPSHOT_BYTES = 16 * 2**30
IDLE_S = 60.0
"""How long a robot may send or take nothing."""

_PATH = re.compile(r"/snapshots/([0-9a-f]{64})\.safetensors")
_KEY = re.compile(r"snapshots/([0-9a-f]{64})\.safetensors")


@dataclass(frozen=True, kw_only=True)
class CacheStatus:
    """What a cache did: requests served, downloads from the origin, files and bytes on its disk."""

    served: int
    downloads: int
    files: int
    size: int


class SiteCache:
    """The cache's files. Thread-safe; the folder is its alone.

    Args:
        origin: where snapshots come from, such as `GrantedObjects` of a robot that was invited for this.
        folder: made if missing; what is in it from an earlier run is checked before it is served.
        max_bytes: of all files; what was used longest ago goes first.
    """

    def __init__(self, origin: ObjectSource, folder: Path, max_bytes: int) -> None:
        if max_bytes <= 0:
            raise ConfigError(f"site cache: max_bytes is {max_bytes}, expected at least 1.")
        self._origin, self._folder, self._max_bytes = origin, folder, max_bytes
        self._guard, self._disk = threading.Lock(), threading.Lock()
        self._flights: dict[str, Future[Path]] = {}
        self._checked: set[str] = set()
        self._served = self._downloads = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for part in folder.glob("*.part"):
                part.unlink()
        except OSError as error:
            raise StoreError(f"site cache: {str(folder)!r} cannot be used: {error}.") from error

    def path(self, sha256: str) -> Path:
        """The checked file of this hash; of all that ask at once, one downloads and the others wait for it.

        Raises:
            MissingObjectError: the origin has none.
            TooLargeError: it does not fit into the cache.
            SnapshotError: the origin's bytes have another hash; nothing was kept.
            StoreError: the origin does not answer, or the disk refuses.
        """
        with self._guard:
            flight = self._flights.get(sha256)
            mine = flight is None
            if flight is None:
                flight = self._flights[sha256] = Future()
        if mine:
            try:
                flight.set_result(self._find(sha256))
            except BaseException as error:
                flight.set_exception(error)
            finally:
                with self._guard:
                    del self._flights[sha256]
        found = flight.result()
        with self._guard:
            self._served += 1
        return found

    def status(self) -> CacheStatus:
        """What it did since it was opened."""
        sizes = [path.stat().st_size for path in self._files()]
        with self._guard:
            return CacheStatus(
                served=self._served, downloads=self._downloads, files=len(sizes), size=sum(sizes)
            )

    def _find(self, sha256: str) -> Path:
        path = self._folder / f"{sha256}.safetensors"
        try:
            if path.exists() and self._sound(path, sha256):
                os.utime(path)
                return path
            return self._download(path, sha256)
        except OSError as error:
            raise StoreError(f"site cache: {str(path)!r}: {error}. Check its disk.") from error

    def _sound(self, path: Path, sha256: str) -> bool:
        """Check a file once per run of this program; a damaged one is removed."""
        if sha256 in self._checked:
            return True
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                self._checked.add(sha256)
                return True
        log.warning("site_cache_damaged path=%s", path)
        path.unlink()
        return False

    def _download(self, path: Path, sha256: str) -> Path:
        data = self._origin.get(f"snapshots/{path.name}", min(self._max_bytes, MAX_SNAPSHOT_BYTES))
        self._downloads += 1
        if (digest := hashlib.sha256(data).hexdigest()) != sha256:
            raise SnapshotError(f"site cache: the origin's snapshot {sha256} has sha256 {digest}; not kept.")
        with self._disk:  # two files at once must not make room at each other's cost
            self._make_room(len(data))
            part = path.with_suffix(".part")
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        self._checked.add(sha256)
        log.info("site_cache_downloaded snapshot=%s bytes=%d", sha256, len(data))
        return path

    def _make_room(self, size: int) -> None:
        """Whoever reads a removed file reads on: the name goes, the bytes stay until it is closed."""
        found = sorted((path.stat().st_mtime, path) for path in self._files())
        used = sum(path.stat().st_size for _, path in found)
        for _, path in found:
            if used + size <= self._max_bytes:
                return
            used -= path.stat().st_size
            self._checked.discard(path.stem)
            path.unlink()

    def _files(self) -> list[Path]:
        return list(self._folder.glob("*.safetensors"))


class SiteCacheServer:
    """Serves a cache over HTTP, in threads, until it is closed.

    Args:
        cache: whose files.
        host: to listen on.
        port: 0 for a free one.

    Raises:
        ConfigError: there is no such port.
        StoreError: it is taken, or the host is not of this machine.
    """

    def __init__(self, cache: SiteCache, host: str = "127.0.0.1", port: int = 0) -> None:
        check_port("site cache: --port", port)
        handler = type("Handler", (_Handler,), {"cache": cache})
        try:
            self._server = ThreadingHTTPServer((host, port), handler)
        except OSError as error:
            raise StoreError(f"site cache: cannot listen on {host}:{port}: {error}.") from error
        self._server.daemon_threads = True
        self.url = f"http://{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="lwd-site-cache", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; requests that run are not waited for. May be called again."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    cache: SiteCache
    timeout = IDLE_S
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "lwd", ""

    def do_GET(self) -> None:
        found = _PATH.fullmatch(self.path)
        if found is None:
            self._answer(404)
            return
        try:
            # Opened before anything is sent: making room for another one cannot take it away any more.
            file = self.cache.path(found[1]).open("rb")
        except MissingObjectError:
            self._answer(404)
        except TooLargeError:
            self._answer(507)
        except (StoreError, SnapshotError, OSError) as error:
            log.warning("site_cache_failed snapshot=%s cause=%r", found[1], str(error))
            self._answer(502)
        else:
            with file, contextlib.suppress(OSError):  # the robot may go away
                self.send_response(200)
                self.send_header("content-length", str(os.fstat(file.fileno()).st_size))
                self.end_headers()
                shutil.copyfileobj(file, self.wfile, 1 << 20)

    def log_message(self, format: str, *args: object) -> None:
        log.debug(format, *args)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()


class CachedObjects:
    """A robot's `ObjectSource`: snapshots through the site's cache, everything else, and what it fails at, from the origin.

    Args:
        url: of the site's cache.
        origin: such as `GrantedObjects`.
        timeout_s: how long the cache may send nothing; the first robot of a site waits for the cache's own download.
    """

    def __init__(self, url: str, origin: ObjectSource, timeout_s: float = 120.0) -> None:
        self._url, self._origin = url.rstrip("/"), origin
        self._http = urllib3.PoolManager(maxsize=2, retries=False)
        self._timeout = urllib3.Timeout(connect=2.0, read=timeout_s)

    def get(self, key: str, max_bytes: int | None = None) -> bytes:
        """See `ObjectStore.get`."""
        found = _KEY.fullmatch(check_key(key))
        data = None if found is None else self._from_cache(key, found[1], max_bytes)
        return self._origin.get(key, max_bytes) if data is None else data

    def _from_cache(self, key: str, sha256: str, max_bytes: int | None) -> bytes | None:
        limit = MAX_SNAPSHOT_BYTES if max_bytes is None else max_bytes
        data = bytearray()
        try:
            response = self._http.request(
                "GET", f"{self._url}/{key}", timeout=self._timeout, preload_content=False,
                decode_content=False, redirect=False,
            )  # fmt: skip
            try:
                while response.status == 200 and len(data) <= limit and (piece := response.read(1 << 20)):
                    data += piece
            finally:
                response.close()
        except (HTTPError, OSError) as error:
            log.info("site_cache_skipped cause=%r", str(error))
            return None
        if response.status != 200 or hashlib.sha256(data).hexdigest() != sha256:
            log.info("site_cache_skipped status=%d bytes=%d", response.status, len(data))
            return None
        return bytes(data)
