"""Calls: a small question to whoever serves a subject, and its answer, over the same link as the bus.

The subject says who asks: `calls.<robot>.<verb>`. The broker lets a robot ask only under its own name, so a handler takes
the robot's name from the subject and never from the payload. Nothing is stored: a call that got no answer may or may not
have been carried out, so handlers must bear being asked twice.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from lwd.errors import LwdError, StoreError
from lwd.log.bus import decode_payload, encode_payload

if TYPE_CHECKING:  # the embedded mode needs no broker's client
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from lwd.log.nats_link import NatsLink

log = logging.getLogger(__name__)

CALL_TIMEOUT_S = 5.0
WORKERS = 8
"""Calls that one `serve` handles at once."""
MAX_WAITING = 256
"""Calls that may wait for a worker; further ones are told to come back."""

_PATTERN = re.compile(r"([A-Za-z0-9_-]+|\*)(\.([A-Za-z0-9_-]+|\*))*")

Handler = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]
"""Answers one call: (subject, payload) -> answer. An LwdError is told to the caller, any other exception only logged."""


BUSY = "Busy"
"""The kind of an answer that says nothing about the question: too many calls waited."""


class CallRefusedError(StoreError):
    """The handler was reached and said no; asking again as it is will not help.

    Attributes:
        kind: the name of the handler's exception, such as "NotAllowedError"; "" if the answer names none.
    """

    def __init__(self, text: str, kind: str = "") -> None:
        self.kind = kind
        super().__init__(text)


class CallBusyError(StoreError):
    """Too many calls wait there; the same call can be repeated in a few seconds."""


@runtime_checkable
class Closeable(Protocol):
    """Something that runs until it is closed."""

    def close(self) -> None:
        """Stop; may be called again."""
        ...


@runtime_checkable
class Calls(Protocol):
    """Questions and answers: JSON objects of at most MAX_PAYLOAD_BYTES each way."""

    def call(
        self, subject: str, payload: Mapping[str, Any], timeout_s: float = CALL_TIMEOUT_S
    ) -> dict[str, Any]:
        """Ask, and wait at most `timeout_s` seconds for the answer.

        Args:
            subject: words joined by dots, such as "calls.robot7.grant".
            payload: JSON values.
            timeout_s: for everything: finding the link, asking and waiting.

        Raises:
            CallRefusedError: the handler refused; its text is in the message.
            CallBusyError: too many calls wait there; nothing was done.
            StoreError: nobody serves this subject, no answer in time, or no link.
        """
        ...

    def serve(self, subject: str, handler: Handler) -> Closeable:
        """Answer calls from now on until the result is closed; "*" in `subject` stands for one word.

        Several processes may serve one subject; each call goes to one of them. `handler` runs in threads of its own,
        several at once.
        """
        ...


class LocalCalls:
    """Calls within one process: the embedded mode, and tests."""

    def __init__(self) -> None:
        self._served: dict[object, tuple[re.Pattern[str], Handler, ThreadPoolExecutor]] = {}
        self._lock = threading.Lock()

    def call(
        self, subject: str, payload: Mapping[str, Any], timeout_s: float = CALL_TIMEOUT_S
    ) -> dict[str, Any]:
        """See `Calls.call`."""
        question = encode_payload(subject, payload).encode()
        with self._lock:
            found = [item for item in self._served.values() if item[0].fullmatch(subject)]
            if not found:
                raise StoreError(_nobody(subject))
            _, handler, pool = found[0]
            future = pool.submit(answer, handler, subject, question)
        try:
            return read_answer(subject, future.result(timeout_s))
        except TimeoutError as error:
            raise StoreError(_too_late(subject, timeout_s)) from error

    def serve(self, subject: str, handler: Handler) -> Closeable:
        """See `Calls.serve`."""
        key = object()
        pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="lwd-calls")
        with self._lock:
            self._served[key] = (_pattern(subject), handler, pool)

        def close() -> None:
            with self._lock:
                self._served.pop(key, None)
            pool.shutdown(wait=False, cancel_futures=True)

        return _Closing(close)


class NatsCalls:
    """Calls over a NATS server."""

    def __init__(self, link: NatsLink) -> None:
        self._link = link

    def call(
        self, subject: str, payload: Mapping[str, Any], timeout_s: float = CALL_TIMEOUT_S
    ) -> dict[str, Any]:
        """See `Calls.call`."""
        question = encode_payload(subject, payload).encode()
        return read_answer(subject, self._link.request(subject, question, timeout_s).data)

    def serve(self, subject: str, handler: Handler) -> Closeable:
        """See `Calls.serve`. Survives reconnects; while there is no link, callers get no answer."""
        _pattern(subject)
        return self._link.keep(_Service(subject, handler))


class _Service:
    """What `NatsCalls.serve` keeps subscribed. All methods but `_answer` run on the link's loop."""

    def __init__(self, subject: str, handler: Handler) -> None:
        self._subject, self._handler = subject, handler
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="lwd-calls")
        self._waiting = 0
        self._answers: set[asyncio.Task[None]] = set()

    async def connected(self, client: Client) -> Subscription:
        """Subscribe on a new connection; one queue, so that each call goes to one server."""
        return await client.subscribe(self._subject, queue="lwd-calls", cb=self._asked)

    def close(self) -> None:
        """Drop what waits; what runs is not interrupted."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _asked(self, message: Msg) -> None:
        # A robot chooses where its answer goes. Answers go to inboxes only, or it could have us speak for it elsewhere.
        if not message.reply.startswith("_INBOX."):
            return
        if self._waiting >= MAX_WAITING:
            await message.respond(_error(BUSY, "too many calls wait here; ask again in a few seconds."))
            return
        self._waiting += 1  # counted before the task runs: a burst must not pass the limit
        task = asyncio.ensure_future(self._answer(message))
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def _answer(self, message: Msg) -> None:
        try:
            loop = asyncio.get_running_loop()
            data = await loop.run_in_executor(
                self._pool, answer, self._handler, message.subject, message.data
            )
            try:
                await message.respond(data)
            except Exception as error:  # the connection may be gone; the caller will ask again
                log.debug("answer_not_sent subject=%s cause=%r", message.subject, str(error))
        finally:
            self._waiting -= 1


def answer(handler: Handler, subject: str, question: bytes) -> bytes:
    """Run a handler on what arrived and return its answer's bytes; never raises."""
    try:
        payload = decode_payload(subject, question)
        return ('{"answer":' + encode_payload(subject, handler(subject, payload)) + "}").encode()
    except LwdError as error:
        log.info("call_refused subject=%s cause=%r", subject, str(error))
        return _error(type(error).__name__, str(error))
    except Exception as error:  # a bug of ours; its text may hold what callers must not see
        log.exception("call_failed subject=%s", subject)
        return _error(type(error).__name__, "the handler failed; its process's log has the traceback.")


def read_answer(subject: str, data: bytes) -> dict[str, Any]:
    """What a call got back; CallRefusedError if it is the handler's refusal, CallBusyError if it was not handled."""
    reply = decode_payload(subject, data)
    found, refused = reply.get("answer"), reply.get("error")
    if isinstance(found, dict):
        return found
    text = str(refused.get("text")) if isinstance(refused, dict) else f"not an answer: {reply!r:.200}"
    kind = str(refused.get("kind")) if isinstance(refused, dict) else ""
    if kind == BUSY:
        raise CallBusyError(f"call {subject!r}: {text}")
    raise CallRefusedError(f"call {subject!r} was refused: {text}", kind)


def _error(kind: str, text: str) -> bytes:
    return json.dumps({"error": {"kind": kind, "text": text[:2000]}}).encode()


def _pattern(subject: str) -> re.Pattern[str]:
    if not _PATTERN.fullmatch(subject) or len(subject) > 200:
        raise StoreError(
            f"calls: subject {subject[:80]!r} is not allowed; expected words of [A-Za-z0-9_-] or '*' joined by dots."
        )
    return re.compile(re.escape(subject).replace(r"\*", r"[A-Za-z0-9_-]+"))


def _nobody(subject: str) -> str:
    return f"call {subject!r}: nobody serves it. Check that the coordinator runs; the call can be repeated."


def _too_late(subject: str, timeout_s: float) -> str:
    return f"call {subject!r}: no answer within {timeout_s:g} s. It may have been carried out; it can be repeated."


class _Closing:
    def __init__(self, close: Callable[[], None]) -> None:
        self._close = close

    def close(self) -> None:
        self._close()
