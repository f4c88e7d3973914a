"""The catalogue on SQLite, and its errors. What every engine must do is in tests/contract/test_catalogue.py."""

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from log_cases import Fleet

from lwd.errors import StoreError
from lwd.log import manifest, quarantine
from lwd.log.catalogue import Catalogue


def test_it_is_wal_and_fully_durable(fleet: Fleet):
    with fleet.catalogue.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 30_000


def test_what_is_no_database_is_refused(tmp_path: Path):
    (tmp_path / "text.db").write_text("this is not a database, it is a text file" * 100)
    with pytest.raises(StoreError, match="not a database"):
        Catalogue(tmp_path / "text.db")
    with pytest.raises(StoreError, match="in-memory"):
        Catalogue("sqlite://")
    for unknown in ("nonsense://x", "mysql://x/y", "postgresql+psycopg2://x/y", "postgres"):
        if "://" in unknown:
            with pytest.raises(StoreError, match=r"postgresql://user@host|nonsense|mysql"):
                Catalogue(unknown)


def test_numbers_that_no_row_has_are_store_errors(fleet: Fleet):
    with pytest.raises(StoreError, match="64 bits"):
        manifest.read(fleet.catalogue, 10**20)
    with pytest.raises(StoreError, match="64 bits"):
        quarantine.show(fleet.catalogue, fleet.objects, 10**20)


def test_a_port_that_is_no_number_says_so_without_the_password():
    with pytest.raises(StoreError, match="port") as caught:
        Catalogue("postgresql://u:secret@h:notaport/d")
    assert "secret" not in str(caught.value)


def test_a_password_is_not_shown():
    with pytest.raises(StoreError) as caught:
        Catalogue("nonsense://user:hunter2@host/x")
    assert "hunter2" not in str(caught.value)


def test_a_full_or_broken_disk_is_a_store_error(fleet: Fleet):
    with pytest.raises(StoreError, match="write failed"), fleet.catalogue.write() as connection:
        raise sa.exc.OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))
    assert connection.closed
