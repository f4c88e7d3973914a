"""The link to a NATS server: one connection, kept up by one background thread, used from any thread.

Each connection is a fresh client of nats-py with its own reconnecting switched off. A client that lost its server is
thrown away, and what has to outlive it (subscriptions) is set up anew on the next one: so the first connection, the
thousandth and one after a revoked and renewed credential all take the same path.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import CancelledError
from typing import Any, Protocol, TypeVar, runtime_checkable

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from lwd.errors import StoreError
from lwd.log.nats_client import (
    CLOSE_TIMEOUT_S,
    CONNECT_TIMEOUT_S,
    SturdyClient,
    TlsIdentity,
    client_options,
    discard,
    end,
    without_password,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

PUBLISH_TIMEOUT_S = 5.0

_DENIED = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"', re.IGNORECASE)


@runtime_checkable
class Kept(Protocol):
    """Something that is set up again on each new connection."""

    async def connected(self, client: Client) -> Subscription | None:
        """Set it up; runs on the link's loop. A subscription that is returned ends when this is closed."""
        ...

    def close(self) -> None:
        """Free what it holds; runs on the link's loop, once."""
        ...


class NatsLink:
    """One connection to a fleet's NATS servers. Thread-safe; open it after a fork, close it or use it as a context manager.

    Opening returns at once, also when no server is up: the link goes on trying, with growing pauses of random length, until
    it is closed. Calls wait for it within their own timeout.

    Args:
        urls: `nats://host:port` or `tls://host:port`; with several, each is tried in turn.
        identity: certificates; with them nothing is ever sent unencrypted, whatever the URL says.
        name: shown in the server's monitoring.
        inbox: prefix of the subjects that answers come to; a fleet's permissions are per client.
        backoff_s: shortest and longest pause between two tries.
        ping_s: seconds between two signs of life; a half-open connection is found after at most twice that.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        identity: TlsIdentity | None = None,
        name: str = "lwd",
        inbox: str = "_INBOX",
        backoff_s: tuple[float, float] = (0.1, 10.0),
        ping_s: float = 5.0,
    ) -> None:
        self.urls = [urls] if isinstance(urls, str) else list(urls)
        self._options = client_options(self.urls, identity, name, inbox)
        self._backoff_s, self._ping_s = backoff_s, ping_s
        self._kept: dict[Kept, Subscription | None] = {}
        self._denied: dict[str, set[asyncio.Future[None]]] = {}
        self._cause = "it was never up"
        self._client: Client | None = None
        self._closed = False
        self._guard = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._up, self._stop = asyncio.Event(), asyncio.Event()
        self._lost: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._work, name=f"lwd-link-{name}", daemon=True)
        self._thread.start()

    def __enter__(self) -> NatsLink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def connected(self) -> bool:
        """Whether the link is up, as far as is known."""
        return self._client is not None

    @property
    def cause(self) -> str:
        """Why the link is, or last was, down."""
        return self._cause

    def run(self, what: str, call: Callable[[Client], Awaitable[T]], timeout_s: float) -> T:
        """Run a coroutine on the connected client, waiting for the link if need be; at most `timeout_s` for both.

        Args:
            what: for the error, such as "publish to 'episodes.r1'".
            call: gets the client; runs on the link's loop and must not block it.
            timeout_s: seconds.

        Raises:
            StoreError: no link, lost it meanwhile, refused, or no answer in time; whether the server acted is then not known.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("NatsLink: a blocking call from the link's own thread would wait for itself.")
        with self._guard:
            if self._closed:
                raise StoreError(
                    f"bus: {what} failed: the link to {self._shown()} was closed; open a new one."
                )
            future = asyncio.run_coroutine_threadsafe(self._within(what, call, timeout_s), self._loop)
        try:
            return future.result(timeout_s + CLOSE_TIMEOUT_S)
        except TimeoutError as error:  # the loop itself hangs: this machine is far too busy
            future.cancel()
            raise StoreError(self._text(what, f"nothing happened within {timeout_s:g} s")) from error
        except CancelledError as error:
            raise StoreError(self._text(what, "the link was closed meanwhile")) from error

    def request(
        self, subject: str, data: bytes, timeout_s: float, headers: dict[str, Any] | None = None
    ) -> Msg:
        """Send a question and return the one answer. See `run`; StoreError too if nobody listens or if it is not allowed."""

        async def ask(client: Client) -> Msg:
            return await self.ask(client, subject, data, timeout_s, headers)

        return self.run(f"request {subject!r}", ask, timeout_s)

    def publish(self, subject: str, data: bytes, timeout_s: float = PUBLISH_TIMEOUT_S) -> None:
        """Send a message that nobody stores and nobody confirms, such as a status. See `run`."""

        async def send(client: Client) -> None:
            await client.publish(subject, data)

        self.run(f"publish to {subject!r}", send, timeout_s)

    async def ask(
        self,
        client: Client,
        subject: str,
        data: bytes,
        timeout_s: float,
        headers: dict[str, Any] | None = None,
    ) -> Msg:
        """`request` for coroutines that run inside `run`. Fails at once when the server says that it is not allowed."""
        task = asyncio.ensure_future(client.request(subject, data, timeout_s, headers=headers))
        denied: asyncio.Future[None] = self._loop.create_future()
        said = subject.lower()  # nats-py makes what the server says small
        self._denied.setdefault(said, set()).add(denied)
        try:
            await asyncio.wait({task, denied}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise StoreError(self._text(f"request {subject!r}", "this credential is not allowed to"))
            return task.result()
        finally:
            task.cancel()
            self._denied[said].discard(denied)
            if not self._denied[said]:
                del self._denied[said]

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Run something quick on the link's loop, soon; nothing happens once the link is closed."""
        with self._guard:
            if not self._closed:
                self._loop.call_soon_threadsafe(callback)

    def keep(self, kept: Kept) -> Keeping:
        """Set `kept` up on this and each later connection, until the result is closed. Returns at once."""
        self._call_soon(self._add(kept))
        return Keeping(self, kept)

    def release(self, kept: Kept) -> None:
        """End what `keep` began; returns at once."""
        self._call_soon(self._remove(kept))

    def close(self) -> None:
        """Disconnect and end the thread; calls that wait get StoreError. May be called again."""
        with self._guard:
            if self._closed:
                return
            self._closed = True
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(3 * CLOSE_TIMEOUT_S)

    # What follows runs on the link's thread.

    def _work(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._supervise())
            for kept in self._kept:
                kept.close()
            rest = asyncio.all_tasks(self._loop)
            for task in rest:
                task.cancel()
            if rest:
                self._loop.run_until_complete(asyncio.wait(rest, timeout=CLOSE_TIMEOUT_S))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()

    async def _supervise(self) -> None:
        """Connect, watch, throw away, pause, again; until told to stop."""
        pause, turn = self._backoff_s[0], 0
        while not self._stop.is_set():
            url = self.urls[turn % len(self.urls)]
            turn += 1
            client = SturdyClient()
            ended = self._loop.create_future()
            try:
                if await self._connect(client, url, ended):
                    pause = self._backoff_s[0]
                    await self._watch(client, ended)
            except Exception as error:  # the supervisor must outlive anything
                log.exception("nats_link_failed url=%s", url)
                self._note(f"{type(error).__name__}: {error}")
            finally:
                self._client = None
                self._up.clear()
                if not self._lost.done():
                    self._lost.set_result(None)
                await discard(client)
            # Random, or a thousand robots would come back in the same instant.
            await _wait(self._stop, pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, self._backoff_s[1])

    async def _connect(self, client: Client, url: str, ended: asyncio.Future[None]) -> bool:
        causes: list[str] = []

        async def failed(error: Exception) -> None:
            text = str(error) or type(error).__name__
            causes.append(text)
            self._complain(text)

        async def closed() -> None:
            if not ended.done():
                ended.set_result(None)

        options: dict[str, Any] = {**self._options, "servers": [url], "error_cb": failed, "closed_cb": closed}
        connecting = asyncio.ensure_future(client.connect(**options))
        stopping = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait(
            {connecting, stopping}, timeout=CONNECT_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
        )
        stopping.cancel()
        if not connecting.done():
            connecting.cancel()
            await asyncio.wait({connecting})
            causes.append(f"no connection within {CONNECT_TIMEOUT_S:g} s")
        error = None if connecting.cancelled() else connecting.exception()
        if connecting.cancelled() or error is not None:
            self._note(causes[0] if causes else f"{type(error).__name__}: {error}", url)
            return False
        # The client is known before the first of them is set up: what is added meanwhile sets itself up.
        self._client, self._lost = client, self._loop.create_future()
        for kept in list(self._kept):
            await self._set_up(kept, client)
        self._up.set()
        log.info("nats_link_up url=%s", url)
        return True

    async def _watch(self, client: Client, ended: asyncio.Future[None]) -> None:
        """Return when the connection is no longer of use, or is to be closed."""
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            while client.is_connected:
                await asyncio.wait(
                    {ended, stopping}, timeout=self._ping_s, return_when=asyncio.FIRST_COMPLETED
                )
                if ended.done() or stopping.done():
                    break
                # Our own sign of life with a bound: nothing else finds a connection that is cut but not closed.
                await asyncio.wait_for(client.flush(max(1, round(self._ping_s))), self._ping_s)
        except (nats.errors.Error, OSError, TimeoutError) as error:
            self._note(f"no sign of life within {self._ping_s:g} s ({type(error).__name__})")
        finally:
            stopping.cancel()
        if not self._stop.is_set():
            last = client.last_error
            self._note(f"the connection ended ({last or 'closed by the server'})")

    async def _within(self, what: str, call: Callable[[Client], Awaitable[T]], timeout_s: float) -> T:
        deadline = self._loop.time() + timeout_s
        if not await _wait(self._up, timeout_s):
            raise StoreError(self._text(what, f"no link within {timeout_s:g} s"))
        client, lost = self._client, self._lost
        assert client is not None
        task = asyncio.ensure_future(call(client))
        try:
            left = max(deadline - self._loop.time(), 0.001)
            await asyncio.wait({task, lost}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            reason = "the link was lost meanwhile" if lost.done() else f"no answer within {timeout_s:g} s"
            raise StoreError(self._text(what, reason))
        except nats.errors.NoRespondersError as error:
            raise StoreError(self._text(what, "nobody there takes it")) from error
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise StoreError(self._text(what, str(error) or type(error).__name__)) from error
        finally:
            task.cancel()

    async def _add(self, kept: Kept) -> None:
        self._kept[kept] = None
        if self._client is not None:
            await self._set_up(kept, self._client)

    async def _remove(self, kept: Kept) -> None:
        if kept not in self._kept:  # closed before
            return
        subscription = self._kept.pop(kept)
        kept.close()
        if subscription is not None:
            await end(subscription)

    async def _set_up(self, kept: Kept, client: Client) -> None:
        if kept not in self._kept:  # closed meanwhile
            return
        try:
            subscription = await asyncio.wait_for(kept.connected(client), CLOSE_TIMEOUT_S)
        except (nats.errors.Error, OSError, TimeoutError) as error:
            log.warning("nats_setup_failed what=%s cause=%r", type(kept).__name__, str(error))
            return
        if kept in self._kept and client is self._client:
            self._kept[kept] = subscription
        elif subscription is not None:
            await end(subscription)

    def _complain(self, text: str) -> None:
        """Take in what the server says outside of any answer: a refused publish ends the request that waits for it."""
        denied = _DENIED.search(text)
        if denied is None:
            return
        log.warning("nats_denied action=%s subject=%s", denied[1], denied[2])
        for waiting in self._denied.get(denied[2].lower(), ()):
            if not waiting.done():
                waiting.set_result(None)

    def _note(self, cause: str, url: str = "") -> None:
        if cause != self._cause:  # once per cause, not once per try
            log.warning("nats_link_down url=%s cause=%r", url or self._shown(), cause)
        self._cause = cause

    def _text(self, what: str, reason: str) -> str:
        down = "" if self.connected else f" The link is down: {self._cause}."
        return (
            f"bus: {what} at {self._shown()} failed: {reason}.{down} It can be repeated; check that the server runs, that "
            "it can be reached and that this credential is valid and allowed to do this."
        )

    def _shown(self) -> str:
        return ", ".join(without_password(url) for url in self.urls)

    def _call_soon(self, coroutine: Any) -> None:
        with self._guard:
            if self._closed:
                coroutine.close()
                return
            asyncio.run_coroutine_threadsafe(coroutine, self._loop)


class Keeping:
    """What `NatsLink.keep` began; close it to end it."""

    def __init__(self, link: NatsLink, kept: Kept) -> None:
        self._link, self._kept = link, kept

    def close(self) -> None:
        """End it; may be called again."""
        self._link.release(self._kept)


async def _wait(event: asyncio.Event, timeout_s: float) -> bool:
    """Whether the event came within `timeout_s` seconds."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), timeout_s)
    return event.is_set()
