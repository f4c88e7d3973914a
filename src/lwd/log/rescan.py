"""Rescan: episodes whose bytes lie in the store while the catalogue says nothing of them.

A catalogue that was restored from an older backup has lost what came after it, and the robots have deleted theirs. Each is
judged and counted by the coordinator's own rules, as if its robot had announced it again: at most once, also while a
coordinator runs. The robot is the one that the file names.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from lwd.errors import EpisodeError, StoreError
from lwd.log import layout, manifest, tables
from lwd.log.admission import MISSING, Admission, Deferred, Judgement
from lwd.log.bus import Message
from lwd.log.catalogue import Catalogue
from lwd.log.counting import record
from lwd.log.events import EpisodeEvent
from lwd.log.objects import ObjectSource, ObjectStore, TooLargeError
from lwd.log.scan import scan
from lwd.spec import RobotSpec, TaskSpec

log = logging.getLogger(__name__)

_KEY = re.compile(r"episodes/([A-Za-z0-9_-]{1,64})/([0-9a-f]{64})")
_LOOKED_UP, _COUNTED = 500, 32
_NOBODY = "rescan"
"""Whom the quarantine names where the file does not say whose it is."""


@dataclass(frozen=True, kw_only=True)
class Uncounted:
    """An object of an episode that is neither catalogued, deleted nor quarantined; `size` in bytes."""

    episode_id: str
    sha256: str
    key: str
    size: int


@dataclass(frozen=True, kw_only=True)
class RescanReport:
    """How many episodes were catalogued, how many quarantined."""

    catalogued: int
    quarantined: int


def uncounted(catalogue: Catalogue, objects: ObjectStore) -> list[Uncounted]:
    """What lies in the store uncounted, by id; changes nothing. What is being uploaded right now may be among it.

    Raises:
        StoreError: catalogue or store do not answer.
    """
    keys = (match for key in objects.list("episodes") if (match := _KEY.fullmatch(key)))
    found: list[Uncounted] = []
    while some := {(match[1], match[2]): match[0] for match in itertools.islice(keys, _LOOKED_UP)}:
        names = {name for name, _ in some}
        known, gone = _known(catalogue, names)
        for pair, key in some.items():
            if pair not in known and pair[0] not in gone:
                found.append(Uncounted(episode_id=pair[0], sha256=pair[1], key=key, size=objects.size(key)))
    return sorted(found, key=lambda item: (item.episode_id, item.sha256))


def rescan(
    catalogue: Catalogue,
    objects: ObjectStore,
    specs: Mapping[str, RobotSpec],
    tasks: Mapping[str, TaskSpec],
    found: Sequence[Uncounted],
) -> RescanReport:
    """Judge and count what `uncounted` found, and commit it. Safe to repeat and to cut off.

    Raises:
        StoreError: catalogue or store do not answer, or an object went away; what was counted until then stays so.
    """
    source, catalogued, quarantined = _Remembering(objects), 0, 0
    admission = Admission(source, specs, tasks)
    for first in range(0, len(found), _COUNTED):
        judged = [_judge(admission, source, item) for item in found[first : first + _COUNTED]]
        new, refused = record(catalogue, judged)
        catalogued, quarantined = catalogued + new, quarantined + refused
    manifest.commit(catalogue)
    log.info("log_rescanned catalogued=%d quarantined=%d", catalogued, quarantined)
    return RescanReport(catalogued=catalogued, quarantined=quarantined)


def _known(catalogue: Catalogue, names: Collection[str]) -> tuple[set[tuple[str, str]], set[str]]:
    """Of these episodes, id and hash of what is catalogued or quarantined, and the ids that were deleted."""
    held, refused, deleted = tables.episodes.c, tables.quarantine.c, tables.deletions.c
    with catalogue.read() as connection:
        query = sa.select(held.episode_id, held.sha256).where(held.episode_id.in_(names))
        known = {(row[0], row[1]) for row in connection.execute(query)}
        query = sa.select(refused.episode_id, refused.sha256).where(refused.episode_id.in_(names))
        # What was given up because its bytes were missing is here now.
        known |= {(row[0], row[1]) for row in connection.execute(query.where(refused.reason != MISSING))}
        gone = connection.execute(sa.select(deleted.episode_id).where(deleted.episode_id.in_(names)))
        return known, set(gone.scalars())


class _Remembering:
    """An object source that keeps what it read last: an episode is asked whose it is, and then judged."""

    def __init__(self, objects: ObjectSource) -> None:
        self._objects, self._last = objects, ("", b"")

    def get(self, key: str, max_bytes: int | None = None) -> bytes:
        """See `ObjectSource.get`."""
        if key != self._last[0] or (max_bytes is not None and len(self._last[1]) > max_bytes):
            self._last = key, self._objects.get(key, max_bytes)
        return self._last[1]


def _judge(admission: Admission, objects: ObjectSource, item: Uncounted) -> Judgement:
    event = EpisodeEvent(
        episode_id=item.episode_id, robot=_robot(objects, item), sha256=item.sha256, size=item.size
    )
    message = Message(
        subject=event.subject, payload=event.payload(), receipt="", deliveries=1, published_at=time.time()
    )
    judgement = admission.judge(message)
    if isinstance(judgement, Deferred):
        raise StoreError(
            f"object {item.key!r} cannot be judged now: {judgement.cause} Run it again; it goes on."
        )
    return judgement


def _robot(objects: ObjectSource, item: Uncounted) -> str:
    """The robot that recorded an episode, as its file says."""
    with contextlib.suppress(EpisodeError, KeyError, IndexError, TooLargeError):
        messages = scan(objects.get(item.key, layout.MAX_EPISODE_BYTES)).messages
        return layout.unpack_header(messages[layout.HEADER_TOPIC][0]).robot
    return _NOBODY
