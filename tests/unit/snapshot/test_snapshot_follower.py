"""A robot takes the newest snapshot, skips what lies between, and believes nothing that is old or not signed."""

import dataclasses

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from log_cases import Fleet

from lwd.errors import StoreError
from lwd.snapshot.follower import SnapshotFollower
from lwd.snapshot.store import Snapshot, SnapshotStore

KEY = Ed25519PrivateKey.generate()


class Counting:
    """An object source that counts downloads."""

    def __init__(self, inner) -> None:
        self.inner, self.asked = inner, []

    def get(self, key: str, max_bytes: int | None = None) -> bytes:
        self.asked.append(key)
        return self.inner.get(key, max_bytes)


def publish(store: SnapshotStore, value: int) -> Snapshot:
    return store.publish({"a": np.full(2, value, np.float32)}, value, manifest=None, meta={"value": value})


def test_a_robot_that_was_away_downloads_one_snapshot(fleet: Fleet):
    store, objects = SnapshotStore(fleet.objects, fleet.catalogue, KEY), Counting(fleet.objects)
    follower = SnapshotFollower(store.latest, objects, KEY.public_key())
    assert follower.poll() is None
    publish(store, 1)
    found = follower.poll()
    assert found is not None
    assert found[1].number == 1
    for value in range(2, 9):
        publish(store, value)
    arrays, snapshot = follower.poll() or pytest.fail("nothing was loaded")
    assert (snapshot.number, float(arrays["a"][0]), snapshot.meta) == (8, 8.0, {"value": 8})
    assert follower.poll() is None
    assert len(objects.asked) == 2
    assert (follower.number, follower.skipped) == (8, 6)


def test_nothing_old_foreign_or_changed_is_loaded(fleet: Fleet, caplog):
    store = SnapshotStore(fleet.objects, fleet.catalogue, KEY)
    first, second = publish(store, 1), publish(store, 2)
    rows = [second]
    objects = Counting(fleet.objects)
    follower = SnapshotFollower(lambda: rows[0], objects, KEY.public_key())
    assert follower.poll() is not None
    foreign = SnapshotStore(fleet.objects, fleet.catalogue, Ed25519PrivateKey.generate())
    replays = [
        first,  # an old announcement, still well signed
        dataclasses.replace(first, number=9),  # an old policy as the newest
        dataclasses.replace(second, number=3),
        publish(foreign, 3),
    ]
    for row in replays:
        rows[0] = row
        assert follower.poll() is None
    assert (follower.number, len(objects.asked)) == (2, 1)  # not even downloaded
    third = publish(store, 5)
    rows[0] = third
    assert fleet.objects.root is not None
    path = fleet.objects.root / third.key
    good = path.read_bytes()
    path.write_bytes(good[:-1] + b"\1")
    assert follower.poll() is None
    assert "sha256" in caplog.text
    path.write_bytes(good)
    found = follower.poll()
    assert found is not None
    assert found[1].number == third.number


def test_it_goes_on_with_what_it_has_where_nobody_answers(fleet: Fleet):
    def silent() -> Snapshot | None:
        raise StoreError("no link")

    follower = SnapshotFollower(silent, fleet.objects, KEY.public_key(), at_least=4)
    assert follower.poll() is None
    assert follower.number == 4
