"""The newest of something, kept by the broker: robots hear it live and ask for it when they (re)connect.

What is believed is a signature and that numbers only grow, never the broker: an announcement that fails either is refused,
and said once. `NatsChannel` announces snapshots this way, `NatsReleases` releases.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from lwd.errors import LwdError, SnapshotError, StoreError
from lwd.log.bus import decode_payload, encode_payload
from lwd.log.nats_link import NatsLink

log = logging.getLogger(__name__)

T = TypeVar("T")

REFRESH_S = 30.0
"""Seconds between two looks at what the broker holds; live announcements do not wait for it."""
RETRY_S = 1.0
TIMEOUT_S = 5.0
_MAX_SAID = 1000


@dataclass(frozen=True, kw_only=True)
class Topic:
    """Where the broker keeps the newest.

    Attributes:
        what: is announced, for logs: "snapshot", "release".
        stream: its name; subjects: all that it holds; limits: how the stream keeps only the newest.
        subject: of this channel's announcements.
    """

    what: str
    stream: str
    subjects: str
    limits: Mapping[str, int]
    subject: str

    @property
    def get(self) -> str:
        """Asks for the newest announcement, and nothing else."""
        return f"$JS.API.DIRECT.GET.{self.stream}.{self.subject}"


class NewestChannel(ABC, Generic[T]):
    """One topic's newest announcement, both ends. Thread-safe; close it, or its link.

    Args:
        link: the connection.
        topic: where.
        floor: the number that is held already; what is older is refused.
        told: one that came another way, believed like an announcement.
        first_wait_s: the first `held` waits so long for the broker's first answer, later ones never wait.
    """

    def __init__(
        self, link: NatsLink, topic: Topic, *, floor: int, told: T | None, first_wait_s: float
    ) -> None:
        self._link, self._topic = link, topic
        self._floor, self._first_wait_s = floor, first_wait_s
        self._newest: T | None = None
        self._own: T | None = None
        self._rival: T | None = None
        self._said: set[tuple[str, object]] = set()
        self._asked, self._stored = threading.Event(), threading.Event()
        self._guard = threading.Lock()
        self._wake, self._mending = asyncio.Event(), False
        self._task: asyncio.Task[None] | None = None
        if told is not None and self._number(told) > self._floor:
            self._believe(told)
        self._keeping = link.keep(self)

    @abstractmethod
    def _number(self, item: T) -> int:
        """What only grows."""

    @abstractmethod
    def _mark(self, item: T) -> str:
        """Differs where two of one number differ."""

    @abstractmethod
    def _message(self, item: T) -> Mapping[str, Any]:
        """As it is announced."""

    @abstractmethod
    def _parse(self, payload: Mapping[str, Any]) -> T:
        """From a message, trusting nothing in it; SnapshotError if it does not fit."""

    @abstractmethod
    def _verify(self, item: T) -> None:
        """SnapshotError if it is not signed by the fleet."""

    def _concerns(self, item: T) -> bool:
        """Whether it is for this end; what is not is passed over."""
        return True

    def announce(self, item: T) -> None:
        """Tell the robots, as soon as there is a link; returns at once.

        Work goes on while the broker is away: the newest announcement is kept and repeated until the broker holds it.
        """
        with self._guard:
            if self._own is None or self._number(item) > self._number(self._own):
                self._own = item
                self._stored.clear()
        self._take(item)
        self._link.call_soon(self._wake.set)

    def flush(self, timeout_s: float) -> bool:
        """Wait until the broker holds what was announced; whether it does."""
        return self._own is None or self._stored.wait(timeout_s)

    def newest(self) -> int | None:
        """The newest number that was announced and verified, None before the first."""
        found = self.held()
        return None if found is None else self._number(found)

    def held(self) -> T | None:
        """The newest that was announced and verified, None before the first."""
        if self._newest is None and not self._asked.is_set():
            self._asked.wait(self._first_wait_s)
            self._asked.set()  # waited once; a robot without network goes on with what it has
        return self._newest

    def rival(self) -> T | None:
        """Another one of the same number as `held`, verified too, None without one.

        Two are signed under one number after a catalogue was restored from a backup. Robots go on with the one that they heard
        first, so only a higher number reaches all of them.
        """
        with self._guard:
            now, rival = self._newest, self._rival
        if now is None or rival is None or self._number(rival) != self._number(now):
            return None
        return rival

    async def connected(self, client: Client) -> Subscription:
        """Listen on a new connection, and look at what was missed."""
        if self._task is not None:
            self._task.cancel()
        heard = await client.subscribe(self._topic.subject, cb=self._heard)
        self._task = asyncio.ensure_future(self._follow(client))
        return heard

    def close(self) -> None:
        """Stop listening; `newest` keeps its last answer. May be called again."""
        if self._task is not None:
            self._link.call_soon(self._task.cancel)
        self._keeping.close()

    async def _heard(self, message: Msg) -> None:
        if not self._read(message.data) and self._own is not None and not self._mending:
            # It stands where the newest one should. Whoever announced that one repeats it, soon but not at once: the
            # sender of rubbish must not make us as busy as it is.
            self._mending = True
            asyncio.get_running_loop().call_later(RETRY_S, self._wake.set)

    async def _follow(self, client: Client) -> None:
        """Look at what the broker holds, put right what is older than what we announced; again when woken."""
        while not client.is_closed:
            pause = REFRESH_S
            self._wake.clear()
            self._mending = False
            try:
                held = await self._held(client)
                own = self._own
                if own is not None and (held is None or self._number(held) < self._number(own)):
                    await self._store(client, own)
                    held = own
                if (
                    own is not None
                    and own is self._own
                    and held is not None
                    and not self._are_rivals(held, own)
                ):
                    self._stored.set()
            except (LwdError, nats.errors.Error, OSError, TimeoutError) as error:
                self._say(
                    f"{self._topic.what}_channel_waits",
                    type(error).__name__,
                    f"{error or type(error).__name__}",
                )
                pause = RETRY_S
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)

    async def _held(self, client: Client) -> T | None:
        """What the broker holds, None if nothing that can be believed."""
        try:
            message = await self._link.ask(client, self._topic.get, b"", TIMEOUT_S)
        except nats.errors.NoRespondersError:  # the first announcement makes the stream
            self._asked.set()
            return None
        if (message.headers or {}).get("Status") is None:
            self._read(message.data)
        self._asked.set()
        with contextlib.suppress(LwdError):
            item = self._parse(decode_payload(self._topic.subject, message.data))
            self._verify(item)
            return item if self._concerns(item) else None
        return None

    async def _store(self, client: Client, item: T) -> None:
        topic = self._topic
        config = {
            "name": topic.stream,
            "subjects": [topic.subjects],
            "storage": "file",
            "retention": "limits",
            "discard": "old",
            **topic.limits,
            "allow_direct": True,
            "num_replicas": 1,
        }
        stream = json.dumps(config).encode()
        for subject, data in (
            (f"$JS.API.STREAM.CREATE.{topic.stream}", stream),
            (topic.subject, encode_payload(topic.subject, self._message(item)).encode()),
        ):
            reply = decode_payload(subject, (await self._link.ask(client, subject, data, TIMEOUT_S)).data)
            if "error" in reply:
                raise StoreError(
                    f"bus: announcing {topic.what} {self._number(item)} was refused: {reply['error']!s:.300}."
                )
        log.info("%s_announced %s=%d", topic.what, topic.what, self._number(item))

    def _read(self, data: bytes) -> bool:
        """Take in one announcement; whether it can be believed and nothing newer is known."""
        try:
            item = self._parse(decode_payload(self._topic.subject, data))
        except (SnapshotError, StoreError) as error:
            self._say(f"{self._topic.what}_refused", data[:200], str(error))
            return False
        return self._believe(item)

    def _believe(self, item: T) -> bool:
        try:
            self._verify(item)
        except SnapshotError as error:
            self._say(f"{self._topic.what}_refused", (self._number(item), self._mark(item)), str(error))
            return False
        return self._take(item) if self._concerns(item) else True  # the newest of another kind's

    def _take(self, item: T) -> bool:
        number = self._number(item)
        with self._guard:
            now = self._newest
            known = self._floor if now is None else self._number(now)
            if number > known or (now is None and number == known):
                self._newest = item
                return True
            rivals = now is not None and self._are_rivals(now, item)
            if rivals:
                self._rival = item
        same = now is not None and number == known and not rivals
        if not same:
            what = f"it announces number {number}, but {known} is known and numbers only grow"
            self._say(f"{self._topic.what}_refused", (number, self._mark(item)), what)
        return same

    def _are_rivals(self, one: T, other: T) -> bool:
        return self._number(one) == self._number(other) and self._mark(one) != self._mark(other)

    def _say(self, event: str, about: object, cause: str) -> None:
        if len(self._said) >= _MAX_SAID:
            self._said.clear()
        if (event, about) not in self._said:
            self._said.add((event, about))
            log.warning("%s cause=%r", event, cause)
