"""Deleting an episode: its bytes and its row go, a tombstone with its lineage stays, and it never comes back.

Manifests are numbers and stay as they are; those that held the episode now have one row fewer than they counted. A
learner that has it in its replay keeps it until that replay is built anew; `Deletion.snapshots` names the policies that
may have learned from it, those too that were published after it was deleted.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from lwd.errors import StoreError
from lwd.log import tables
from lwd.log.catalogue import Catalogue, read_head
from lwd.log.manifest import HEAD
from lwd.log.objects import ObjectStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """A deleted episode.

    Attributes:
        episode_id, seq, task, robot, key, sha256, size: what it was.
        first_manifest, last_manifest: the manifests that held it, None if none did.
        snapshots: numbers of the policies that may have learned from it.
        reason, deleted_by: why and by whom.
        deleted_at, object_deleted_at: seconds since the epoch; the second is None until the bytes are gone too.
    """

    episode_id: str
    seq: int
    task: str
    robot: str
    key: str
    sha256: str
    size: int
    first_manifest: int | None
    last_manifest: int | None
    snapshots: tuple[int, ...]
    reason: str
    deleted_by: str
    deleted_at: float
    object_deleted_at: float | None


def delete(
    catalogue: Catalogue, objects: ObjectStore, episode_id: str, *, reason: str, deleted_by: str
) -> Deletion:
    """Delete an episode. Can be repeated: the second call finishes what the first could not.

    Raises:
        StoreError: there is no such episode, or catalogue or store failed.
    """
    with catalogue.write() as connection:
        if _find(connection, episode_id) is None:
            _bury(connection, episode_id, reason, deleted_by)
    _remove_bytes(catalogue, objects, episode_id)
    return next(row for row in deletions(catalogue) if row.episode_id == episode_id)


def lineage(catalogue: Catalogue, episode_id: str) -> Deletion:
    """What `delete` would record, without deleting; StoreError if there is no such episode."""
    with catalogue.read() as connection:
        found = _find(connection, episode_id)
        return found or _deletion(_tombstone(connection, episode_id, "", ""), _published(connection))


def tombstone(catalogue: Catalogue, episode_id: str) -> Deletion | None:
    """What is left of a deleted episode; None if it was not deleted."""
    with catalogue.read() as connection:
        return _find(connection, episode_id)


def deletions(catalogue: Catalogue) -> list[Deletion]:
    """All tombstones, oldest first."""
    with catalogue.read() as connection:
        query = sa.select(tables.deletions).order_by(tables.deletions.c.deleted_at)
        published = _published(connection)
        return [_deletion(row, published) for row in connection.execute(query).mappings()]


def unfinished(catalogue: Catalogue) -> list[Deletion]:
    """Deletions that a failure cut off: the rows are gone, the bytes are not."""
    return [row for row in deletions(catalogue) if row.object_deleted_at is None]


def finish(catalogue: Catalogue, objects: ObjectStore) -> int:
    """Remove what deletions that were cut off left in the store; how many objects. StoreError as in `delete`."""
    return sum(_remove_bytes(catalogue, objects, row.episode_id) for row in unfinished(catalogue))


def sweep(catalogue: Catalogue, objects: ObjectStore) -> int:
    """Remove all objects under deleted episodes' ids (left behind, or a robot retried late); how many.

    Lists the store once per tombstone; StoreError as in `delete`.
    """
    return sum(_remove_bytes(catalogue, objects, row.episode_id) for row in deletions(catalogue))


def _bury(connection: sa.Connection, episode_id: str, reason: str, deleted_by: str) -> None:
    row = _tombstone(connection, episode_id, reason, deleted_by)
    connection.execute(sa.insert(tables.deletions).values(row))
    for table in (tables.episodes, tables.claims):
        connection.execute(sa.delete(table).where(table.c.episode_id == episode_id))
    log.warning("episode_deleted episode=%s reason=%r by=%r", episode_id, reason, deleted_by)


def _tombstone(connection: sa.Connection, episode_id: str, reason: str, deleted_by: str) -> dict[str, Any]:
    query = sa.select(tables.episodes).where(tables.episodes.c.episode_id == episode_id)
    episode = connection.execute(query).mappings().first()
    if episode is None:
        raise StoreError(f"no episode {episode_id!r:.80} is catalogued; `lwd log ls` lists them.")
    number = tables.manifests.c.number
    first = connection.execute(
        sa.select(sa.func.min(number)).where(tables.manifests.c.upto_seq >= episode["seq"])
    ).scalar_one()
    copied = ("episode_id", "seq", "task", "robot", "key", "sha256", "size")
    return {
        **{name: episode[name] for name in copied},
        "first_manifest": first,
        "last_manifest": None if first is None else read_head(connection, HEAD),
        "snapshots": json.dumps(_used(_published(connection), first)),
        "reason": reason,
        "deleted_by": deleted_by,
        "deleted_at": time.time(),
        "object_deleted_at": None,
    }


def _remove_bytes(catalogue: Catalogue, objects: ObjectStore, episode_id: str) -> int:
    """Remove every object of an episode, whatever its hash."""
    removed = sum(objects.delete(key) for key in list(objects.list(f"episodes/{episode_id}")))
    column = tables.deletions.c
    change = sa.update(tables.deletions).where(
        column.episode_id == episode_id, column.object_deleted_at.is_(None)
    )
    with catalogue.write() as connection:
        connection.execute(change.values(object_deleted_at=time.time()))
    return removed


def _find(connection: sa.Connection, episode_id: str) -> Deletion | None:
    query = sa.select(tables.deletions).where(tables.deletions.c.episode_id == episode_id)
    row = connection.execute(query).mappings().first()
    return None if row is None else _deletion(row, _published(connection))


def _deletion(row: Mapping[Any, Any], published: Sequence[tuple[int, int]]) -> Deletion:
    # Not the list in the row: a learner that still holds the episode has published since.
    fields: dict[str, Any] = dict(row)
    fields["snapshots"] = tuple(_used(published, row["first_manifest"]))
    return Deletion(**fields)


def _published(connection: sa.Connection) -> list[tuple[int, int]]:
    """Number and manifest of each snapshot that had one, oldest first."""
    column = tables.snapshots.c
    query = sa.select(column.number, column.manifest).where(column.manifest.is_not(None))
    return [(row[0], row[1]) for row in connection.execute(query.order_by(column.number))]


def _used(published: Sequence[tuple[int, int]], first_manifest: int | None) -> list[int]:
    """Numbers of the snapshots that may have learned from what came with `first_manifest`."""
    if first_manifest is None:
        return []
    return [number for number, manifest in published if manifest >= first_manifest]
