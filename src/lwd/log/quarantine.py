"""The quarantine for operators: look at what was refused, judge it once more, or delete it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from lwd.episode import EpisodeHeader
from lwd.errors import EpisodeError, StoreError
from lwd.log import layout, tables
from lwd.log.admission import Accepted, Admission, Deferred
from lwd.log.bus import Message
from lwd.log.catalogue import Catalogue, QuarantineRow
from lwd.log.counting import record
from lwd.log.events import EpisodeEvent
from lwd.log.objects import MissingObjectError, ObjectStore
from lwd.log.scan import scan
from lwd.spec import RobotSpec, TaskSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One row, and what can be read of its bytes.

    Attributes:
        row: as it is listed.
        size: bytes of the object, None if there is none.
        header: of the episode, None if it cannot be read.
        messages: how many messages the file holds per topic, as far as it is whole.
    """

    row: QuarantineRow
    size: int | None
    header: EpisodeHeader | None
    messages: Mapping[str, int]


def show(catalogue: Catalogue, objects: ObjectStore, number: int) -> Shown:
    """Look at one row (`QuarantineRow.id`) and its bytes; StoreError if there is none of this number."""
    row = _row(catalogue, number)
    try:
        data = objects.get(row.key, layout.MAX_EPISODE_BYTES) if row.key else None
    except MissingObjectError:
        data = None
    found = scan(data or b"").messages
    header: EpisodeHeader | None = None
    with contextlib.suppress(EpisodeError, KeyError, IndexError):
        header = layout.unpack_header(found[layout.HEADER_TOPIC][0])
    counts = {topic: len(payloads) for topic, payloads in found.items()}
    return Shown(row=row, size=None if data is None else len(data), header=header, messages=counts)


def release(
    catalogue: Catalogue,
    objects: ObjectStore,
    specs: Mapping[str, RobotSpec],
    tasks: Mapping[str, TaskSpec],
    number: int,
) -> QuarantineRow | None:
    """Judge one row's bytes again, e.g. after its robot or task was added; None if it is catalogued now.

    There is no way past the checks: what is still refused stays, with today's reason. Safe to repeat.

    Raises:
        StoreError: no such row, it has no bytes, or catalogue or store do not answer.
    """
    row = _row(catalogue, number)
    if not row.key:
        raise StoreError(f"quarantine {number} has no bytes ({row.reason}); there is nothing to release.")
    event = EpisodeEvent(
        episode_id=row.episode_id, robot=row.robot, sha256=row.sha256, size=objects.size(row.key)
    )
    message = Message(
        subject=event.subject,
        payload=event.payload(),
        receipt="",
        deliveries=1,
        published_at=row.quarantined_at,
    )
    judgement = Admission(objects, specs, tasks).judge(message)
    if isinstance(judgement, Deferred):
        raise StoreError(f"quarantine {number} cannot be judged now: {judgement.cause}")
    if isinstance(judgement, Accepted):
        record(catalogue, [judgement])
        held = catalogue.episode(row.episode_id)
        if held is not None and held.sha256 == row.sha256:
            _forget(catalogue, number)
            return None
        detail = {"reason": "duplicate", "detail": "this id is catalogued with other bytes, or was deleted."}
    else:
        detail = {name: judgement.row[name] for name in ("reason", "detail")}
    _update(catalogue, number, detail)
    return _row(catalogue, number)


def release_all(
    catalogue: Catalogue,
    objects: ObjectStore,
    specs: Mapping[str, RobotSpec],
    tasks: Mapping[str, TaskSpec],
    reason: str,
) -> tuple[int, list[QuarantineRow]]:
    """`release` for all rows of one reason; how many are catalogued now, and those that are still refused.

    Raises:
        StoreError: there is no such row, they have no bytes, or catalogue or store do not answer.
    """
    left: list[QuarantineRow] = []
    rows = catalogue.quarantined(reason=reason)
    if not rows:
        raise StoreError(f"nothing is quarantined as {reason!r:.80}; `lwd log quarantine` lists what is.")
    for row in rows:
        try:
            still = release(catalogue, objects, specs, tasks, row.id)
        except MissingObjectError:
            still = row
        if still is not None:
            left.append(still)
    return len(rows) - len(left), left


def discard(catalogue: Catalogue, objects: ObjectStore, number: int) -> None:
    """Delete one row, and its bytes unless an episode is catalogued with them. StoreError if there is no such row."""
    row = _row(catalogue, number)
    held = catalogue.episode(row.episode_id)
    if row.key and (held is None or held.key != row.key):
        objects.delete(row.key)
    _forget(catalogue, number)
    log.warning("quarantine_discarded id=%d episode=%s reason=%s", number, row.episode_id, row.reason)


def _row(catalogue: Catalogue, number: int) -> QuarantineRow:
    query = sa.select(tables.quarantine).where(tables.quarantine.c.id == number)
    with catalogue.read() as connection:
        row = connection.execute(query).mappings().first()
    if row is None:
        raise StoreError(f"quarantine {number} does not exist; `lwd log quarantine` lists what does.")
    return QuarantineRow(**row)


def _update(catalogue: Catalogue, number: int, values: Mapping[str, Any]) -> None:
    with catalogue.write() as connection:
        connection.execute(
            sa.update(tables.quarantine).where(tables.quarantine.c.id == number).values(**values)
        )


def _forget(catalogue: Catalogue, number: int) -> None:
    with catalogue.write() as connection:
        connection.execute(sa.delete(tables.quarantine).where(tables.quarantine.c.id == number))
