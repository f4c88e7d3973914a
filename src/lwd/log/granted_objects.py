"""The robot's side of grants: an object store without a bucket key, over plain HTTP and signed URLs.

Every wait is bounded, every failure is repeated with jittered pauses and a new URL, a broken download goes on where it
stopped. Redirects are refused, and no URL is shown with its signature: whoever has it may use it.
"""

from __future__ import annotations

import contextlib
import logging
import random
import re
import socket
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from lwd.errors import StoreError
from lwd.log.calls import CALL_TIMEOUT_S, CallBusyError, CallRefusedError, Calls
from lwd.log.grants import GET, PUT
from lwd.log.objects import MissingObjectError, ObjectStore, TooLargeError, check_key

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0
STALL_S = 30.0
"""How long a server may send or take nothing."""

_CHUNK = 1 << 16
_AGAIN = frozenset({400, 403, 408, 409, 425, 429, 500, 502, 503, 504})
"""Answers after which a new URL is worth a try: overload, an expired URL, a concurrent write, a body that was damaged."""


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Limits of one `put_once` or `get`.

    Attributes:
        timeout_s: for all of it, with its repetitions.
        tries: failures in a row, without a byte of progress, after which it is an error.
        pause_s: shortest and longest pause after a failure; the longest where the coordinator is busy.
        stall_s: how long the server may send or take nothing.
    """

    timeout_s: float = 900.0
    tries: int = 4
    pause_s: tuple[float, float] = (0.2, 5.0)
    stall_s: float = STALL_S


@dataclass(frozen=True, kw_only=True)
class _Grant:
    url: str = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    size: int
    files: str | None
    done: bool


class GrantedObjects:
    """Objects through signed URLs; an `ObjectSink` and an `ObjectSource`. Thread-safe.

    Args:
        calls: reaches the coordinator's `Grants`.
        robot: this robot's name.
        hosts: `host[:port]` of the servers that URLs may name; any if None.
        files: also accept a directory of this machine as the answer (embedded mode).
        ca_file: certificates of the server's authority, where it is not a public one.
        limits: of each call.
    """

    def __init__(
        self,
        calls: Calls,
        robot: str,
        *,
        hosts: Collection[str] | None = None,
        files: bool = False,
        ca_file: str | None = None,
        limits: Transfer | None = None,
    ) -> None:
        self._calls, self._robot, self._files = calls, robot, files
        self._hosts = None if hosts is None else frozenset(hosts)
        self._limits = limits or Transfer()
        self._folders: dict[str, ObjectStore] = {}
        self._http = urllib3.PoolManager(maxsize=4, ca_certs=ca_file, socket_options=_socket_options())
        _hide_signatures()

    def close(self) -> None:
        """Close all connections."""
        self._http.clear()

    def put_once(self, key: str, data: bytes) -> bool:
        """See `ObjectStore.put_once`. StoreError also if the coordinator refuses, e.g. an episode of another robot."""
        tries = _Tries(self._limits, f"put {check_key(key)!r}")
        while True:
            try:
                grant = self._grant(PUT, {"key": key, "size": len(data)}, tries)
                if grant.done:
                    return False
                if grant.files is not None:
                    return self._folder(grant.files).put_once(key, data)
                status, code = self._send(grant, data, tries)
            except _TryAgainError as error:
                tries.failed(str(error), seldom=error.seldom)
                continue
            if status in (200, 201, 204):
                return True
            if status == 412:  # it is there: most likely our own earlier try, whose answer was lost
                return self._confirm(key, data)
            tries.answered(status, code)

    def get(self, key: str, max_bytes: int | None = None) -> bytes:
        """See `ObjectStore.get`. What has arrived is kept when the connection breaks."""
        tries = _Tries(self._limits, f"get {check_key(key)!r}")
        data = bytearray()
        while True:
            before = len(data)
            try:
                grant = self._grant(GET, {"key": key}, tries)
                if grant.files is not None:
                    return self._folder(grant.files).get(key, max_bytes)
                size = grant.size
                if max_bytes is not None and size > max_bytes:
                    raise TooLargeError(
                        f"object {key!r} has {size} bytes, more than the {max_bytes} that are allowed."
                    )
                status, code = self._receive(grant, data, size, tries)
            except _TryAgainError as error:
                tries.failed(str(error), progress=len(data) > before, seldom=error.seldom)
                continue
            if status == 404:
                raise MissingObjectError(f"object {key!r} does not exist.")
            if status in (200, 206):
                return bytes(data)
            tries.answered(status, code)

    def _folder(self, path: str) -> ObjectStore:
        if path not in self._folders:
            self._folders[path] = ObjectStore(path)
        return self._folders[path]

    def _confirm(self, key: str, data: bytes) -> bool:
        """False, success, if what is there is `data`; StoreError otherwise."""
        try:
            same = self.get(key, max_bytes=len(data)) == data
        except TooLargeError:
            same = False
        if not same:
            raise StoreError(
                f"object {key!r} exists with other bytes; objects are immutable, so it was not replaced."
            )
        return False

    def _grant(self, verb: str, payload: dict[str, Any], tries: _Tries) -> _Grant:
        """Ask for a URL, and trust nothing in the answer."""
        try:
            timeout = min(CALL_TIMEOUT_S, tries.left())
            answer = self._calls.call(f"calls.{self._robot}.{verb}", payload, timeout)
        except CallRefusedError:
            raise
        except CallBusyError as error:
            raise _TryAgainError(str(error), seldom=True) from error
        except StoreError as error:
            raise _TryAgainError(str(error)) from error
        if answer.get("later") is True:
            raise _TryAgainError("the coordinator's catalogue or object store does not answer")
        if answer.get("missing") is True:
            raise MissingObjectError(f"object {payload['key']!r} does not exist.")
        url, headers, size, files = (answer.get(name) for name in ("url", "headers", "size", "files"))
        if isinstance(files, str) and not self._files:
            raise StoreError(
                f"grants: the coordinator answered with a directory of its machine, but robot {self._robot!r} expects URLs; "
                "give the fleet an object store with an s3:// URL."
            )
        texts = isinstance(headers, dict) and all(map(_plain_header, headers.items()))
        sized = type(size) is int and size >= 0
        done = verb == PUT and answer.get("done") is True
        if isinstance(files, str) or done:
            url, headers = "", {}
        elif (
            not isinstance(url, str)
            or not texts
            or not isinstance(headers, dict)
            or not (verb == PUT or sized)
        ):
            raise StoreError(
                f"grants: the answer for {payload['key']!r} has no URL; is lwd up to date there?"
            )
        else:
            self._check_host(url)
        return _Grant(
            url=url,
            headers=headers,
            size=size if isinstance(size, int) else 0,
            files=files if isinstance(files, str) else None,
            done=done,
        )

    def _check_host(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or (
            self._hosts is not None and parts.netloc not in self._hosts
        ):
            raise StoreError(
                f"grants: the URL names {parts.scheme}://{parts.netloc}, expected http or https and one of "
                f"{sorted(self._hosts) if self._hosts is not None else 'any host'}; "
                "nothing was sent."
            )

    def _open(
        self, method: str, grant: _Grant, headers: dict[str, str], body: Iterable[bytes] | None
    ) -> urllib3.BaseHTTPResponse:
        timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=self._limits.stall_s)
        try:
            return self._http.request(
                method,
                grant.url,
                headers=headers,
                body=body,
                timeout=timeout,
                retries=False,  # ours know more: they ask for a new URL
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
        except (HTTPError, OSError) as error:
            raise _TryAgainError(_plain(error)) from error

    def _send(self, grant: _Grant, data: bytes, tries: _Tries) -> tuple[int, str]:
        """PUT; the answer's status and error code."""
        response = self._open("PUT", grant, grant.headers, _pieces(data, tries))
        return response.status, _error_code(response)

    def _receive(self, grant: _Grant, data: bytearray, size: int, tries: _Tries) -> tuple[int, str]:
        """GET what is missing of `data`; the answer's status and error code. 200 and 206 mean that all is there."""
        if len(data) == size and size > 0:
            return 200, ""
        headers = {**grant.headers, **({"range": f"bytes={len(data)}-"} if data else {})}
        response = self._open("GET", grant, headers, None)
        if response.status not in (200, 206):
            return response.status, _error_code(response)
        if not response.headers.get("content-range", "").startswith(f"bytes {len(data)}-"):
            data.clear()  # all of it comes again
        try:
            while len(data) <= size and (chunk := response.read1(_CHUNK)):
                data += chunk
                tries.left()
        except (HTTPError, OSError) as error:
            raise _TryAgainError(_plain(error)) from error
        finally:
            response.close()
        if len(data) > size:
            data.clear()
            raise StoreError(f"{tries.what}: more than the announced {size} bytes came; none was kept.")
        if len(data) < size:
            raise _TryAgainError(f"{len(data)} of {size} bytes came")
        return response.status, ""


class _TryAgainError(Exception):
    """A transfer that is worth another try; `seldom` where trying is itself the trouble."""

    def __init__(self, text: str, *, seldom: bool = False) -> None:
        self.seldom = seldom
        super().__init__(text)


class _Tries:
    """Counts the failures of one transfer, and waits between them."""

    def __init__(self, limits: Transfer, what: str) -> None:
        self.what = what
        self._limits, self._failures = limits, 0
        self._deadline = time.monotonic() + limits.timeout_s

    def left(self) -> float:
        """Seconds left; StoreError if none."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise StoreError(
                f"{self.what} took more than {self._limits.timeout_s:g} s; it will be tried again later."
            )
        return left

    def failed(self, cause: str, progress: bool = False, seldom: bool = False) -> None:
        """Wait before the next try, or raise StoreError if this was the last one.

        `seldom` waits as long as after the worst failure: a thousand robots that return at once must not spend the
        coordinator's time, and theirs, on being told to wait.
        """
        self._failures = 1 if progress else self._failures + 1
        if self._failures >= self._limits.tries:
            raise StoreError(
                f"{self.what} failed {self._failures} times, last: {cause}. It will be tried again later; check the network, "
                "and whether coordinator and object store run."
            )
        low, high = self._limits.pause_s
        pause = (high if seldom else min(low * 2 ** (self._failures - 1), high)) * random.uniform(0.5, 1.0)
        log.info("transfer_failed what=%r seconds=%.1f cause=%r", self.what, pause, cause)
        time.sleep(min(pause, self.left()))

    def answered(self, status: int, code: str) -> None:
        """As `failed`, for an answer that is no success."""
        if status not in _AGAIN:
            redirect = " A redirect; signed URLs are never followed elsewhere." if 300 <= status < 400 else ""
            raise StoreError(f"{self.what}: the object store answered {status} {code}.{redirect}")
        self.failed(f"the object store answered {status} {code}")


def _plain_header(header: tuple[object, object]) -> bool:
    """Whether it can be sent: anything else would be an error of the HTTP library's own, or smuggle a line."""
    name, value = header
    named = isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9-]{1,64}", name) is not None
    return named and isinstance(value, str) and value.isascii() and value.isprintable()


def _pieces(data: bytes, tries: _Tries) -> Iterator[bytes]:
    """A body in pieces, so that a slow line is told from a dead one, and that ends with its time."""
    for start in range(0, len(data), _CHUNK):
        tries.left()
        yield data[start : start + _CHUNK]


def _error_code(response: urllib3.BaseHTTPResponse) -> str:
    """The code in an S3 error document; the connection is usable again after a short answer only."""
    try:
        text = response.read(_CHUNK).decode(errors="replace")
        if response.status < 300:
            response.release_conn()
    except (HTTPError, OSError):
        text = ""
    if response.status >= 300:
        response.close()
    found = re.search(r"<Code>([A-Za-z0-9]{1,80})</Code>", text)
    return found[1] if found else ""


def _plain(error: Exception) -> str:
    """An error's text without any URL's query."""
    return f"{type(error).__name__}: {_QUERY.sub('?...', str(error))[:300]}"


def _socket_options() -> list[tuple[int, int, int | bytes]]:
    """For connections over radio: BBR where the kernel has it.

    The usual congestion controls take each lost packet for a full queue: at 1 % loss and 50 ms round trip they send 3 Mbit/s,
    whatever the line could carry.
    """
    options: list[tuple[int, int, int | bytes]] = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
    if _BBR is not None:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(*_BBR)
            options.append(_BBR)
    return options


_BBR = (socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr") if hasattr(socket, "TCP_CONGESTION") else None
_QUERY = re.compile(r"\?[^\s'\"]*")


class _Hide(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = _QUERY.sub("?...", record.getMessage()), ()
        return True


_HIDE = _Hide()


def _hide_signatures() -> None:
    """urllib3 logs whole URLs when it is told to log everything. Adding a filter twice does nothing."""
    for name in ("urllib3.connectionpool", "urllib3.poolmanager"):
        logging.getLogger(name).addFilter(_HIDE)
