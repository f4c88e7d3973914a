"""What the catalogue must do on every engine."""

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa
from log_cases import Fleet, make_episode, open_fleet
from servers import PostgresServer

from lwd.episode import Source
from lwd.errors import StoreError
from lwd.log import tables
from lwd.log.catalogue import Catalogue, move_head, read_head

ENGINES = ("sqlite", "postgres")


@pytest.fixture(params=ENGINES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "catalogue.db")
    return request.getfixturevalue("postgres_server").create_database(f"catalogue_{uuid.uuid4().hex}")


@pytest.fixture
def fleet(tmp_path: Path, url: str) -> Iterator[Fleet]:
    with open_fleet(tmp_path, url) as opened:
        yield opened


def signal_all(server: PostgresServer, number: signal.Signals) -> None:
    """Signal the server and its backends: each is a process group of its own."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    for pid in [server.pid, *map(int, children)]:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


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
        make_episode(4 + i, source=Source(source), operator="Zoë ☃", seed=2**63 - 1)
        for i, source in enumerate(["demo", "online", "online"])
    ]
    before = time.time()
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
    assert row.received_at is not None
    assert before - 0.01 <= row.received_at <= row.catalogued_at <= time.time() + 0.01
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
from lwd.log.catalogue import Catalogue, move_head, read_head

with Catalogue(sys.argv[1]) as catalogue:
    for _ in range(int(sys.argv[2])):
        with catalogue.write() as connection:
            move_head(connection, "count", (read_head(connection, "count") or 0) + 1)
"""


def test_two_processes_and_two_threads_lose_no_update(url: str):
    """All open a new catalogue at once and count up in read-modify-write transactions."""
    processes = [subprocess.Popen([sys.executable, "-c", COUNT, url, "40"]) for _ in range(2)]
    with Catalogue(url) as catalogue:

        def count() -> None:
            for _ in range(20):
                with catalogue.write() as connection:
                    move_head(connection, "count", (read_head(connection, "count") or 0) + 1)

        threads = [threading.Thread(target=count) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [process.wait(60) for process in processes] == [0, 0]
        assert catalogue.head("count") == 120


def test_many_clients_open_a_new_catalogue_at_once(url: str):
    barrier, failed = threading.Barrier(20), list[BaseException]()

    def client() -> None:
        try:
            barrier.wait(30)
            with Catalogue(url) as catalogue:
                for _ in range(5):
                    with catalogue.write() as connection:
                        move_head(connection, "count", (read_head(connection, "count") or 0) + 1)
                    assert catalogue.head("count") is not None
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=client) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    with Catalogue(url) as catalogue:
        assert catalogue.head("count") == 100


def test_a_reader_keeps_one_view_while_others_write(fleet: Fleet):
    query = sa.select(sa.func.count()).select_from(tables.heads)
    with fleet.catalogue.read() as connection:
        before = connection.execute(query).scalar()
        with fleet.catalogue.write() as other:
            move_head(other, "snapshot", 1)
        after = connection.execute(query).scalar()
    assert (before, after) == (0, 0)
    assert fleet.catalogue.head("snapshot") == 1


def test_the_wait_for_the_write_lock_is_bounded(url: str):
    with Catalogue(url) as holder, Catalogue(url, timeout_s=0.5) as waiter:
        with holder.write():
            began = time.monotonic()
            with pytest.raises(StoreError, match="write failed"), waiter.write():
                pass
            assert 0.3 < time.monotonic() - began < 20
            assert waiter.head("snapshot") is None  # readers do not wait for writers
        with waiter.write() as connection:
            move_head(connection, "snapshot", 1)


def test_a_password_is_not_shown():
    with pytest.raises(StoreError) as caught:
        Catalogue("postgresql://robot:hunter2@127.0.0.1:1/x")
    assert "hunter2" not in str(caught.value)
    assert "refused" in str(caught.value)


def test_a_postgres_that_is_killed_or_frozen_is_a_store_error_and_then_works_again(
    own_postgres_server: PostgresServer,
):
    server = own_postgres_server
    with Catalogue(server.create_database("fleet"), timeout_s=1.0) as catalogue:
        with catalogue.write() as connection:
            move_head(connection, "snapshot", 1)

        def cut() -> None:
            with catalogue.write() as connection:
                move_head(connection, "snapshot", 2)
                signal_all(server, signal.SIGKILL)
                server.kill()

        with pytest.raises(StoreError, match="write failed"):
            cut()
        began = time.monotonic()
        with pytest.raises(StoreError, match="read failed"):
            catalogue.head("snapshot")
        assert time.monotonic() - began < 20
        server.start()
        assert catalogue.head("snapshot") == 1  # what was not committed is not there, what was is
        with catalogue.write() as connection:
            move_head(connection, "snapshot", 2)

        signal_all(server, signal.SIGSTOP)  # connections stay open, nothing answers
        try:
            began = time.monotonic()
            with pytest.raises(StoreError):
                catalogue.head("snapshot")
            assert time.monotonic() - began < 30
        finally:
            signal_all(server, signal.SIGCONT)
        assert catalogue.head("snapshot") == 2


def test_ids_that_begin_so_and_the_newest_rows(url: str):
    """No wildcards, no other case; what is asked for is all that is read."""
    header = {**vars(make_episode(1).header), "source": "online"}
    row = header | {
        "outcome": "success",
        "stage_score": 1.0,
        "steps": 1,
        "cycle_time_s": 0.1,
        "catalogued_at": 0.0,
    }
    row |= {"intervention_steps": 0, "key": "k", "sha256": "0" * 64, "size": 1}
    names = ["a_1", "ab1", "A_2", "a_2", "b"]
    with Catalogue(url) as catalogue:
        with catalogue.write() as connection:
            connection.execute(sa.insert(tables.episodes), [{**row, "episode_id": name} for name in names])
            gone = {
                "seq": 9,
                "task": "t",
                "robot": "r",
                "key": "k",
                "sha256": "0",
                "size": 1,
                "snapshots": "[]",
            }
            gone |= {"reason": "", "deleted_by": "", "deleted_at": 1.0, "episode_id": "a_0"}
            connection.execute(sa.insert(tables.deletions).values(gone))
        assert catalogue.ids("a_", 9) == ["a_1", "a_2"]
        assert catalogue.ids("a_", 9, deleted=True) == ["a_0", "a_1", "a_2"]
        assert catalogue.ids("a_", 1) == ["a_1"]
        assert catalogue.ids("%", 9) == []
        assert len(catalogue.ids("", 9)) == 5
        found = catalogue.episodes(limit=2, newest=True)
        assert [item.episode_id for item in found] == ["a_2", "b"]
        assert [item.episode_id for item in catalogue.episodes(limit=2)] == ["a_1", "ab1"]
        assert catalogue.episodes(limit=0, newest=True) == []


HOLD = """
import sys
from lwd.log.catalogue import Catalogue
with Catalogue(sys.argv[1], timeout_s=1.0) as catalogue, catalogue.write():
    print("holds", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_writer_that_dies_or_freezes_frees_the_lock(url: str, how: signal.Signals):
    if how == signal.SIGSTOP and not url.startswith("postgresql"):
        pytest.skip("a frozen process keeps its lock on a local file until somebody kills it")
    command = [sys.executable, "-c", HOLD, url]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        os.kill(process.pid, how)
        with Catalogue(url) as catalogue, catalogue.write() as connection:
            move_head(connection, "snapshot", 1)
    finally:
        process.kill()
        process.communicate(timeout=30)
