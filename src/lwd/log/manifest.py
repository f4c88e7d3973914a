"""Manifests: numbered, immutable views of the replay. Readers follow them; only the coordinator commits them."""

from __future__ import annotations

import time
from dataclasses import dataclass

import sqlalchemy as sa

from lwd.errors import StoreError
from lwd.log import tables
from lwd.log.catalogue import Catalogue, EpisodeRow, move_head, read_head

HEAD = "manifest"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All episodes whose seq is at most `upto_seq`.

    Attributes:
        number: 1, 2, 3, ...; parent: the number before, None for the first.
        created_at: seconds since the epoch.
        episodes: how many it held when it was committed; what was deleted before is not counted.
    """

    number: int
    parent: int | None
    created_at: float
    episodes: int
    upto_seq: int


def latest(catalogue: Catalogue) -> Manifest | None:
    """The newest manifest, None before the first. Cheap enough to poll."""
    with catalogue.read() as connection:
        number = read_head(connection, HEAD)
        return None if number is None else _read(connection, number)


def read(catalogue: Catalogue, number: int) -> Manifest:
    """One manifest; StoreError if there is none of this number."""
    with catalogue.read() as connection:
        return _read(connection, number)


def manifests(catalogue: Catalogue, after: int = 0) -> list[Manifest]:
    """All manifests with a number above `after`, oldest first."""
    number = tables.manifests.c.number
    query = sa.select(tables.manifests).where(number > after).order_by(number)
    with catalogue.read() as connection:
        return [Manifest(**row) for row in connection.execute(query).mappings()]


def members(catalogue: Catalogue, manifest: Manifest, *, after_seq: int = 0) -> list[EpisodeRow]:
    """The episodes of a manifest in seq order, without those up to `after_seq`, which the reader has already."""
    return catalogue.episodes(after_seq=after_seq, upto_seq=manifest.upto_seq)


def commit(catalogue: Catalogue) -> Manifest | None:
    """Commit the next manifest in one transaction; None if nothing was catalogued since the last one."""
    with catalogue.write() as connection:
        number = read_head(connection, HEAD)
        last = None if number is None else _read(connection, number)
        new, newest = _added(connection, 0 if last is None else last.upto_seq)
        if newest is None:
            return None
        # The coordinator is the only one that inserts episodes, and on SQLite this transaction holds the write
        # lock: no episode can appear later with a seq at or below this one.
        manifest = Manifest(
            number=1 if last is None else last.number + 1,
            parent=number,
            created_at=time.time(),
            episodes=new if last is None else last.episodes - _deleted_since(connection, last) + new,
            upto_seq=newest,
        )
        connection.execute(sa.insert(tables.manifests).values(vars(manifest)))
        move_head(connection, HEAD, manifest.number)
    return manifest


def _added(connection: sa.Connection, low: int) -> tuple[int, int | None]:
    """How many episodes came after a seq, and the newest one's seq."""
    seq = tables.episodes.c.seq
    count, newest = connection.execute(sa.select(sa.func.count(), sa.func.max(seq)).where(seq > low)).one()
    return int(count), newest


def _deleted_since(connection: sa.Connection, last: Manifest) -> int:
    """How many of the newest manifest's episodes were deleted after its commit: their tombstones name it as the last.

    Counted by index, as are the new ones: counting all episodes each time takes longer the more there are, five times a
    second and under the write lock.
    """
    query = sa.select(sa.func.count()).where(tables.deletions.c.last_manifest == last.number)
    return int(connection.execute(query).scalar_one())


def _read(connection: sa.Connection, number: int) -> Manifest:
    row = (
        connection.execute(sa.select(tables.manifests).where(tables.manifests.c.number == number))
        .mappings()
        .first()
    )
    if row is None:
        raise StoreError(f"manifest {number} does not exist; the newest is {read_head(connection, HEAD)}.")
    return Manifest(**row)
