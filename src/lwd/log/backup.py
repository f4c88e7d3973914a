"""Backup of the catalogue into one SQLite file while the fleet runs, and restore of it into an empty catalogue.

The file is a catalogue like any other, so it can be opened, read and migrated. Restoring it into Postgres is the way from
the embedded mode to a fleet's database. Objects are not in it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from lwd.errors import StoreError
from lwd.log import tables
from lwd.log.catalogue import Catalogue

log = logging.getLogger(__name__)

_BATCH = 500
_SERIALS = (tables.episodes.c.seq, tables.quarantine.c.id, tables.events.c.id)


@dataclass(frozen=True, kw_only=True)
class BackupReport:
    """What was copied and found the same on the other side: rows per table, and the heads."""

    rows: Mapping[str, int]
    heads: Mapping[str, int]


def backup(catalogue: Catalogue, target: Path) -> BackupReport:
    """Write a consistent copy of a catalogue, of whatever engine, into the new SQLite file `target`.

    Writers go on meanwhile; what they commit later is not in the copy. All of the file is there, or none.

    Raises:
        StoreError: the file exists or cannot be written, the catalogue failed, or the copy is not the same.
    """
    if target.exists():
        raise StoreError(f"backup {str(target)!r} exists already; choose another name, nothing was written.")
    part = target.with_name(target.name + ".part")
    try:
        _remove(part)
        with Catalogue(part) as copy, catalogue.read() as source, copy.write() as sink:
            report = _copy(source, sink)
        _seal(part)
        os.replace(part, target)
    except OSError as error:
        raise StoreError(
            f"backup {str(target)!r} cannot be written: {error.strerror or error}. Check free space and permissions."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            _remove(part)
    log.info("catalogue_backed_up path=%s episodes=%d", target, report.rows["episodes"])
    return report


def restore(source: Path, url: str | Path) -> BackupReport:
    """Fill the empty catalogue `url` (SQLite or Postgres; made if missing) from a backup, in one transaction.

    Not a byte of the backup changes.

    Raises:
        StoreError: there is no such backup, it has another version (migrate it first), the catalogue is not empty, or a
            database failed; nothing was changed then.
    """
    if not source.is_file():
        raise StoreError(f"backup {str(source)!r} does not exist; nothing was restored.")
    with Catalogue(source, read_only=True) as saved, Catalogue(url) as target:
        with saved.read() as held, target.write() as sink:
            full = {name: count for name, count in _counts(sink).items() if count}
            if full:
                raise StoreError(
                    f"catalogue {target.shown!r} is not empty ({full}); nothing was restored. Restore into a new one."
                )
            report = _copy(held, sink)
        log.info(
            "catalogue_restored catalogue=%s from=%s episodes=%d",
            *(target.shown, source, report.rows["episodes"]),
        )
    return report


def _copy(source: sa.Connection, sink: sa.Connection) -> BackupReport:
    """Copy every row and the counters, then compare."""
    for table in _data_tables():
        found = source.execute(sa.select(table), execution_options={"yield_per": _BATCH}).mappings()
        for rows in found.partitions():
            sink.execute(sa.insert(table), [dict(row) for row in rows])
    known = set(sink.execute(sa.select(tables.info.c.key)).scalars())
    notes = [dict(row) for row in source.execute(sa.select(tables.info)).mappings()]
    if fresh := [row for row in notes if row["key"] not in known]:
        sink.execute(sa.insert(tables.info), fresh)
    for column in _SERIALS:
        _set_used(sink, column, _used(source, column))
    expected = BackupReport(rows=_counts(source), heads=_heads(source))
    found = BackupReport(rows=_counts(sink), heads=_heads(sink))
    if found != expected:
        raise StoreError(
            f"the catalogue's copy is not the same: {found}, expected {expected}; it was dropped."
        )
    return found


def _data_tables() -> list[sa.Table]:
    """What a backup holds: all but the copy's own version, and what processes said a moment ago."""
    left_out = (tables.info, tables.statuses)
    return [table for table in tables.metadata.sorted_tables if table not in left_out]


def _counts(connection: sa.Connection) -> dict[str, int]:
    return {
        table.name: int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())
        for table in _data_tables()
    }


def _heads(connection: sa.Connection) -> dict[str, int]:
    column = tables.heads.c
    return {
        str(row[0]): int(row[1]) for row in connection.execute(sa.select(column.name, column.number)).all()
    }


def _used(connection: sa.Connection, column: sa.Column[int]) -> int:
    """The largest number that was ever handed out for a column, also to rows that are deleted since."""
    if connection.dialect.name == "sqlite":
        query = sa.text("SELECT seq FROM sqlite_sequence WHERE name = :table").bindparams(
            table=column.table.name
        )
    else:
        query = sa.text("SELECT pg_sequence_last_value(CAST(:name AS regclass))").bindparams(
            name=_sequence(connection, column)
        )
    return int(connection.execute(query).scalar_one_or_none() or 0)


def _set_used(connection: sa.Connection, column: sa.Column[int], number: int) -> None:
    """Make the next number of a column larger than `number`."""
    if number == 0:
        return
    if connection.dialect.name == "sqlite":
        name = {"table": column.table.name}
        connection.execute(sa.text("DELETE FROM sqlite_sequence WHERE name = :table"), name)
        connection.execute(
            sa.text("INSERT INTO sqlite_sequence (name, seq) VALUES (:table, :number)"),
            {**name, "number": number},
        )
    else:
        connection.execute(
            sa.text("SELECT setval(CAST(:name AS regclass), :number)"),
            {"name": _sequence(connection, column), "number": number},
        )


def _sequence(connection: sa.Connection, column: sa.Column[int]) -> str:
    query = sa.text("SELECT pg_get_serial_sequence(:table, :column)")
    names = {"table": column.table.name, "column": column.name}
    return str(connection.execute(query, names).scalar_one())


def _seal(path: Path) -> None:
    """Make one plain file of it, synced, and read it once more."""
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            mode = connection.execute("PRAGMA journal_mode=DELETE").fetchone()[0]
            found = connection.execute("PRAGMA integrity_check").fetchone()[0]
    except sqlite3.Error as error:
        raise StoreError(f"backup {str(path)!r} cannot be read again: {error}. Nothing was kept.") from error
    if (mode, found) != ("delete", "ok"):
        raise StoreError(f"backup {str(path)!r} is damaged: {found} (journal {mode}). Nothing was kept.")
    for name in (path, path.parent):
        handle = os.open(name, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove(part: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        part.with_name(part.name + suffix).unlink(missing_ok=True)
