"""Connections to the catalogue's database: SQLite (WAL) or Postgres, both with one writer at a time and bounded waits."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Generator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from lwd.errors import ConfigError, StoreError

if TYPE_CHECKING:
    import psycopg
    from psycopg.abc import PQGen

BUSY_TIMEOUT_S = 30.0
"""How long a statement, or the wait for another process's write transaction, may take before it is a StoreError."""
CONNECT_TIMEOUT_S = 5

_WRITE_LOCK = int.from_bytes(b"lwdwrite", "big")
"""The advisory lock that every write transaction on Postgres holds."""


class Database:
    """A catalogue's database, whatever its schema. Thread-safe; several processes may open the same URL.

    Args:
        url: a path, `sqlite:///path` or `postgresql://user@host/database`.
        timeout_s: longest statement and longest wait for the write lock.
        read_only: refuse to change an SQLite file, also its journal's mode.

    Attributes:
        url: the address, possibly with a password.
        shown: the same without a password, for messages.
        backend: "sqlite" or "postgresql".
        file: the database's file, None on Postgres.
    """

    def __init__(
        self, url: str | Path, timeout_s: float = BUSY_TIMEOUT_S, *, read_only: bool = False
    ) -> None:
        self.url = _address(url)
        self.shown = _shown(self.url)
        parsed = _parsed(self.url)
        self.backend, self.file = parsed.get_backend_name(), _file(parsed)
        with _reporting(self.shown, "open"):
            engine = (
                _sqlite(parsed, timeout_s, read_only)
                if self.backend == "sqlite"
                else _postgres(parsed, timeout_s)
            )
        self._engine = engine
        event.listen(engine, "begin", _on_begin)
        reading: dict[str, Any] = (
            {}
            if self.backend == "sqlite"
            else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        )
        self._reader = engine.execution_options(**reading)
        self._writer = engine.execution_options(lwd_write=self.backend)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextlib.contextmanager
    def read(self) -> Generator[sa.Connection]:
        """A read transaction: one consistent view. Database errors become StoreError."""
        with _reporting(self.shown, "read"), self._reader.connect() as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def write(self) -> Generator[sa.Connection]:
        """A write transaction: commits when the block ends, rolls back when it raises.

        It takes the one write lock first, so what is read inside cannot change before it commits, and sequence
        numbers become visible in their order.
        """
        with _reporting(self.shown, "write"), self._writer.connect() as connection, connection.begin():
            yield connection


def _sqlite(url: sa.URL, timeout_s: float, read_only: bool) -> sa.Engine:
    """SQLite with WAL, full durability, a busy timeout and explicit transactions."""
    if not url.database or url.database == ":memory:":
        raise StoreError("catalogue: an in-memory SQLite cannot be shared between processes; give it a file.")
    try:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"catalogue {url.render_as_string()!r}: its folder cannot be made: {error}. Choose a writable path."
        ) from error
    engine = sa.create_engine(url, connect_args={"timeout": timeout_s, "check_same_thread": False})

    def on_connect(connection: sqlite3.Connection, _record: object) -> None:
        # The driver must not begin transactions itself: it would do so too late and too weakly.
        connection.isolation_level = None
        cursor = connection.cursor()
        deadline = time.monotonic() + timeout_s
        if read_only:
            cursor.execute("PRAGMA query_only=ON")
        while not read_only:  # the switch to WAL needs the file alone and does not honour the busy timeout
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

    event.listen(engine, "connect", on_connect)
    return engine


def _postgres(url: sa.URL, timeout_s: float) -> sa.Engine:
    """Postgres through psycopg 3. What the URL's own query says wins over the settings here."""
    if url.drivername not in ("postgresql", "postgresql+psycopg"):
        raise StoreError(
            f"catalogue {url.render_as_string()!r}: not a database that lwd knows; expected a path, sqlite:///path or "
            "postgresql://user@host/database."
        )
    if find_spec("psycopg") is None:  # a robot computer does not have it
        raise ConfigError("a catalogue on Postgres needs the driver psycopg: pip install 'lwd[fleet]'.")
    millis = round(timeout_s * 1000)
    settings: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "application_name": "lwd",
        # The server ends what takes too long, and a transaction whose client went away with the write lock.
        "options": f"-c statement_timeout={millis} -c idle_in_transaction_session_timeout={2 * millis}",
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": millis,
    }
    settings = {name: value for name, value in settings.items() if name not in url.query}
    engine = sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        connect_args=settings,
        pool_pre_ping=True,  # a server that restarted costs a reconnect, not an error
        pool_timeout=timeout_s,
    )
    connection_class = _bounded_connection(timeout_s + CONNECT_TIMEOUT_S)

    def connect(_dialect: object, _record: object, args: list[Any], options: dict[str, Any]) -> object:
        return connection_class.connect(*args, **options)

    event.listen(engine, "do_connect", connect)
    return engine


def _bounded_connection(limit_s: float) -> type[psycopg.Connection[Any]]:
    """A connection that gives up on a server which stays silent: frozen, or behind a half-open link.

    The server's own timeouts do not help there, and neither do keep-alives, which the frozen host's kernel answers.
    """
    import psycopg

    class Bounded(psycopg.Connection[Any]):
        def wait(self, gen: PQGen[Any], *args: Any, **options: Any) -> Any:
            return super().wait(self._limited(gen), *args, **options)

        def _limited(self, gen: PQGen[Any]) -> PQGen[Any]:
            deadline = time.monotonic() + limit_s
            try:
                state = next(gen)
                while True:
                    ready = yield state
                    if not ready and time.monotonic() > deadline:
                        self.pgconn.finish()
                        raise psycopg.OperationalError(f"the server did not answer for {limit_s:.0f} s")
                    state = gen.send(ready)
            except StopIteration as done:
                return done.value

    return Bounded


def _on_begin(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("lwd_write")
    if write == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITE_LOCK})")
    elif connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def database_file(url: str | Path) -> Path | None:
    """The SQLite file of a catalogue's URL or path, None on Postgres; StoreError if it is no URL. Opens nothing."""
    return _file(_parsed(_address(url)))


def _address(url: str | Path) -> str:
    text = str(url)
    return text if "://" in text else f"sqlite:///{Path(text).expanduser().absolute()}"


def _file(url: sa.URL) -> Path | None:
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def _parsed(url: str) -> sa.URL:
    try:
        with _reporting(_shown(url), "open"):
            return sa.make_url(url)
    except ValueError as error:  # SQLAlchemy's own reading of a port; its text may hold the password
        raise StoreError(
            f"catalogue {_shown(url)!r}: its port is no number; expected postgresql://user@host:5432/database."
        ) from error


def _shown(url: str) -> str:
    """The URL without its password."""
    try:
        return sa.make_url(url).render_as_string(hide_password=True)
    except (SQLAlchemyError, ValueError):
        return url.partition("://")[0] + "://..."


@contextlib.contextmanager
def _reporting(shown: str, action: str) -> Generator[None]:
    try:
        yield
    except OverflowError as error:
        raise StoreError(
            f"catalogue {shown!r}: {action} failed: a number has more than 64 bits; no row has such a number."
        ) from error
    except (SQLAlchemyError, sqlite3.Error) as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()
        raise StoreError(
            f"catalogue {shown!r}: {action} failed: {reason[0] if reason else type(error).__name__}. Check that the path "
            "or server exists, is writable and has space; the work is kept and tried again."
        ) from error
