"""A TCP proxy that misbehaves on demand: slow, cut, half-open, holding, cutting uploads in mid-body. One thread for all."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable, Coroutine
from typing import Any

CHUNK = 1 << 14
TORN_AFTER = 20_000
"""Bytes of a request with a body after which it is cut."""
LOST_S = 90.0
"""How long the far end of a connection that is lost stays open, as behind a router that forgot it."""


class Connection:
    """One client's connection."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.writers = (near, far)
        self.lost = False
        self.free = asyncio.Event()
        self.free.set()
        self.body = -1

    def abort(self) -> None:
        """End both sides with a reset."""
        for writer in self.writers:
            writer.transport.abort()


class Proxy:
    """Listens on a loopback port and forwards to another. Thread-safe; its loop runs in `Proxies`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, target_port: int) -> None:
        self._loop, self._target = loop, target_port
        self._connections: set[Connection] = set()
        self._delay_s, self._losing, self._tears = 0.0, False, 0
        self.torn, self.port = 0, 0

    async def listen(self) -> None:
        """Begin; sets `port`."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def end(self) -> None:
        """Stop listening and end all connections; on the loop."""
        self._server.close()
        for connection in list(self._connections):
            connection.abort()

    def slow(self, delay_s: float) -> int:
        """Each piece waits so long from now on, 0 for not at all."""

        async def apply() -> int:
            self._delay_s = delay_s
            return len(self._connections)

        return self._do(apply)

    def cut(self) -> int:
        """Reset all connections; how many."""

        async def apply() -> int:
            for connection in list(self._connections):
                connection.abort()
            return len(self._connections)

        return self._do(apply)

    def half_open(self, on: bool) -> int:
        """While on, connections are accepted and nothing is forwarded; those that saw it never come back."""

        async def apply() -> int:
            self._losing = on
            for connection in self._connections:
                connection.lost = connection.lost or on
            return len(self._connections)

        return self._do(apply)

    def hold(self, share: float, seed: int) -> int:
        """Keep back what a share of the connections sends and gets until `release`: late, and after what others sent later."""

        async def apply() -> int:
            rng = random.Random(seed)
            chosen = [connection for connection in self._connections if rng.random() < share]
            for connection in chosen:
                connection.free.clear()
            return len(chosen)

        return self._do(apply)

    def release(self) -> int:
        """Let go what was held."""

        async def apply() -> int:
            for connection in self._connections:
                connection.free.set()
            return 0

        return self._do(apply)

    def tear(self, uploads: int) -> int:
        """Cut so many uploads (HTTP without TLS) in the middle of their bodies, the next ones."""

        async def apply() -> int:
            self._tears = uploads
            return uploads

        return self._do(apply)

    def _do(self, apply: Callable[[], Coroutine[Any, Any, int]]) -> int:
        return asyncio.run_coroutine_threadsafe(apply(), self._loop).result(10.0)

    async def _accept(self, reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        try:
            far_reader, far = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            near.transport.abort()
            return
        connection = Connection(near, far)
        connection.lost = self._losing
        self._connections.add(connection)
        pumps = (self._pump(connection, reader, far, True), self._pump(connection, far_reader, near, False))
        tasks = [asyncio.ensure_future(pump) for pump in pumps]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if connection.lost:
                await asyncio.sleep(LOST_S)
            connection.abort()
            await asyncio.wait(tasks)
        finally:
            connection.abort()
            self._connections.discard(connection)

    async def _pump(
        self, connection: Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, up: bool
    ) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while data := await reader.read(CHUNK):
                await connection.free.wait()
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                if connection.lost:
                    continue
                if up and self._tears_now(connection, data):
                    writer.write(data[: len(data) // 2])
                    await writer.drain()
                    await asyncio.sleep(0.05)  # so that the server has got the half of it
                    connection.abort()
                    return
                writer.write(data)
                await writer.drain()

    def _tears_now(self, connection: Connection, data: bytes) -> bool:
        if data.startswith((b"PUT ", b"POST ", b"GET ", b"HEAD ")):
            connection.body = len(data) if data.startswith(b"PUT ") else -1
        elif connection.body >= 0:
            connection.body += len(data)
        if self._tears <= 0 or connection.body < TORN_AFTER:
            return False
        self._tears, self.torn = self._tears - 1, self.torn + 1
        return True


class Proxies:
    """The thread that all proxies run in; use as a context manager."""

    def __enter__(self) -> Proxies:
        self._loop = asyncio.new_event_loop()
        self._opened: list[Proxy] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="chaos-proxies", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10.0)
        self._loop.close()

    async def _end(self) -> None:
        for proxy in self._opened:
            proxy.end()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await asyncio.sleep(0)  # transports that were aborted close their sockets in the next turn

    def open(self, target_port: int) -> Proxy:
        """A proxy before a port of this machine."""
        proxy = Proxy(self._loop, target_port)
        self._opened.append(proxy)
        asyncio.run_coroutine_threadsafe(proxy.listen(), self._loop).result(10.0)
        return proxy
