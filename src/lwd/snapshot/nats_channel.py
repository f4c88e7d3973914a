"""The fleet's announcements: the broker keeps the newest one, robots hear it live and ask for it when they (re)connect.

An announcement carries the snapshot's whole row with its signature, so a robot needs no catalogue. What a robot believes is
the signature and that numbers only grow, never the broker: an announcement that fails either is refused, and said once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading

import nats.errors
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from lwd.errors import LwdError, SnapshotError, StoreError
from lwd.log.bus import decode_payload, encode_payload
from lwd.log.nats_link import NatsLink
from lwd.snapshot.announcement import announcement, parse_announcement
from lwd.snapshot.store import Snapshot, verify

log = logging.getLogger(__name__)

SNAPSHOT_STREAM = "SNAPSHOT"
SNAPSHOT_SUBJECT = "snapshot.newest"
SNAPSHOT_GET = f"$JS.API.DIRECT.GET.{SNAPSHOT_STREAM}.{SNAPSHOT_SUBJECT}"
"""The one JetStream subject that a robot needs besides its own: the newest announcement, and nothing else."""

REFRESH_S = 30.0
"""Seconds between two looks at what the broker holds; live announcements do not wait for it."""
RETRY_S = 1.0
TIMEOUT_S = 5.0
_MAX_SAID = 1000


class NatsChannel:
    """Implements `SnapshotChannel` over a NATS server. Thread-safe; close it, or its link.

    Args:
        link: the connection.
        key: the fleet's public key.
        at_least: the number that this robot holds already; what is older is refused.
        kind: of robot; announcements for another kind are passed over. None for all.
        told: a row that came another way, believed like an announcement.
        first_wait_s: the first `newest` waits so long for the broker's first answer, later ones never wait.
    """

    def __init__(
        self,
        link: NatsLink,
        key: Ed25519PublicKey,
        *,
        at_least: int | None = None,
        kind: str | None = None,
        told: Snapshot | None = None,
        first_wait_s: float = 1.0,
    ) -> None:
        self._link, self._key = link, key
        self._floor, self._first_wait_s, self._kind = at_least or 0, first_wait_s, kind
        self._newest: Snapshot | None = None
        self._own: Snapshot | None = None
        self._said: set[tuple[str, object]] = set()
        self._asked, self._stored = threading.Event(), threading.Event()
        self._guard = threading.Lock()
        self._wake, self._mending = asyncio.Event(), False
        self._task: asyncio.Task[None] | None = None
        if told is not None and told.number > self._floor:
            self._believe(told)
        self._keeping = link.keep(self)

    def announce(self, snapshot: Snapshot) -> None:
        """Tell the robots, as soon as there is a link; returns at once.

        Learning goes on while the broker is away: the newest announcement is kept and repeated until the broker holds it.
        """
        with self._guard:
            if self._own is None or snapshot.number > self._own.number:
                self._own = snapshot
                self._stored.clear()
        self._take(snapshot)
        self._link.call_soon(self._wake.set)

    def flush(self, timeout_s: float) -> bool:
        """Wait until the broker holds what was announced; whether it does."""
        return self._own is None or self._stored.wait(timeout_s)

    def newest(self) -> int | None:
        """The newest number that was announced and verified, None before the first."""
        snapshot = self.snapshot()
        return None if snapshot is None else snapshot.number

    def snapshot(self) -> Snapshot | None:
        """The newest verified row, for `fetch`. Its metadata is not signed; that in the file is."""
        if self._newest is None and not self._asked.is_set():
            self._asked.wait(self._first_wait_s)
            self._asked.set()  # waited once; a robot without network goes on with what it has
        return self._newest

    async def connected(self, client: Client) -> Subscription:
        """Listen on a new connection, and look at what was missed."""
        if self._task is not None:
            self._task.cancel()
        heard = await client.subscribe(SNAPSHOT_SUBJECT, cb=self._heard)
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
                if own is not None and (held is None or held < own.number):
                    await self._store(client, own)
                if own is self._own and own is not None:
                    self._stored.set()
            except (LwdError, nats.errors.Error, OSError, TimeoutError) as error:
                self._say("snapshot_channel_waits", type(error).__name__, f"{error or type(error).__name__}")
                pause = RETRY_S
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)

    async def _held(self, client: Client) -> int | None:
        """The number that the broker holds, None if nothing that can be believed."""
        try:
            message = await self._link.ask(client, SNAPSHOT_GET, b"", TIMEOUT_S)
        except nats.errors.NoRespondersError:  # the first announcement makes the stream
            self._asked.set()
            return None
        if (message.headers or {}).get("Status") is None:
            self._read(message.data)
        self._asked.set()
        with contextlib.suppress(LwdError):
            snapshot = parse_announcement(decode_payload(SNAPSHOT_SUBJECT, message.data))
            verify(snapshot, self._key)
            return snapshot.number
        return None

    async def _store(self, client: Client, snapshot: Snapshot) -> None:
        config = {
            "name": SNAPSHOT_STREAM,
            "subjects": [SNAPSHOT_SUBJECT],
            "storage": "file",
            "retention": "limits",
            "discard": "old",
            "max_msgs": 1,
            "allow_direct": True,
            "num_replicas": 1,
        }
        stream = json.dumps(config).encode()
        for subject, data in (
            (f"$JS.API.STREAM.CREATE.{SNAPSHOT_STREAM}", stream),
            (SNAPSHOT_SUBJECT, encode_payload(SNAPSHOT_SUBJECT, announcement(snapshot)).encode()),
        ):
            reply = decode_payload(subject, (await self._link.ask(client, subject, data, TIMEOUT_S)).data)
            if "error" in reply:
                raise StoreError(
                    f"bus: announcing snapshot {snapshot.number} was refused: {reply['error']!s:.300}."
                )
        log.info("snapshot_announced snapshot=%d", snapshot.number)

    def _read(self, data: bytes) -> bool:
        """Take in one announcement; whether it can be believed and nothing newer is known."""
        try:
            snapshot = parse_announcement(decode_payload(SNAPSHOT_SUBJECT, data))
        except (SnapshotError, StoreError) as error:
            self._say("snapshot_refused", data[:200], str(error))
            return False
        return self._believe(snapshot)

    def _believe(self, snapshot: Snapshot) -> bool:
        try:
            verify(snapshot, self._key)
        except SnapshotError as error:
            self._say("snapshot_refused", snapshot.signature, str(error))
            return False
        if self._kind is not None and not snapshot.may_drive(self._kind):
            return True  # the newest of another kind's
        return self._take(snapshot)

    def _take(self, snapshot: Snapshot) -> bool:
        with self._guard:
            now = self._newest
            known = self._floor if now is None else now.number
            if snapshot.number > known or (now is None and snapshot.number == known):
                self._newest = snapshot
                return True
            same = now is not None and (now.number, now.sha256) == (snapshot.number, snapshot.sha256)
        if not same:
            what = f"it announces number {snapshot.number}, but {known} is known and numbers only grow"
            self._say("snapshot_refused", (snapshot.number, snapshot.sha256), what)
        return same

    def _say(self, event: str, about: object, cause: str) -> None:
        if len(self._said) >= _MAX_SAID:
            self._said.clear()
        if (event, about) not in self._said:
            self._said.add((event, about))
            log.warning("%s cause=%r", event, cause)
