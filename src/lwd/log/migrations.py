"""The catalogue's schema over time: numbered steps, each one transaction, recorded in the table `info`.

A step is written once and never changed: what it makes is spelled out here, not taken from `tables`, which goes on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from lwd import __version__
from lwd.errors import StoreError
from lwd.log import tables
from lwd.log.engine import BUSY_TIMEOUT_S, Database

log = logging.getLogger(__name__)

_VERSION, _SOFTWARE = "schema_version", "software"


@dataclass(frozen=True)
class Step:
    """One step: the version it leads to, and how, inside a write transaction."""

    version: int
    apply: Callable[[sa.Connection], None]


@dataclass(frozen=True, kw_only=True)
class MigrationReport:
    """What `migrate` did: the versions before and after, and the copy it made first (None if it made none)."""

    before: int
    after: int
    backup: Path | None


def _fleet(connection: sa.Connection) -> None:
    """Version 2, for a fleet over a network: when an event was received; robots, claims, deletions."""
    double = sa.Double().compile(dialect=connection.dialect)
    text = "TEXT NOT NULL"
    for statement in (
        f"ALTER TABLE episodes ADD COLUMN received_at {double}",
        f"CREATE TABLE robots (name {text}, spec {text}, public_key TEXT, invited_at {double} NOT NULL, "
        f"revoked_at {double}, PRIMARY KEY (name))",
        f"CREATE TABLE claims (episode_id {text}, robot {text}, claimed_at {double} NOT NULL, "
        "PRIMARY KEY (episode_id))",
        f'CREATE TABLE deletions (episode_id {text}, seq BIGINT NOT NULL, task {text}, robot {text}, "key" {text}, '
        f"sha256 {text}, size BIGINT NOT NULL, first_manifest BIGINT, last_manifest BIGINT, snapshots {text}, "
        f"reason {text}, deleted_by {text}, deleted_at {double} NOT NULL, object_deleted_at {double}, "
        "PRIMARY KEY (episode_id))",
    ):
        connection.exec_driver_sql(statement)


def _statuses(connection: sa.Connection) -> None:
    """Version 3, to see how a fleet is: when an episode ended on its robot's clock; what each process last said."""
    double = sa.Double().compile(dialect=connection.dialect)
    connection.exec_driver_sql(f"ALTER TABLE episodes ADD COLUMN ended_at {double}")
    connection.exec_driver_sql(
        f"CREATE TABLE statuses (name TEXT NOT NULL, role TEXT NOT NULL, sent_at {double} NOT NULL, "
        f"received_at {double} NOT NULL, payload TEXT NOT NULL, PRIMARY KEY (name))"
    )


def _indexes(connection: sa.Connection) -> None:
    """Version 4, for logs that are large: which manifest held an episode, and what was deleted since a manifest, by index.

    A manifest's count follows from its parent's now, and earlier programs counted what was deleted before: the newest is
    put right.
    """
    for statement in (
        "CREATE INDEX ix_manifests_upto_seq ON manifests (upto_seq)",
        "CREATE INDEX ix_deletions_last_manifest ON deletions (last_manifest)",
        "UPDATE manifests SET episodes = (SELECT count(*) FROM episodes WHERE episodes.seq <= manifests.upto_seq) "
        "+ (SELECT count(*) FROM deletions WHERE deletions.last_manifest = manifests.number) "
        "WHERE manifests.number = (SELECT max(number) FROM manifests)",
    ):
        connection.exec_driver_sql(statement)


def _releases(connection: sa.Connection) -> None:
    """Version 5, for promotion by stages: releases, why a snapshot was rejected, the episodes of a snapshot by index."""
    text = "TEXT NOT NULL"
    for statement in (
        f"CREATE TABLE releases (kind {text}, edition BIGINT NOT NULL, body {text}, signature {text}, "
        "PRIMARY KEY (kind, edition))",
        f"ALTER TABLE snapshots ADD COLUMN reason {text} DEFAULT ''",
        "CREATE INDEX ix_episodes_snapshot ON episodes (snapshot)",
    ):
        connection.exec_driver_sql(statement)


STEPS = (Step(2, _fleet), Step(3, _statuses), Step(4, _indexes), Step(5, _releases))


def prepare(database: Database) -> None:
    """Make the tables of an empty database; refuse a catalogue of another version.

    Raises:
        StoreError: it is older (says how to migrate it) or newer (says what to install).
    """
    with database.read() as connection:
        found = schema_version(connection)
    if found is None:
        with database.write() as connection:
            found = schema_version(connection)  # another process may have been quicker
            if found is None:
                tables.metadata.create_all(connection)
                _record(connection, _VERSION, str(tables.CATALOGUE_VERSION))
                _record(connection, _SOFTWARE, __version__)
                return
    if found < tables.CATALOGUE_VERSION:
        raise StoreError(
            f"catalogue {database.shown!r} has schema version {found}, this program needs {tables.CATALOGUE_VERSION}. Stop "
            f"what uses it, then run: lwd log migrate --catalogue {database.shown}"
        )
    if found > tables.CATALOGUE_VERSION:
        with database.read() as connection:
            _refuse_newer(connection, database, found)


def migrate(
    url: str | Path, *, backup_folder: Path | None = None, timeout_s: float = BUSY_TIMEOUT_S
) -> MigrationReport:
    """Bring a catalogue to this program's version; its data stays. Nothing may use it meanwhile.

    Each step is one transaction: a crash leaves the catalogue at a whole version, and running it again goes on.

    Args:
        url: the catalogue's.
        backup_folder: where a copy of an SQLite catalogue is made first; by default beside it. A Postgres catalogue is
            not copied: `pg_dump` it before.
        timeout_s: longest statement and longest wait for other processes.

    Raises:
        StoreError: no catalogue there, a newer one, or the database failed.
    """
    database = Database(url, timeout_s)
    with contextlib.closing(database):
        with database.read() as connection:
            before = schema_version(connection)
            if before is None:
                raise StoreError(
                    f"catalogue {database.shown!r}: there is none to migrate; a new one is made when it is first used."
                )
            if before > tables.CATALOGUE_VERSION:
                _refuse_newer(connection, database, before)
        if before == tables.CATALOGUE_VERSION:
            return MigrationReport(before=before, after=before, backup=None)
        backup = _copy_file(database.file, before, backup_folder) if database.file else None
        for step in STEPS:
            with database.write() as connection:
                found = schema_version(connection)
                if found is None or found >= step.version:
                    continue  # done before, or by another process just now
                step.apply(connection)
                _record(connection, _VERSION, str(step.version))
                _record(connection, _SOFTWARE, __version__)
                note = {"at": time.time(), "from": found, "software": __version__}
                _record(connection, f"migrated_{step.version}", json.dumps(note))
            log.info("catalogue_migrated catalogue=%s version=%d", database.shown, step.version)
    return MigrationReport(before=before, after=tables.CATALOGUE_VERSION, backup=backup)


def has_tables(url: str | Path) -> bool:
    """Whether a database that is there holds a catalogue, of whatever version; makes and changes nothing."""
    with contextlib.closing(Database(url, read_only=True)) as database, database.read() as connection:
        return schema_version(connection) is not None


def schema_version(connection: sa.Connection) -> int | None:
    """The version of a catalogue's tables, None if there are none yet."""
    if not sa.inspect(connection).has_table(tables.info.name):
        return None
    value = _recorded(connection, _VERSION)
    if value is not None and not value.isdecimal():
        raise StoreError(f"catalogue: its schema version is {value!r:.40}; this is no catalogue of lwd.")
    return None if value is None else int(value)


def _refuse_newer(connection: sa.Connection, database: Database, found: int) -> None:
    software = _recorded(connection, _SOFTWARE)
    install = f"lwd {software} or newer" if software else "the lwd version that wrote it"
    raise StoreError(
        f"catalogue {database.shown!r} has schema version {found}, this program knows {tables.CATALOGUE_VERSION}. "
        f"Install {install}."
    )


def _recorded(connection: sa.Connection, key: str) -> str | None:
    return connection.execute(
        sa.select(tables.info.c.value).where(tables.info.c.key == key)
    ).scalar_one_or_none()


def _record(connection: sa.Connection, key: str, value: str) -> None:
    connection.execute(sa.delete(tables.info).where(tables.info.c.key == key))
    connection.execute(sa.insert(tables.info).values(key=key, value=value))


def _copy_file(file: Path, version: int, folder: Path | None) -> Path:
    """A consistent copy of an SQLite file, also while it is written."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    target = (folder or file.parent) / f"{file.name}.v{version}.{stamp}.backup"
    try:
        with (
            contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as source,
            contextlib.closing(sqlite3.connect(target)) as copy,
        ):
            source.backup(copy)
    except sqlite3.Error as error:
        raise StoreError(
            f"catalogue {str(file)!r}: its backup {str(target)!r} cannot be written: {error}. Nothing was migrated; "
            "make room or choose another folder."
        ) from error
    log.info("catalogue_copied path=%s", target)
    return target
