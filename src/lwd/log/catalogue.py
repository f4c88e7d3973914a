"""The catalogue: one small database of what exists. SQLite (WAL) by default, Postgres for a fleet; the URL decides."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from lwd.errors import StoreError
from lwd.log import migrations, tables
from lwd.log.engine import BUSY_TIMEOUT_S, Database


@dataclass(frozen=True, kw_only=True)
class EpisodeRow:
    """One catalogued episode: its header, its verdict and where its bytes are.

    Attributes:
        seq: place in the catalogue's order; grows, never used twice.
        control_hz: control steps per second.
        stage_score: milestones reached / total, in [0, 1].
        steps: T, control steps; intervention_steps: how many of them a human commanded.
        cycle_time_s: seconds from reset to outcome.
        key, sha256, size: object key, hex digest and bytes of the episode file.
        started_at, catalogued_at: seconds since the epoch.
        received_at: when the bus had the event, seconds since the epoch; None in rows older than schema version 2.
        ended_at: when the robot finished the file, by its own clock; None if it did not say.
    """

    seq: int
    episode_id: str
    task: str
    instruction: str
    source: str
    robot: str
    spec: str
    control_hz: float
    snapshot: int | None
    software: str
    seed: int | None
    operator: str | None
    started_at: float
    outcome: str
    stage_score: float
    steps: int
    cycle_time_s: float
    intervention_steps: int
    key: str
    sha256: str
    size: int
    catalogued_at: float
    received_at: float | None = None
    ended_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class QuarantineRow:
    """One thing that arrived and is not trained on: why, what was found, and where its bytes are ("" if none)."""

    id: int
    episode_id: str
    reason: str
    detail: str
    key: str
    sha256: str
    robot: str
    quarantined_at: float


class Catalogue:
    """The database behind catalogue, bus and heads. Thread-safe; several processes may open the same URL.

    Args:
        url: a path, `sqlite:///path` or `postgresql://user@host/database` (psycopg 3).
        timeout_s: longest statement, and longest wait for another process's write transaction.
        read_only: refuse to change an SQLite file in any way.

    Raises:
        StoreError: it cannot be opened, or its tables have another version than this program.

    Open it after a fork, not before; close it, or use it as a context manager.
    """

    def __init__(
        self, url: str | Path, timeout_s: float = BUSY_TIMEOUT_S, *, read_only: bool = False
    ) -> None:
        self._database = Database(url, timeout_s, read_only=read_only)
        self.url = self._database.url
        try:
            migrations.prepare(self._database)
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> Catalogue:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def shown(self) -> str:
        """The URL without its password, for messages."""
        return self._database.shown

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    def read(self) -> AbstractContextManager[sa.Connection]:
        """A read transaction: one consistent view. Database errors become StoreError."""
        return self._database.read()

    def write(self) -> AbstractContextManager[sa.Connection]:
        """A write transaction: commits when the block ends, rolls back when it raises.

        It takes the one write lock at once, on both engines: what is read inside cannot change before it commits, and
        numbers that the database hands out inside (such as seq) become visible in their order.
        """
        return self._database.write()

    def newest_seq(self) -> int:
        """The newest episode's place in the catalogue's order, 0 before the first."""
        with self.read() as connection:
            return connection.execute(sa.select(sa.func.max(tables.episodes.c.seq))).scalar_one() or 0

    def episode(self, episode_id: str) -> EpisodeRow | None:
        """One catalogued episode, None if there is none of this id."""
        with self.read() as connection:
            query = sa.select(tables.episodes).where(tables.episodes.c.episode_id == episode_id)
            row = connection.execute(query).mappings().first()
        return None if row is None else EpisodeRow(**row)

    def ids(self, beginning: str, limit: int, *, deleted: bool = False) -> list[str]:
        """Up to `limit` ids of catalogued episodes that begin so, in their order; also those of deleted ones if asked."""
        found = list[str]()
        with self.read() as connection:
            for table in (tables.episodes, tables.deletions) if deleted else (tables.episodes,):
                column = table.c.episode_id
                # Not LIKE: an id may hold its wildcard "_", and SQLite's does not tell "a" from "A".
                query = sa.select(column).where(sa.func.substr(column, 1, len(beginning)) == beginning)
                found += connection.execute(query.order_by(column).limit(limit)).scalars()
        return sorted(found)[:limit]

    def episodes(
        self,
        *,
        after_seq: int = 0,
        upto_seq: int | None = None,
        task: str | None = None,
        source: str | None = None,
        snapshot: int | None = None,
        limit: int | None = None,
        newest: bool = False,
    ) -> list[EpisodeRow]:
        """Catalogued episodes with after_seq < seq <= upto_seq, in seq order, filtered by task, source and snapshot.

        `limit` keeps the first of them, with `newest` the last.
        """
        column = tables.episodes.c
        query = sa.select(tables.episodes).where(column.seq > after_seq)
        if upto_seq is not None:
            query = query.where(column.seq <= upto_seq)
        if task is not None:
            query = query.where(column.task == task)
        if source is not None:
            query = query.where(column.source == source)
        if snapshot is not None:
            query = query.where(column.snapshot == snapshot)
        with self.read() as connection:
            return [EpisodeRow(**row) for row in first_rows(connection, query, column.seq, limit, newest)]

    def quarantined(
        self, *, reason: str | None = None, limit: int | None = None, newest: bool = False
    ) -> list[QuarantineRow]:
        """What was refused, oldest first; `limit` as in `episodes`."""
        query = sa.select(tables.quarantine)
        if reason is not None:
            query = query.where(tables.quarantine.c.reason == reason)
        with self.read() as connection:
            found = first_rows(connection, query, tables.quarantine.c.id, limit, newest)
            return [QuarantineRow(**row) for row in found]

    def counts(self) -> dict[str, int]:
        """Rows per table: episodes, quarantine, events (waiting), manifests, snapshots."""
        names = ("episodes", "quarantine", "events", "manifests", "snapshots")
        with self.read() as connection:
            return {
                name: int(
                    connection.execute(
                        sa.select(sa.func.count()).select_from(tables.metadata.tables[name])
                    ).scalar_one()
                )
                for name in names
            }

    def head(self, name: str) -> int | None:
        """The number that a head ("manifest", "snapshot") points at, None before the first. One indexed read."""
        with self.read() as connection:
            return read_head(connection, name)


def first_rows(
    connection: sa.Connection, query: sa.Select[Any], number: sa.Column[int], limit: int | None, newest: bool
) -> list[dict[str, Any]]:
    """The first `limit` rows by `number` (all for None), with `newest` the last; both in the order of `number`."""
    query = query.order_by(number.desc() if newest else number).limit(limit)
    rows = [dict[str, Any](row) for row in connection.execute(query).mappings()]
    return rows[::-1] if newest else rows


def read_head(connection: sa.Connection, name: str) -> int | None:
    """The number of a head, inside a transaction."""
    number = connection.execute(
        sa.select(tables.heads.c.number).where(tables.heads.c.name == name)
    ).scalar_one_or_none()
    return None if number is None else int(number)


def move_head(connection: sa.Connection, name: str, number: int) -> None:
    """Point a head at `number`, inside a write transaction; StoreError if it would move back."""
    now = read_head(connection, name)
    if now is not None and number <= now:
        raise StoreError(f"head {name!r} is at {now} and only grows, it cannot move to {number}.")
    values: Mapping[str, Any] = {"number": number, "updated_at": time.time()}
    if now is None:
        connection.execute(sa.insert(tables.heads).values(name=name, **values))
    else:
        connection.execute(sa.update(tables.heads).where(tables.heads.c.name == name).values(**values))
