"""Backup of a running catalogue and restore into an empty one, from either engine into either."""

import dataclasses
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from log_cases import Fleet, make_episode, open_fleet

from lwd.errors import StoreError
from lwd.log import manifest, tables
from lwd.log.backup import backup, restore
from lwd.log.catalogue import Catalogue
from lwd.log.deletion import delete, deletions, finish, lineage
from lwd.log.robots import invite

Urls = Callable[[str], str]


@pytest.fixture
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> Urls:
    """Empty databases by engine."""

    def new(engine: str) -> str:
        name = f"backup_{uuid.uuid4().hex}"
        if engine == "sqlite":
            return str(tmp_path / f"{name}.db")
        return request.getfixturevalue("postgres_server").create_database(name)

    return new


@pytest.fixture(params=["sqlite", "postgres"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path, urls: Urls) -> Iterator[Fleet]:
    with open_fleet(tmp_path, urls(request.param)) as opened:
        yield opened


def fill(fleet: Fleet) -> None:
    """Something in every table; the last episode is deleted again, so a number is used that no row has."""
    for _ in range(5):
        fleet.send_episode(make_episode(2, instruction="ein Ü ☃"))
    fleet.drain()
    fleet.coordinator.commit()
    invite(fleet.catalogue, "robot-1", "arm")
    fleet.bus.publish("episodes.robot-1", {"not": "an event"})
    fleet.drain()
    fleet.bus.publish("status.robot-1", {"waits": True})
    row = {
        "number": 1,
        "learner_step": 1,
        "manifest": 1,
        "sha256": "0",
        "size": 1,
        "signature": "",
        "key": "k",
    }
    with fleet.catalogue.write() as connection:
        connection.execute(
            sa.insert(tables.snapshots).values(**row, created_at=0.0, status="published", meta="{}")
        )
        release = {"kind": "arm", "edition": 1, "body": "{}", "signature": "0"}
        connection.execute(sa.insert(tables.releases).values(release))
        connection.execute(sa.insert(tables.claims).values(episode_id="x", robot="r", claimed_at=1.0))
    last = fleet.catalogue.episodes()[-1]
    delete(fleet.catalogue, fleet.objects, last.episode_id, reason="consent", deleted_by="me")


def content(catalogue: Catalogue) -> dict[str, list[tuple[object, ...]]]:
    with catalogue.read() as connection:
        return {
            table.name: [
                tuple(row) for row in connection.execute(sa.select(table).order_by(*table.primary_key))
            ]
            for table in tables.metadata.sorted_tables
        }


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
def test_everything_is_there_again(fleet: Fleet, urls: Urls, tmp_path: Path, engine: str):
    fill(fleet)
    saved = tmp_path / "backup.db"
    report = backup(fleet.catalogue, saved)
    assert report.rows == {
        "claims": 1, "deletions": 1, "episodes": 4, "events": 1, "heads": 1, "manifests": 1, "quarantine": 1,
        "releases": 1, "robots": 1, "snapshots": 1,
    }  # fmt: skip
    assert report.heads == {"manifest": 1}
    assert [path.name for path in tmp_path.glob("backup.db*")] == ["backup.db"]
    target = urls(engine)
    before = saved.read_bytes()
    assert restore(saved, target) == report
    assert saved.read_bytes() == before
    assert [path.name for path in tmp_path.glob("backup.db*")] == ["backup.db"]
    with Catalogue(saved) as copy, open_fleet(tmp_path, target) as again:
        expected = content(fleet.catalogue)
        assert content(copy) == expected
        assert content(again.catalogue) == expected
        again.send_episode(make_episode(2))  # and it works on, with numbers that were never used
        again.drain()
        assert again.catalogue.episodes()[-1].seq > 5
        committed = again.coordinator.commit()
        assert committed is not None
        assert (committed.number, committed.episodes) == (2, 5)
        assert again.bus.consume("status.robot-1")[0].payload == {"waits": True}
    with pytest.raises(StoreError, match="is not empty"):
        restore(saved, target)
    with pytest.raises(StoreError, match="exists already"):
        backup(fleet.catalogue, saved)


def test_a_backup_is_one_moment_of_a_running_fleet(fleet: Fleet, tmp_path: Path):
    stop, committed = threading.Event(), [0]

    def work() -> None:
        while not stop.is_set():
            fleet.send_episode(make_episode(2))
            fleet.drain()
            made = fleet.coordinator.commit()
            committed[0] = made.number if made else committed[0]

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for number in range(3):
            while committed[0] < 3 * (number + 1):
                time.sleep(0.01)
            backup(fleet.catalogue, tmp_path / f"{number}.db")
    finally:
        stop.set()
        thread.join(60)
    for number in range(3):
        with Catalogue(tmp_path / f"{number}.db") as copy:
            newest = manifest.latest(copy)
            assert newest is not None
            held = manifest.members(copy, newest)
            assert len(held) == newest.episodes >= 3 * (number + 1)


def test_what_cannot_be_backed_up_or_restored(tmp_path: Path):
    with Catalogue(tmp_path / "catalogue.db") as catalogue:
        with pytest.raises(StoreError, match=r"cannot be written|cannot be made"):
            backup(catalogue, tmp_path / "catalogue.db" / "x")
        (tmp_path / "text").write_text("not a database" * 100)
        with pytest.raises(StoreError, match="not a database"):
            restore(tmp_path / "text", tmp_path / "new.db")
        with pytest.raises(StoreError, match="does not exist"):
            restore(tmp_path / "nothing", tmp_path / "new.db")


def test_the_lineage_of_a_deleted_episode(fleet: Fleet):
    first, second = make_episode(2), make_episode(2)
    for episode in (first, second):
        fleet.send_episode(episode)
        fleet.drain()
        fleet.coordinator.commit()
    row = {"learner_step": 1, "sha256": "0", "size": 1, "signature": "", "key": "k"}
    with fleet.catalogue.write() as connection:
        for number, seen in ((1, None), (2, 1), (3, 2), (4, 2)):
            values = {**row, "number": number, "manifest": seen}
            connection.execute(
                sa.insert(tables.snapshots).values(**values, created_at=0.0, status="published", meta="{}")
            )
    expected = lineage(fleet.catalogue, second.header.episode_id)
    assert fleet.catalogue.episode(second.header.episode_id) is not None  # it only looked
    gone = delete(
        fleet.catalogue, fleet.objects, second.header.episode_id, reason="blurred", deleted_by="kim"
    )
    assert (gone.first_manifest, gone.last_manifest, gone.snapshots) == (2, 2, (3, 4))
    assert (expected.first_manifest, expected.snapshots) == (2, (3, 4))
    assert (gone.reason, gone.deleted_by, gone.seq) == ("blurred", "kim", 2)
    assert fleet.objects.exists(gone.key) is False
    assert deletions(fleet.catalogue) == [gone]
    assert delete(fleet.catalogue, fleet.objects, gone.episode_id, reason="again", deleted_by="x") == gone
    fleet.send_episode(second)
    assert fleet.coordinator.step().duplicates == 1
    (late,) = deletions(fleet.catalogue)
    assert late == dataclasses.replace(gone, object_deleted_at=None)
    assert finish(fleet.catalogue, fleet.objects) == 1
    assert finish(fleet.catalogue, fleet.objects) == 0
    assert fleet.objects.exists(gone.key) is False
    assert [row.episode_id for row in fleet.catalogue.episodes()] == [first.header.episode_id]
    assert fleet.coordinator.commit() is None
    with fleet.catalogue.write() as connection:  # by the learner that still has it in its replay
        values = {**row, "number": 5, "manifest": 2, "created_at": 0.0, "status": "published", "meta": "{}"}
        connection.execute(sa.insert(tables.snapshots).values(values))
    assert deletions(fleet.catalogue)[0].snapshots == (3, 4, 5)
    with pytest.raises(StoreError, match="no episode 'nobody'"):
        delete(fleet.catalogue, fleet.objects, "nobody", reason="", deleted_by="")
