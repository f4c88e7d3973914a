"""The page over HTTP: one gathering for all viewers, GET and HEAD only, for browsers on this machine.

GET /               the page; nothing in it is loaded from elsewhere
GET /status.json    what it shows, `gather.Gathering.document`
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Generator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from lwd.errors import ConfigError
from lwd.log.checks import LOOPBACK, check_port

log = logging.getLogger(__name__)

EVERY_S, LONGEST_PAUSE_S = 2.0, 30.0
"""Shortest time from one gathering to the next. A slow one is followed by a longer pause, so that viewers cost a
catalogue at most a fifth of one connection, however many they are; without viewers nothing is gathered."""
PATIENCE_S = 5.0
"""How long a request waits for the gathering that another one began; then it gets what was gathered last."""
IDLE_S, MAX_REQUESTS = 10.0, 32
"""How long a browser may send or take nothing, and how many requests are answered at once."""
_PAGE = Path(__file__).parent / "page.html"
_CSS = Path(__file__).parents[1] / "evaluate" / "report" / "page.css"
"""The dashboard wears the report's colours."""


class Shared:
    """One gathering for all who ask: the first one to ask when it is due makes it. Thread-safe."""

    def __init__(self, gather: Callable[[], Mapping[str, Any]]) -> None:
        self._gather, self._guard, self._due = gather, threading.Lock(), 0.0
        self._document = b'{"sources": {"catalogue": "it does not answer yet"}}'

    def document(self) -> bytes:
        """The newest one as JSON."""
        if self._guard.acquire(timeout=PATIENCE_S):
            try:
                began = time.monotonic()
                if began >= self._due:
                    self._document = json.dumps(self._gather(), allow_nan=False).encode()
                    pause = max(EVERY_S, 4 * (time.monotonic() - began))
                    self._due = time.monotonic() + min(pause, LONGEST_PAUSE_S)
            except ValueError:  # no number; what was there before stays, and the page says how old it is
                log.exception("dashboard_document_failed")
            finally:
                self._guard.release()
        return self._document


def page() -> tuple[bytes, str]:
    """The page, and its Content-Security-Policy: its own script and style by their hashes, and nothing else."""
    html = _PAGE.read_text(encoding="utf-8").replace("/* the report's */", _CSS.read_text(encoding="utf-8"))
    allowed = {
        name: _hash(html.partition(f"<{name}>")[2].partition(f"</{name}>")[0]) for name in ("script", "style")
    }
    return html.encode(), (
        f"default-src 'none'; script-src {allowed['script']}; style-src {allowed['style']}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


@contextlib.contextmanager
def serving(gather: Callable[[], Mapping[str, Any]], host: str, port: int) -> Generator[str]:
    """Serve the page until the block ends; its address.

    Raises:
        ConfigError: another host than this machine's own, no such port, or it is taken.
    """
    check_port("--port", port)
    if host not in LOOPBACK:
        raise ConfigError(
            f"--host is {host}; expected {', '.join(LOOPBACK)}. The page asks nobody who they are and is not encrypted. From "
            f"another machine, open it through ssh: ssh -L {port or 8460}:127.0.0.1:{port or 8460} THIS-MACHINE"
        )
    html, policy = page()
    answers = {
        "/": ("text/html; charset=utf-8", lambda: html),
        "/status.json": ("application/json", Shared(gather).document),
    }
    try:
        server = _Server((host, port), type("Handler", (_Handler,), {"answers": answers, "policy": policy}))
    except OSError as error:
        raise ConfigError(
            f"the page's port {host}:{port} cannot be opened: {error.strerror or error}. Choose another --port."
        ) from error
    threading.Thread(target=server.serve_forever, name="lwd-dashboard", daemon=True).start()
    try:
        yield f"http://{f'[{host}]' if ':' in host else host}:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads, block_on_close = True, False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._room = threading.Semaphore(MAX_REQUESTS)
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("request_failed", exc_info=True)  # such as a browser that went away


class _Handler(BaseHTTPRequestHandler):
    answers: Mapping[str, tuple[str, Callable[[], bytes]]]
    policy: str
    timeout = IDLE_S
    server_version, sys_version = "lwd", ""

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        host = self.headers.get("host", "").lower()
        if self.command not in ("GET", "HEAD"):
            self._answer(405, "text/plain", b"The dashboard only shows: GET and HEAD.\n", allow="GET, HEAD")
        # A page from elsewhere can point a name of its own at this machine and read what is here; its name betrays it.
        elif host.rpartition(":")[0] not in (*LOOPBACK, "[::1]") and host not in (*LOOPBACK, "[::1]"):
            self._answer(421, "text/plain", f"Open it as one of {', '.join(LOOPBACK)}.\n".encode())
        else:
            return True
        return False

    def do_GET(self) -> None:
        kind, make = self.answers.get(self.path.partition("?")[0], ("", None))
        if make is None:
            self._answer(404, "text/plain", b"There are / and /status.json.\n")
        else:
            self._answer(200, kind, make())

    do_HEAD = do_GET  # noqa: N815 - the name that http.server asks for

    def end_headers(self) -> None:
        self.send_header("content-security-policy", self.policy)
        for name, value in (
            ("cache-control", "no-store"),
            ("cross-origin-resource-policy", "same-origin"),
            ("referrer-policy", "no-referrer"),
            ("x-content-type-options", "nosniff"),
        ):
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        log.debug(format, *args)

    def _answer(self, status: int, kind: str, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
