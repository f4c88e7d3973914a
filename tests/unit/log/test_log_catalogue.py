"""The catalogue: versioned, shared by processes, and honest about a database that fails."""

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from log_cases import Fleet, make_episode

from lwd.episode import Source
from lwd.errors import StoreError
from lwd.log import tables
from lwd.log.catalogue import Catalogue, move_head


def test_it_is_wal_and_fully_durable(fleet: Fleet):
    with fleet.catalogue.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 30_000


def test_another_schema_version_is_refused(tmp_path: Path):
    path = tmp_path / "catalogue.db"
    Catalogue(path).close()
    with Catalogue(f"sqlite:///{path}") as again, again.write() as connection:
        connection.execute(sa.update(tables.info).values(value="99"))
    with pytest.raises(StoreError, match=r"schema version 99, this program knows 1\. Install"):
        Catalogue(path)


def test_what_is_no_database_is_refused(tmp_path: Path):
    (tmp_path / "text.db").write_text("this is not a database, it is a text file" * 100)
    with pytest.raises(StoreError, match="not a database"):
        Catalogue(tmp_path / "text.db")
    with pytest.raises(StoreError, match="in-memory"):
        Catalogue("sqlite://")
    with pytest.raises(StoreError):
        Catalogue("nonsense://x")


def test_a_password_is_not_shown():
    with pytest.raises(StoreError) as caught:
        Catalogue("nonsense://user:hunter2@host/x")
    assert "hunter2" not in str(caught.value)


def test_a_write_that_fails_leaves_nothing(fleet: Fleet):
    def die() -> None:
        with fleet.catalogue.write() as connection:
            move_head(connection, "snapshot", 5)
            raise RuntimeError("died")

    with pytest.raises(RuntimeError):
        die()
    assert fleet.catalogue.head("snapshot") is None


def test_heads_only_grow(fleet: Fleet):
    with fleet.catalogue.write() as connection:
        move_head(connection, "snapshot", 5)
    for number in (5, 4):
        with pytest.raises(StoreError, match="only grows"), fleet.catalogue.write() as connection:
            move_head(connection, "snapshot", number)
    assert fleet.catalogue.head("snapshot") == 5


def test_rows_carry_the_whole_header_and_are_filtered(fleet: Fleet):
    episodes = [
        make_episode(4 + i, source=Source(source)) for i, source in enumerate(["demo", "online", "online"])
    ]
    for episode in episodes:
        fleet.send_episode(episode)
    fleet.drain()
    row = fleet.catalogue.episode(episodes[1].header.episode_id)
    assert row is not None
    header = {**vars(episodes[1].header), "source": "online"}
    assert {name: getattr(row, name) for name in header} == header
    assert (row.outcome, row.stage_score, row.steps) == ("success", 1.0, 5)
    assert row.cycle_time_s == pytest.approx(0.5)
    assert row.intervention_steps == int(episodes[1].interventions.sum())
    assert fleet.catalogue.episode("nobody") is None
    assert [row.steps for row in fleet.catalogue.episodes()] == [4, 5, 6]
    assert [row.steps for row in fleet.catalogue.episodes(source="online")] == [5, 6]
    assert [row.steps for row in fleet.catalogue.episodes(after_seq=1, upto_seq=2)] == [5]
    assert [row.steps for row in fleet.catalogue.episodes(task="drawer", limit=1)] == [4]
    assert fleet.catalogue.counts() == {
        "episodes": 3,
        "quarantine": 0,
        "events": 0,
        "manifests": 0,
        "snapshots": 0,
    }


COUNT = """
import sys
import sqlalchemy as sa
from lwd.log import tables
from lwd.log.catalogue import Catalogue, move_head, read_head

with Catalogue(sys.argv[1]) as catalogue:
    for _ in range(int(sys.argv[2])):
        with catalogue.write() as connection:
            move_head(connection, "count", (read_head(connection, "count") or 0) + 1)
"""


def test_two_processes_and_two_threads_lose_no_update(tmp_path: Path):
    """All open a new catalogue at once and count up in read-modify-write transactions."""
    path = tmp_path / "catalogue.db"
    processes = [subprocess.Popen([sys.executable, "-c", COUNT, str(path), "40"]) for _ in range(2)]
    with Catalogue(path) as catalogue:

        def count() -> None:
            for _ in range(20):
                with catalogue.write() as connection:
                    now = connection.execute(sa.select(tables.heads.c.number)).scalar_one_or_none() or 0
                    move_head(connection, "count", now + 1)

        threads = [threading.Thread(target=count) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [process.wait(60) for process in processes] == [0, 0]
        assert catalogue.head("count") == 120


def test_a_reader_keeps_one_view_while_others_write(fleet: Fleet):
    with fleet.catalogue.read() as connection:
        before = connection.execute(sa.select(sa.func.count()).select_from(tables.heads)).scalar()
        with fleet.catalogue.write() as other:
            move_head(other, "snapshot", 1)
        after = connection.execute(sa.select(sa.func.count()).select_from(tables.heads)).scalar()
    assert (before, after) == (0, 0)
    assert fleet.catalogue.head("snapshot") == 1


def test_a_full_or_broken_disk_is_a_store_error(fleet: Fleet):
    with pytest.raises(StoreError, match="write failed"), fleet.catalogue.write() as connection:
        raise sa.exc.OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))
    assert connection.closed
