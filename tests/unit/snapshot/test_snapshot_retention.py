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
from lwd.snapshot.promotion import Release
from lwd.snapshot.releases import ReleaseStore
from lwd.snapshot.store import SnapshotStore

KEY = Ed25519PrivateKey.generate()


@pytest.fixture
def store(fleet: Fleet) -> SnapshotStore:
    """1 sft, 2 and 3 offline, 4 of another kind, 5 to 9 online; 6 has the bytes of 9."""
    store = SnapshotStore(fleet.objects, fleet.catalogue, KEY)
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
    assert store.read(5).status == "removed", "nobody may begin to use it"
    assert fleet.objects.exists(store.read(5).key)
    found = retention.plan(fleet.catalogue, 1)
    assert [snapshot.number for snapshot in found.remove] == [7, 8]
    retention.apply(fleet.catalogue, fleet.objects, found)
    assert len(list(fleet.objects.list("snapshots"))) == 4


def test_what_a_kill_left_goes_with_the_next_run_though_nothing_else_does(
    fleet: Fleet, store: SnapshotStore, monkeypatch
):
    def killed(*_):
        raise KeyboardInterrupt

    unnamed = f"snapshots/{'ab' * 32}.safetensors"
    fleet.objects.put_once(unnamed, b"its row is about to be written")
    with monkeypatch.context() as patched:
        patched.setattr(ObjectStore, "delete", killed)
        with pytest.raises(KeyboardInterrupt):
            retention.apply(fleet.catalogue, fleet.objects, retention.plan(fleet.catalogue, 4, also=[5, 3]))
    assert store.read(2).status == "removed"
    found = retention.plan(fleet.catalogue, 99)
    assert found.remove == ()
    retention.apply(fleet.catalogue, fleet.objects, found)
    assert not fleet.objects.exists(store.read(2).key)
    assert fleet.objects.exists(unnamed)
    for number in (1, *range(3, 10)):
        assert store.load(number)[1].number == number


def test_what_is_needed_since_the_plan_keeps_its_bytes(fleet: Fleet, store: SnapshotStore):
    made = ReleaseStore(fleet.catalogue, store, KEY)
    values = {"edition": 1, "kind": "arm", "reason": "a test", "created_at": 0.0}
    first = made.issue(Release(stable=9, **values), after=None)
    store.publish({"w": np.full(3, 12.0, np.float32)}, 12, 1, store.read(9).meta)
    plan = retention.plan(fleet.catalogue, 2)
    assert [snapshot.number for snapshot in plan.remove] == [2, 5, 7, 8]
    # While it runs: one is pinned, one is promoted and left again, a robot comes back with one, one is published once more.
    made.issue(Release(stable=2, pins={"r1": 5}, **values), after=first)
    made.issue(Release(stable=9, pins={"r1": 5}, **values), after=made.newest("arm"))
    record_statuses(fleet.catalogue, [says("robot-1", 7)])
    arrays, row = store.load(8)
    assert store.publish(arrays, 8, 1, row.meta).number == 11
    done = retention.apply(fleet.catalogue, fleet.objects, plan)
    assert (done.remove, done.freed) == ((), 0)
    why = {snapshot.number: why for snapshot, why in done.stay}
    assert list(why) == [*range(1, 11)]
    assert why[2] == "the stable one before that of release 3 for robots of kind arm"
    assert (why[5], why[7], why[8]) == (
        "pinned for r1",
        "robot-1 uses it",
        "its bytes are those of one that stays",
    )
    for number in range(1, 12):
        assert store.load(number)[1].number == number
    made.issue(Release(stable=9, **values), after=made.newest("arm"))
    done = retention.apply(fleet.catalogue, fleet.objects, plan)
    assert [snapshot.number for snapshot in done.remove] == [5]
    assert store.read(5).status == "removed"


def test_bytes_of_two_go_with_the_second(fleet: Fleet, store: SnapshotStore):
    row = store.read(9)
    store.publish({"w": np.full(3, 7.0, np.float32)}, 7, 1, row.meta)  # 10, with the bytes of 7
    store.publish({"w": np.full(3, 12.0, np.float32)}, 12, 1, row.meta)
    plan = retention.plan(fleet.catalogue, 1)
    assert {7, 10} <= {snapshot.number for snapshot in plan.remove}
    record_statuses(fleet.catalogue, [says("robot-1", 10)])
    done = retention.apply(fleet.catalogue, fleet.objects, plan)
    assert done.freed == plan.freed - store.read(10).size
    assert store.load(10)[1].number == 10
    record_statuses(fleet.catalogue, [says("robot-1", 11)])
    done = retention.apply(fleet.catalogue, fleet.objects, retention.plan(fleet.catalogue, 1))
    assert [snapshot.number for snapshot in done.remove] == [10]
    assert not fleet.objects.exists(store.read(10).key)


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
