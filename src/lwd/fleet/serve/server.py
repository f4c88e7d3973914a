"""The websocket server of `lwd serve`: openpi's policy protocol, in an event loop and thread of its own. No JAX."""

from __future__ import annotations

import asyncio
import contextlib
import http
import logging
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from lwd.errors import ConfigError, LwdError
from lwd.fleet.serve.batcher import Answer, Batcher, BatchSettings, BusyError, PolicyFailedError
from lwd.fleet.serve.held import HeldSnapshots, NoSnapshotError, Runner, SnapshotGoneError
from lwd.fleet.serve.observation import ObservationError, ObservationKeys
from lwd.fleet.serve.protocol import FrameError, pack, unpack
from lwd.fleet.serve.session import Session
from lwd.fleet.serve.tokens import TokenFile
from lwd.fleet.telemetry import Telemetry
from lwd.log.checks import check_port
from lwd.spec import RobotSpec

log = logging.getLogger(__name__)

START_S = 30.0
CODES: tuple[tuple[type[LwdError], str], ...] = (
    (ObservationError, "observation"),
    (FrameError, "protocol"),
    (BusyError, "busy"),
    (NoSnapshotError, "waits"),
    (SnapshotGoneError, "snapshot"),
    (PolicyFailedError, "failed"),
)
"""An error is a text frame "CODE: sentence"; after "protocol" the server closes the connection."""
POLICY_VIOLATION, UNSUPPORTED = 1008, 1003


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Where a server listens and what it bears.

    Attributes:
        host, port: 0 for any free port.
        certificate, key: PEM files; with them it speaks TLS.
        max_clients: connections; further ones are answered 503.
        max_frame_bytes: largest request.
        batch: see `BatchSettings`.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    certificate: Path | None = None
    key: Path | None = None
    max_clients: int = 256
    max_frame_bytes: int = 16 << 20
    batch: BatchSettings = field(default_factory=BatchSettings)

    def __post_init__(self) -> None:
        check_port("--port", self.port)


class PolicyServer:
    """Answers robots until closed; use it as a context manager.

    Each connection has one request at a time, so a client that is slow only ever holds up itself. A silent one holds its
    snapshot for a while (`HeldSnapshots`), then loses it where its room is needed. A greedy one costs the others the time to
    read its requests, each up to the largest frame and pictures of the cameras' sizes, and its rows in the policy's batches.

    Args:
        held, runner: the policies.
        spec, keys: what an observation is.
        settings: where to listen.
        tokens: who may ask, None for everybody.
        telemetry: gets `serve_request_seconds`, `serve_compute_seconds` and counters.
        metadata: sent to each client first, beside what it needs to know anyway.

    Raises:
        ConfigError: the address is taken, or the certificate cannot be read.
    """

    def __init__(
        self,
        held: HeldSnapshots,
        runner: Runner,
        spec: RobotSpec,
        keys: ObservationKeys,
        settings: ServerSettings,
        tokens: TokenFile | None,
        telemetry: Telemetry,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self._held, self._spec, self._keys, self._settings = held, spec, keys, settings
        self._tokens, self._telemetry, self._extra = tokens, telemetry, dict(metadata or {})
        self._tls = _tls(settings)
        self._clients: dict[ServerConnection, str] = {}
        self._batcher = Batcher(runner.chunks, lambda: len(self._clients), settings.batch, telemetry)
        self._closing: set[asyncio.Future[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._failed: OSError | None = None
        self.port = 0
        self._main = self._loop.create_task(self._run())
        self._thread = threading.Thread(target=self._serve_loop, name="lwd-serve", daemon=True)
        self._thread.start()
        self._listening.wait(START_S)
        if not self.port:
            where = f"{settings.host}:{settings.port}"
            cause = self._failed or "no answer"
            raise ConfigError(f"the policy server cannot listen on {where}: {cause}. Choose another --port.")

    def __enter__(self) -> PolicyServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections and stop."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._main.cancel)
            self._thread.join(START_S)

    @property
    def alive(self) -> bool:
        """Whether it still answers; a server that is not alive and was not closed has logged why."""
        return self._thread.is_alive()

    def status(self) -> dict[str, Any]:
        """For the service's status."""
        return {"clients": len(self._clients), "waiting": self._batcher.waiting}

    def _serve_loop(self) -> None:
        try:
            with contextlib.suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._main)
        except OSError as error:
            self._failed = error
        except Exception:
            log.exception("policy_server_failed")
        finally:
            self._listening.set()
            self._loop.close()

    async def _run(self) -> None:
        s = self._settings
        async with serve(
            self._client,
            s.host,
            s.port,
            process_request=self._admit,
            compression=None,  # as openpi's client asks for
            max_size=s.max_frame_bytes,
            max_queue=2,
            ssl=self._tls,
            server_header=None,
            close_timeout=2,
        ) as server:
            self.port = int(next(iter(server.sockets)).getsockname()[1])
            self._listening.set()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._batcher.run())
                tasks.create_task(self._watch_tokens(server))

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Before the websocket handshake: health, authentication, room."""
        if urlsplit(request.path).path == "/healthz":
            if self._held.newest is None:
                return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "no snapshot is loaded yet\n")
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if self._who(request) is None:
            self._telemetry.count("serve_unauthorized_total")
            return connection.respond(
                http.HTTPStatus.UNAUTHORIZED,
                "This policy server needs a token: Authorization: Api-Key TOKEN (openpi's api_key), or ?token=TOKEN.\n",
            )
        if len(self._clients) >= self._settings.max_clients:
            return connection.respond(
                http.HTTPStatus.SERVICE_UNAVAILABLE, f"{self._settings.max_clients} clients are connected.\n"
            )
        return None

    def _who(self, request: Request) -> str | None:
        """The client's name, None for a stranger."""
        if self._tokens is None:
            return "anonymous"
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() not in ("api-key", "bearer"):
            token = parse_qs(urlsplit(request.path).query).get("token", [""])[0]
        return self._tokens.name_of(token.strip())

    async def _client(self, connection: ServerConnection) -> None:
        """One connection from its first frame to its last."""
        request = connection.request
        name = None if request is None else self._who(request)
        if name is None:  # taken away between the handshake's two looks
            return
        session = Session(name, self._held, self._spec, self._keys)
        self._clients[connection] = name
        log.info("client_connected name=%s clients=%d", name, len(self._clients))
        gone = asyncio.ensure_future(connection.wait_closed())
        try:
            await connection.send(pack(self._metadata()))
            last: dict[str, float] = {}
            async for frame in connection:
                began = time.monotonic()
                answer = await self._answer(session, frame, gone, last)
                if answer is None:
                    return
                await connection.send(answer)
                last["prev_total_ms"] = 1000 * (time.monotonic() - began)
                if isinstance(answer, str) and answer.startswith("protocol:"):
                    await connection.close(UNSUPPORTED, "see the frame before")
                    return
        except ConnectionClosed:
            pass
        finally:
            gone.cancel()
            del self._clients[connection]
            session.close()
            log.info("client_gone name=%s clients=%d", name, len(self._clients))

    async def _answer(
        self, session: Session, frame: str | bytes, gone: asyncio.Future[None], last: Mapping[str, float]
    ) -> bytes | str | None:
        """The frame that answers a frame, None if the client went away meanwhile."""
        began = time.monotonic()
        try:
            if isinstance(frame, str):
                raise FrameError("requests are binary frames of msgpack, this one is text.")
            row = session.read(unpack(frame))
            if row is None:
                return pack({"snapshot": session.snapshot, "lwd/begun": True})
            asked = asyncio.ensure_future(self._batcher.ask(row))
            try:
                await asyncio.wait((asked, gone), return_when=asyncio.FIRST_COMPLETED)
                if not asked.done() or asked.cancelled():  # it went away, or this server is closing
                    return None
                answer = asked.result()
            finally:
                asked.cancel()
        except LwdError as error:
            self._telemetry.count("serve_errors_total")
            return error_frame(error)
        self._telemetry.observe("serve_request_seconds", [time.monotonic() - began])
        return pack(_message(answer, row.snapshot, last))

    def _metadata(self) -> dict[str, Any]:
        spec, keys = self._spec, self._keys
        return {
            **self._extra,
            "robot_spec": spec.name,
            "proprio_dim": spec.proprio_dim,
            "action_dim": spec.action_dim,
            "action_horizon": spec.chunk_steps,
            "control_hz": spec.control_hz,
            "snapshot": self._held.newest,
            "state_keys": list(keys.state),
            "prompt_key": keys.prompt,
            "image_keys": {keys.image(camera.name): camera.name for camera in spec.cameras},
            "image_shapes": {keys.image(c.name): [c.height, c.width, 3] for c in spec.cameras},
        }

    async def _watch_tokens(self, server: Server, every_s: float = 1.0) -> None:
        """Send away who has lost the right to be here."""
        while True:
            await asyncio.sleep(every_s)
            if self._tokens is None or not self._tokens.refresh():
                continue
            for connection in list(server.connections):
                if connection.request is not None and self._who(connection.request) is None:
                    log.info("client_revoked name=%s", self._clients.get(connection))
                    closing = connection.close(POLICY_VIOLATION, "the token is not valid any more")
                    task = asyncio.ensure_future(closing)
                    self._closing.add(task)  # asyncio itself keeps only weak references
                    task.add_done_callback(self._closing.discard)


def error_frame(error: LwdError) -> str:
    """An error as the text frame that clients get."""
    code = next((code for kind, code in CODES if isinstance(error, kind)), "failed")
    return f"{code}: {error}"


def _message(answer: Answer, snapshot: int, last: Mapping[str, float]) -> dict[str, Any]:
    """As openpi's server answers, with the snapshot. `actions` is the only array: the client's broker slices every array."""
    return {
        "actions": answer.chunk,
        "snapshot": snapshot,
        "server_timing": {
            "infer_ms": 1000 * answer.compute_s,
            "wait_ms": 1000 * answer.wait_s,
            "batch_rows": answer.rows,
            **last,
        },
    }


def _tls(settings: ServerSettings) -> ssl.SSLContext | None:
    if settings.certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.certificate, settings.key)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"the certificate {str(settings.certificate)!r} and its key cannot be used: {error}."
        ) from error
    return context
