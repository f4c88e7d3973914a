"""The catalogue: one small database of what exists. SQLite (WAL) by default; the URL decides."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from lwd.errors import StoreError
from lwd.log import tables

log = logging.getLogger(__name__)

BUSY_TIMEOUT_S = 30.0
"""How long a writer waits for another process's write transaction before it gives up with StoreError."""


@dataclass(frozen=True, kw_only=True)
class EpisodeRow:
    """One catalogued episode: its header, its verdict and where its bytes are.

    Attributes:
        seq: place in the catalogue's order; grows, never used twice.
        steps: T, control steps; intervention_steps: how many of them a human commanded.
        cycle_time_s: seconds from reset to outcome.
        key, sha256, size: object key, hex digest and bytes of the episode file.
        started_at, catalogued_at: seconds since the epoch.
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
        url: a path, `sqlite:///path`, or any SQLAlchemy URL (`postgresql+psycopg://...`).

    Open it after a fork, not before; close it, or use it as a context manager.
    """

    def __init__(self, url: str | Path) -> None:
        text = str(url)
        self.url = text if "://" in text else f"sqlite:///{Path(text).expanduser().absolute()}"
        self._engine = _engine(self.url)
        try:
            self._create()
        except BaseException:
            self._engine.dispose()
            raise

    def __enter__(self) -> Catalogue:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextlib.contextmanager
    def read(self) -> Generator[sa.Connection]:
        """A read transaction: one consistent view. Database errors become StoreError."""
        with _reporting(self.url, "read"), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def write(self) -> Generator[sa.Connection]:
        """A write transaction: commits when the block ends, rolls back when it raises.

        On SQLite it takes the write lock at once, so what is read inside cannot change before it commits.
        """
        with _reporting(self.url, "write"), self._engine.connect() as connection:
            connection = connection.execution_options(lwd_write=True)
            with connection.begin():
                yield connection

    def episode(self, episode_id: str) -> EpisodeRow | None:
        """One catalogued episode, None if there is none of this id."""
        with self.read() as connection:
            query = sa.select(tables.episodes).where(tables.episodes.c.episode_id == episode_id)
            row = connection.execute(query).mappings().first()
        return None if row is None else EpisodeRow(**row)

    def episodes(
        self,
        *,
        after_seq: int = 0,
        upto_seq: int | None = None,
        task: str | None = None,
        source: str | None = None,
        limit: int | None = None,
    ) -> list[EpisodeRow]:
        """Catalogued episodes with after_seq < seq <= upto_seq, in seq order, filtered by task and source."""
        column = tables.episodes.c
        query = sa.select(tables.episodes).where(column.seq > after_seq).order_by(column.seq).limit(limit)
        if upto_seq is not None:
            query = query.where(column.seq <= upto_seq)
        if task is not None:
            query = query.where(column.task == task)
        if source is not None:
            query = query.where(column.source == source)
        with self.read() as connection:
            return [EpisodeRow(**row) for row in connection.execute(query).mappings()]

    def quarantined(self, *, reason: str | None = None, limit: int | None = None) -> list[QuarantineRow]:
        """What was refused, oldest first."""
        query = sa.select(tables.quarantine).order_by(tables.quarantine.c.id).limit(limit)
        if reason is not None:
            query = query.where(tables.quarantine.c.reason == reason)
        with self.read() as connection:
            return [QuarantineRow(**row) for row in connection.execute(query).mappings()]

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

    def _create(self) -> None:
        """Make the tables if they are missing; refuse a catalogue of another version."""
        with self.write() as connection:
            tables.metadata.create_all(connection)
            query = sa.select(tables.info.c.value).where(tables.info.c.key == "schema_version")
            found = connection.execute(query).scalar_one_or_none()
            if found is None:
                values = {"key": "schema_version", "value": str(tables.CATALOGUE_VERSION)}
                connection.execute(sa.insert(tables.info).values(values))
            elif found != str(tables.CATALOGUE_VERSION):
                raise StoreError(
                    f"catalogue {self.url!r} has schema version {found}, this program knows "
                    f"{tables.CATALOGUE_VERSION}. Install the lwd version that wrote it."
                )


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


def _engine(url: str) -> sa.Engine:
    """An engine; on SQLite with WAL, full durability, a busy timeout and explicit transactions."""
    with _reporting(url, "open"):
        parsed = sa.make_url(url)
        if parsed.get_backend_name() != "sqlite":
            return sa.create_engine(parsed, pool_pre_ping=True)
    if not parsed.database or parsed.database == ":memory:":
        raise StoreError("catalogue: an in-memory SQLite cannot be shared between processes; give it a file.")
    try:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"catalogue {url!r}: its folder cannot be made: {error}. Choose a writable path."
        ) from error
    engine = sa.create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False})
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


def _on_connect(connection: sqlite3.Connection, _record: object) -> None:
    """Set SQLite up. The driver must not begin transactions itself: it would do so too late and too weakly."""
    connection.isolation_level = None
    cursor = connection.cursor()
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:  # the switch to WAL needs the file alone and does not honour the busy timeout
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _on_begin(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("lwd_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@contextlib.contextmanager
def _reporting(url: str, action: str) -> Generator[None]:
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error) as error:
        shown = url
        with contextlib.suppress(SQLAlchemyError):  # never print a password
            shown = sa.make_url(url).render_as_string(hide_password=True)
        reason = str(getattr(error, "orig", None) or error).splitlines()
        raise StoreError(
            f"catalogue {shown!r}: {action} failed: {reason[0] if reason else type(error).__name__}. Check that the path "
            "or server exists, is writable and has space; the work is kept and tried again."
        ) from error
