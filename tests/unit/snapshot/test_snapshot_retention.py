"""Snapshots within bounds: what is needed keeps its bytes, of the others the row stays and says so."""

import json
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from log_cases import Fleet

from lwd.errors import ConfigError, SnapshotError, StoreError
from lwd.log.deletion import _published
from lwd.log.objects import ObjectStore
from lwd.log.status import StatusRow, record_statuses
from lwd.snapshot import retention
from lwd.snapshot.store import SnapshotStore


@pytest.fixture
def store(fleet: Fleet) -> SnapshotStore:
    """1 sft, 2 and 3 offline, 4 of another kind, 5 to 9 online; 6 has the bytes of 9."""
    store = SnapshotStore(fleet.objects, fleet.catalogue, Ed25519PrivateKey.generate())
    published = [
        ("sft", "arm"),
        ("offline", "arm"),
        ("offline", "arm"),
        ("sft", "leg"),
        *[("online", "arm")] * 5,
    ]
    for number, (stage, kind) in enumerate(published, 1):
        arrays = {"w": np.full(3, 6 if number == 9 else number, np.float32)}
        store.publish(arrays, number, 1, {"stage": stage, "robot_spec": kind})
    return store


def says(name: str, snapshot: object) -> StatusRow:
    return StatusRow(name=name, role="robot", sent_at=1.0, received_at=1.0, payload={"snapshot": snapshot})


def test_what_stays_and_why(fleet: Fleet, store: SnapshotStore):
    found = retention.plan(fleet.catalogue, 1)
    assert [(snapshot.number, why) for snapshot, why in found.stay] == [
        (1, "the newest of stage sft for robots of kind arm"),
        (3, "the newest of stage offline for robots of kind arm"),
        (4, "the newest of stage sft for robots of kind leg"),
        (6, "its bytes are those of one that stays"),
        (9, "one of the newest 1"),
    ]
    assert [snapshot.number for snapshot in found.remove] == [2, 5, 7, 8]
    assert found.freed == sum(snapshot.size for snapshot in found.remove)
    record_statuses(fleet.catalogue, [says("robot-1", 5), says("robot-2", "x"), says("robot-3", 10**30)])
    found = retention.plan(fleet.catalogue, 2, also=[2])
    why = {snapshot.number: why for snapshot, why in found.stay}
    assert (why[2], why[5], why[8]) == ("named", "robot-1 uses it", "one of the newest 2")
    assert [snapshot.number for snapshot in found.remove] == [7]
    assert retention.plan(fleet.catalogue, 99).remove == ()
    assert len(list(fleet.objects.list("snapshots"))) == 8  # a plan removes nothing


def test_a_removed_snapshot_keeps_its_row_and_says_so(fleet: Fleet, store: SnapshotStore):
    with fleet.catalogue.read() as connection:
        lineage = _published(connection, 0)
    retention.apply(fleet.catalogue, fleet.objects, retention.plan(fleet.catalogue, 1))
    rows = {snapshot.number: snapshot for snapshot in store.list()}
    assert [number for number, row in rows.items() if row.status == "removed"] == [2, 5, 7, 8]
    for number, row in rows.items():
        assert fleet.objects.exists(row.key) == (row.status == "published")
        if row.status == "removed":
            with pytest.raises(
                SnapshotError, match=f"snapshot {number} was removed by `lwd snapshot retain`"
            ):
                store.load(number)
        else:
            assert store.load(number)[1].number == number
    with fleet.catalogue.read() as connection:
        assert _published(connection, 0) == lineage
    assert retention.plan(fleet.catalogue, 1).remove == ()
    with pytest.raises(ConfigError, match="no snapshot 2 has its bytes"):
        retention.plan(fleet.catalogue, 1, also=[9, 2])
    with pytest.raises(ConfigError, match="expected 1 or more"):
        retention.plan(fleet.catalogue, 0)
    assert store.publish({"w": np.zeros(3, np.float32)}, 10, 1, {"stage": "online"}).number == 10


def test_what_the_store_cut_off_is_found_again(fleet: Fleet, store: SnapshotStore, monkeypatch):
    removed = list[str]()
    delete = ObjectStore.delete

    def once(objects: ObjectStore, key: str) -> bool:
        if removed:
            raise StoreError("the store is down")
        removed.append(key)
        return delete(objects, key)

    with monkeypatch.context() as patched:
        patched.setattr(ObjectStore, "delete", once)
        with pytest.raises(StoreError, match="down"):
            retention.apply(fleet.catalogue, fleet.objects, retention.plan(fleet.catalogue, 1))
    found = retention.plan(fleet.catalogue, 1)
    assert [snapshot.number for snapshot in found.remove] == [5, 7, 8]
    retention.apply(fleet.catalogue, fleet.objects, found)
    assert len(list(fleet.objects.list("snapshots"))) == 4


def test_the_command_shows_first_and_removes_when_told(lwd, run_folder: Path):
    asked = ["snapshot", "retain", "--keep", "1", "--out", run_folder]
    code, out, err = lwd(*asked)
    assert code == 0
    assert "one of the newest 1" in out
    assert "1 would go" in out
    assert "nothing was removed" in err
    assert len(list((run_folder / "objects" / "snapshots").iterdir())) == 2
    found = json.loads(lwd(*asked, "--json", "--yes")[1])
    assert (found["remove"], [row["number"] for row in found["stay"]]) == ([1], [2])
    assert len(list((run_folder / "objects" / "snapshots").iterdir())) == 1
    rows = json.loads(lwd("snapshot", "ls", "--json", "--out", run_folder)[1])
    assert [row["status"] for row in rows] == ["removed", "published"]
    assert lwd(*asked[:3], "0", *asked[4:])[0] == 2
