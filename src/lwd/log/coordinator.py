"""The coordinator: the only writer of episodes and manifests. Checks what arrives and counts it exactly once."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import sqlalchemy as sa

from lwd.errors import EpisodeError, StoreError
from lwd.log import manifest as manifests
from lwd.log import tables
from lwd.log.admission import MISSING, Admission, Deferred, Judgement
from lwd.log.bus import Bus, Message
from lwd.log.catalogue import Catalogue
from lwd.log.counting import record
from lwd.log.deletion import reopen
from lwd.log.events import ALL_EPISODES, parse_event
from lwd.log.manifest import Manifest
from lwd.log.objects import ObjectSource
from lwd.spec import RobotSpec, TaskSpec

log = logging.getLogger(__name__)

VISIBILITY_S = 30.0
"""Seconds after which what a dead coordinator had claimed is handled by its successor."""
FETCHERS = 4
"""Objects in flight at once: hides a remote store's latency; in memory are at most this many episodes."""
AWAY_GETS = 4
"""Gets in a row that the store does not answer before the rest of a batch is left for later: each may take its time-out."""
LAST_S = 20.0
"""How long a coordinator that stops goes on with what waits; the rest stays in the bus."""

_IDLE_S = 0.2
"""How long a quiet coordinator waits for an event before it looks whether it is to stop."""


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What one `step` did, in episodes: catalogued, seen before, quarantined, to be tried again later."""

    catalogued: int = 0
    duplicates: int = 0
    quarantined: int = 0
    deferred: int = 0

    @property
    def handled(self) -> int:
        """Messages that were consumed."""
        return self.settled + self.deferred

    @property
    def settled(self) -> int:
        """Messages that do not come again."""
        return self.catalogued + self.duplicates + self.quarantined


class Coordinator:
    """Consumes the robots' events. One per fleet; it may crash anywhere, its work is redelivered.

    Args:
        catalogue: where episodes, quarantine and manifests are written.
        bus: carries the robots' events.
        objects: holds the episodes.
        specs, tasks: the robots and tasks of this fleet, by name; whatever names another is quarantined.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        bus: Bus,
        objects: ObjectSource,
        specs: Mapping[str, RobotSpec],
        tasks: Mapping[str, TaskSpec],
    ) -> None:
        self._catalogue, self._bus = catalogue, bus
        self._admission = Admission(objects, specs, tasks)
        self._store_away = False  # did not answer the last get

    def step(self, limit: int = 64, wait_s: float = 0.0, stop: threading.Event | None = None) -> StepReport:
        """Handle up to `limit` waiting events, waiting up to `wait_s` seconds for the first.

        What is not yet looked at when `stop` is set, or when the store does not answer, is left for later.

        Raises:
            StoreError: bus or catalogue failed; nothing was acknowledged, all of it comes again.
        """
        messages = self._bus.consume(ALL_EPISODES, limit, visibility_s=VISIBILITY_S, wait_s=wait_s)
        if not messages:
            return StepReport()
        known = self._known(messages)
        fresh = [message for message in messages if message.receipt not in known]
        judgements = self._judge_all(fresh, stop)
        final = [pair for pair in zip(fresh, judgements, strict=True) if not isinstance(pair[1], Deferred)]
        catalogued, quarantined = self._record([judgement for _, judgement in final])
        done = [message for message in messages if message.receipt in known] + [
            message for message, _ in final
        ]
        # Only now that the transaction is committed: a crash before this line costs a redelivery, not an episode.
        self._bus.ack(done)
        for message, judgement in zip(fresh, judgements, strict=True):
            if isinstance(judgement, Deferred):
                log.warning(
                    "episode_deferred payload=%r delay_s=%.1f cause=%r",
                    message.payload,
                    judgement.delay_s,
                    judgement.cause,
                )
                self._bus.nack([message], judgement.delay_s)
        return StepReport(
            catalogued=catalogued,
            quarantined=quarantined,
            duplicates=len(done) - catalogued - quarantined,
            deferred=len(messages) - len(done),
        )

    def commit(self) -> Manifest | None:
        """Commit a manifest of all that is catalogued; None if nothing is new since the last one."""
        manifest = manifests.commit(self._catalogue)
        if manifest is not None:
            log.info("manifest_committed manifest=%d episodes=%d", manifest.number, manifest.episodes)
        return manifest

    def run(self, stop: threading.Event, commit_every_s: float = 1.0) -> None:
        """Work until `stop` is set: handle events as they come, commit a manifest at most every `commit_every_s`.

        An unreachable bus, store or catalogue is logged and tried again; the last step commits.
        """
        last, backoff = time.monotonic(), 0.1
        waiting = True  # a coordinator before this one may have died between its last step and its commit
        while not stop.is_set():
            try:
                # What is catalogued waits for its manifest until the next one is due and no longer, however quiet it is.
                due = max(0.0, last + commit_every_s - time.monotonic())
                wait_s = min(due, _IDLE_S) if waiting else _IDLE_S
                waiting |= self.step(wait_s=wait_s, stop=stop).catalogued > 0
                if waiting and time.monotonic() - last >= commit_every_s:
                    self.commit()
                    last, waiting = time.monotonic(), False
                backoff = 0.1
            except StoreError as error:
                log.warning("coordinator_waits seconds=%.1f cause=%r", backoff, str(error))
                stop.wait(backoff)
                backoff, waiting = min(backoff * 2, 10.0), True  # the step that failed may have catalogued
        try:
            until = time.monotonic() + LAST_S
            while not self._store_away and time.monotonic() < until and self.step().settled:
                pass
            self.commit()
        except StoreError as error:
            log.warning("coordinator_stopped_early cause=%r", str(error))

    def _known(self, messages: Sequence[Message]) -> set[str]:
        """Receipts of messages whose bytes are catalogued or quarantined, or whose episode is deleted: nothing to fetch."""
        wanted: dict[str, tuple[str, str, str]] = {}
        for message in messages:
            with contextlib.suppress(EpisodeError):  # judged later; it must not reach a query
                event = parse_event(message.payload)
                wanted[message.receipt] = (event.episode_id, event.sha256, message.subject.rpartition(".")[2])
        ids = sorted({content[0] for content in wanted.values()})
        held, refused, deleted = tables.episodes.c, tables.quarantine.c, tables.deletions.c
        with self._catalogue.read() as connection:
            query = sa.select(held.episode_id, held.sha256).where(held.episode_id.in_(ids))
            counted = {(row[0], row[1]) for row in connection.execute(query)}
            # Only its own: what was refused because another robot announced it must not stop its owner. And what was missing
            # may have come since.
            query = sa.select(refused.episode_id, refused.sha256, refused.robot).where(
                refused.reason != MISSING
            )
            seen = {tuple(row) for row in connection.execute(query.where(refused.episode_id.in_(ids)))}
            query = sa.select(deleted.episode_id).where(deleted.episode_id.in_(ids))
            gone = set(connection.execute(query).scalars())
        if gone:
            with self._catalogue.write() as connection:
                reopen(connection, gone)
        return {
            receipt
            for receipt, content in wanted.items()
            if content[:2] in counted or content in seen or content[0] in gone
        }  # whatever its bytes, a deleted episode does not come back

    def _judge_all(self, messages: Sequence[Message], stop: threading.Event | None) -> list[Judgement]:
        away: list[Deferred] = []  # the last answers in a row that say that the store is away

        def judge(message: Message) -> Judgement:
            if stop is not None and stop.is_set():
                return Deferred(delay_s=0.0, cause="the coordinator stops")
            if enough := away[AWAY_GETS - 1 :]:
                return enough[-1]
            judgement = self._admission.judge(message)
            if isinstance(judgement, Deferred) and judgement.away:
                away.append(judgement)
            else:
                away.clear()
            return judgement

        if len(messages) <= 1:
            judged = [judge(message) for message in messages]
        else:
            with ThreadPoolExecutor(FETCHERS, thread_name_prefix="lwd-fetch") as pool:
                judged = list(pool.map(judge, messages))
        self._store_away = bool(away)
        return judged

    def _record(self, judgements: Sequence[Judgement]) -> tuple[int, int]:
        return record(self._catalogue, judgements)
