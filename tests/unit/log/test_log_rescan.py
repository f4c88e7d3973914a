"""Rescan: what a restored catalogue has forgotten is found in the store and counted once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from log_cases import SPEC, TASK, Fleet, make_episode, open_fleet

from lwd.errors import StoreError
from lwd.log import manifest
from lwd.log.backup import backup, restore
from lwd.log.coordinator import StepReport
from lwd.log.deletion import delete
from lwd.log.objects import ObjectStore
from lwd.log.rescan import RescanReport, rescan, uncounted

FLEET = ({SPEC.name: SPEC}, {TASK.name: TASK})


@pytest.fixture
def restored(tmp_path: Path) -> Iterator[Fleet]:
    """A fleet whose catalogue was restored from a backup; its store holds what came before and after."""
    with open_fleet(tmp_path) as fleet:
        for name in ("a", "b"):
            fleet.send_episode(make_episode(2, episode_id=name))
        fleet.send(b"rubbish", "refused-before")
        fleet.drain()
        fleet.coordinator.commit()
        delete(fleet.catalogue, fleet.objects, "b", reason="consent", deleted_by="kim")
        backup(fleet.catalogue, tmp_path / "backup.db")
        for name in ("c", "d"):
            fleet.send_episode(make_episode(2, episode_id=name, robot="robot-2"))
        fleet.send(b"rubbish", "refused-since")
        fleet.drain()
    restore(tmp_path / "backup.db", tmp_path / "new.db")
    with open_fleet(tmp_path, str(tmp_path / "new.db")) as fleet:
        fleet.send_episode(make_episode(2, episode_id="b"))  # a robot that was away delivers what is deleted
        fleet.drain()
        yield fleet


def test_what_the_backup_did_not_have_is_counted_once(restored: Fleet):
    found = uncounted(restored.catalogue, restored.objects)
    assert [item.episode_id for item in found] == ["c", "d", "refused-since"]
    assert all(restored.objects.size(item.key) == item.size for item in found)
    assert [row.episode_id for row in restored.catalogue.episodes()] == ["a"]  # it only looked
    report = rescan(restored.catalogue, restored.objects, *FLEET, found)
    assert report == RescanReport(catalogued=2, quarantined=1)
    rows = restored.catalogue.episodes()
    assert [(row.episode_id, row.robot) for row in rows] == [
        ("a", "robot-1"),
        ("c", "robot-2"),
        ("d", "robot-2"),
    ]
    assert [(row.episode_id, row.robot) for row in restored.catalogue.quarantined()] == [
        ("refused-before", "robot-1"),
        ("refused-since", "rescan"),
    ]
    newest = manifest.latest(restored.catalogue)
    assert newest is not None
    assert manifest.members(restored.catalogue, newest) == rows
    assert uncounted(restored.catalogue, restored.objects) == []
    assert rescan(restored.catalogue, restored.objects, *FLEET, found) == RescanReport(
        catalogued=0, quarantined=0
    )
    assert restored.catalogue.episodes() == rows


def test_a_robot_that_delivers_meanwhile_and_a_crash_change_nothing(restored: Fleet, monkeypatch):
    found = uncounted(restored.catalogue, restored.objects)

    def deliver(name: str) -> None:
        (key,) = (item.key for item in found if item.episode_id == name)
        restored.send(restored.objects.get(key), name, "robot-2")

    deliver("c")

    def down(*_: object) -> bytes:
        raise StoreError("the store is down")

    with monkeypatch.context() as patched:
        patched.setattr(ObjectStore, "get", down)
        with pytest.raises(StoreError, match="down"):
            rescan(restored.catalogue, restored.objects, *FLEET, found)
    assert [row.episode_id for row in restored.catalogue.episodes()] == ["a"]
    restored.drain()
    rescan(restored.catalogue, restored.objects, *FLEET, found)
    deliver("d")
    assert restored.coordinator.step() == StepReport(duplicates=1)
    names = [row.episode_id for row in restored.catalogue.episodes()]
    assert sorted(names) == ["a", "c", "d"]


def test_bytes_that_were_given_up_as_missing_are_found_when_they_are_there(restored: Fleet, monkeypatch):
    monkeypatch.setattr("lwd.log.admission.MISSING_LOOKS", 1)
    event = restored.send_episode(make_episode(2, episode_id="late"))
    data = restored.objects.get(event.key)
    restored.objects.delete(event.key)
    restored.drain()
    assert "late" in [row.episode_id for row in restored.catalogue.quarantined(reason="missing")]
    restored.objects.put_once(event.key, data)
    found = [item for item in uncounted(restored.catalogue, restored.objects) if item.episode_id == "late"]
    assert rescan(restored.catalogue, restored.objects, *FLEET, found) == RescanReport(
        catalogued=1, quarantined=0
    )
    assert restored.catalogue.quarantined(reason="missing") == []


def test_the_command_shows_first_and_counts_when_told(lwd, restored: Fleet):
    catalogue, objects = str(restored.folder / "new.db"), str(restored.folder / "objects")
    asked = ["log", "rescan", "--catalogue", catalogue, "--objects", objects, "--recipe", "metaworld_quick"]
    code, out, err = lwd(*asked)
    assert code == 0
    assert "3 found, 0 catalogued, 0 quarantined" in out
    assert "nothing was catalogued" in err
    code, out, _ = lwd(*asked, "--yes")
    assert code == 0
    assert "3 found, 0 catalogued, 3 quarantined" in out  # that recipe's robots are others
