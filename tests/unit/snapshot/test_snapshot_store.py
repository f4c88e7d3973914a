"""Snapshots: numbered, growing, verified before a single value is used."""

import contextlib
import dataclasses
import hashlib
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from log_cases import Fleet

from lwd.errors import SnapshotError
from lwd.log import tables
from lwd.snapshot import file
from lwd.snapshot.channel import CatalogueChannel, SnapshotChannel
from lwd.snapshot.keys import create_key
from lwd.snapshot.store import SnapshotStore, fetch

META = {"sizes": [64, 64], "text_encoder": "hash", "spec": "arm", "statistics": "ab12"}


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "w": rng.normal(size=(5, 3)).astype(np.float32),
        "b": np.float32(2.5).reshape(()),
        "n": np.arange(4),
    }


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
def store(fleet: Fleet, key: Ed25519PrivateKey) -> SnapshotStore:
    return SnapshotStore(fleet.objects, fleet.catalogue, key)


def test_publish_and_load(store: SnapshotStore, fleet: Fleet, key: Ed25519PrivateKey):
    assert store.latest() is None
    assert store.latest("arm") is None
    assert store.newest() is None
    assert store.list() == []
    published = store.publish(arrays(), learner_step=100, manifest=4, meta=META)
    assert (published.number, published.parent, published.learner_step, published.manifest) == (
        1,
        None,
        100,
        4,
    )
    assert published.key == f"snapshots/{published.sha256}.safetensors"
    assert store.latest() == published
    robot = SnapshotStore(fleet.objects, fleet.catalogue, key.public_key())
    loaded, snapshot = robot.load(1)
    assert snapshot == published
    assert snapshot.meta == META
    for name, array in arrays().items():
        assert loaded[name].dtype == array.dtype
        assert loaded[name].shape == array.shape
        assert loaded[name].tobytes() == array.tobytes()
    second = store.publish(arrays(1), 200, None, {})
    assert (second.number, second.parent, second.manifest) == (2, 1, None)
    assert [snapshot.number for snapshot in robot.list()] == [1, 2]
    assert robot.newest() == 2


def test_it_is_a_plain_safetensors_file(store: SnapshotStore, fleet: Fleet):
    snapshot = store.publish(arrays(), 1, 1, META)
    plain = safetensors.numpy.load(fleet.objects.get(snapshot.key))
    assert plain["w"].tobytes() == arrays()["w"].tobytes()


def test_the_same_policy_may_be_published_twice(store: SnapshotStore, fleet: Fleet):
    first, second = (store.publish(arrays(), 1, 1, META) for _ in range(2))
    assert first.sha256 == second.sha256
    assert (first.number, second.number) == (1, 2)
    assert first.signature != second.signature
    assert len(list(fleet.objects.list("snapshots"))) == 1


def test_slices_transposes_and_bfloat16_are_saved_as_they_look(store: SnapshotStore):
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    given_arrays = {
        "t": base.T,
        "s": base[::2, 1::2],
        "big": base.astype(">f4"),
        "half": base.astype(ml_dtypes.bfloat16),
    }
    loaded, _ = store.load(store.publish(given_arrays, 1, 1, {}).number)
    for name, array in given_arrays.items():
        assert loaded[name].shape == array.shape
        assert np.array_equal(loaded[name].astype(np.float64), array.astype(np.float64))
    assert loaded["half"].dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize(
    ("bad", "meta", "match"),
    [
        ({}, {}, "without arrays"),
        ({"w": np.array([1.0, np.nan])}, {}, "NaN or infinity"),
        ({"w": np.array([np.inf], ml_dtypes.bfloat16)}, {}, "NaN or infinity"),
        ({"w": np.array(["text"])}, {}, "dtype"),
        ({"w": np.array([object()])}, {}, "dtype"),
        ({"__metadata__": np.zeros(2)}, {}, "is named"),
        ({"a\ud800": np.zeros(2)}, {}, "is named"),
        ({"w": np.zeros((1,) * 33)}, {}, "33 dimensions"),
        ({"w": np.zeros(2)}, {"x": float("nan")}, "not JSON"),
        ({"w": np.zeros(2)}, {"x": object()}, "not JSON"),
        ({"w": np.zeros(2)}, {"x": "y" * 70_000}, "bytes, at most"),
    ],
)
def test_what_must_not_reach_a_robot_is_not_published(store: SnapshotStore, fleet: Fleet, bad, meta, match):
    with pytest.raises(SnapshotError, match=match):
        store.publish(bad, 1, 1, meta)
    assert store.newest() is None
    assert list(fleet.objects.list("snapshots")) == []


def test_publishing_needs_the_private_key(fleet: Fleet, key: Ed25519PrivateKey):
    robot = SnapshotStore(fleet.objects, fleet.catalogue, key.public_key())
    with pytest.raises(SnapshotError, match="needs the private key"):
        robot.publish(arrays(), 1, 1, {})


def tamper(fleet: Fleet, at: int, **values: Any) -> None:
    with fleet.catalogue.write() as connection:
        connection.execute(sa.update(tables.snapshots).where(tables.snapshots.c.number == at).values(values))


def test_a_changed_file_is_refused(store: SnapshotStore, fleet: Fleet):
    snapshot = store.publish(arrays(), 1, 1, META)
    path = fleet.folder / "objects" / snapshot.key
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    for changed in (bytes(data), bytes(data[:-5]), bytes(data) + b"x", b""):
        path.write_bytes(changed)
        with pytest.raises(SnapshotError, match="not loaded"):
            store.load(1)
    path.unlink()
    with pytest.raises(SnapshotError, match="does not exist"):
        store.load(1)


def test_a_foreign_key_a_changed_row_and_an_old_policy_as_new_are_refused(store: SnapshotStore, fleet: Fleet):
    stranger = SnapshotStore(fleet.objects, fleet.catalogue, Ed25519PrivateKey.generate().public_key())
    old = store.publish(arrays(), 1, 1, META)
    new = store.publish(arrays(1), 2, 1, META)
    with pytest.raises(SnapshotError, match="another fleet's key"):
        stranger.load(2)
    for values in (
        {"learner_step": 9},
        {"manifest": None},
        {"parent": None},
        {"signature": "00"},
        {"signature": "no hex"},
        {"sha256": old.sha256, "size": old.size, "signature": old.signature},
        {"sha256": "../../etc/passwd"},
    ):
        tamper(fleet, 2, **values)
        with pytest.raises(SnapshotError, match="signature"):
            store.load(2)
        tamper(fleet, 2, **{**vars(new), "meta": json.dumps(dict(new.meta))})
    tamper(fleet, 2, meta=json.dumps({"spec": "lie"}))
    assert store.load(2)[1].meta == META  # what counts is inside the signed file
    tamper(fleet, 2, meta="{")
    with pytest.raises(SnapshotError, match="not JSON"):
        store.load(2)
    with pytest.raises(SnapshotError, match="snapshot 7 does not exist; the newest is 2"):
        store.load(7)


def test_a_signed_file_of_another_format_is_refused(
    store: SnapshotStore, fleet: Fleet, key: Ed25519PrivateKey
):
    snapshot = store.publish(arrays(), 1, 1, META)
    for data in (
        b"",
        b"\x80\x04pickle",
        safetensors.numpy.save({"w": np.zeros(3)}),
        struct.pack("<Q", 2**60) + b"{}",
    ):
        sha256 = hashlib.sha256(data).hexdigest()
        fleet.objects.put_once(f"snapshots/{sha256}.safetensors", data)
        forged = dataclasses.replace(snapshot, sha256=sha256, size=len(data))
        forged = dataclasses.replace(forged, signature=key.sign(forged.signed_bytes()).hex())
        with pytest.raises(SnapshotError, match="not a snapshot file"):
            fetch(fleet.objects, forged, key.public_key())


@given(st.binary(max_size=200), st.integers(0, 300))
@settings(max_examples=150, deadline=None)
def test_garbage_raises_only_snapshot_errors(garbage, place):
    data = file.pack({"w": np.zeros((3, 2), np.float32)}, META)
    for attempt in (garbage, data[:place] + garbage, data[:place] + garbage + data[place + len(garbage) :]):
        with contextlib.suppress(SnapshotError):
            file.unpack(attempt, "here")


def test_the_arrays_are_views_of_the_file():
    """A snapshot of 600 MB is held once, not twice."""
    data = file.pack(arrays(), META)
    loaded, _ = file.unpack(data, "here")
    whole = np.frombuffer(data, np.uint8)
    assert all(np.shares_memory(array, whole) for array in loaded.values())
    assert not any(array.flags.writeable for array in loaded.values())


def rewritten(data: bytes, change: Callable[[dict[str, Any]], object], more: bytes = b"") -> bytes:
    """The file with another header."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :] + more


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header["w"].update(data_offsets=[0, 12]),
        lambda header: header["w"].update(data_offsets=[8, 68]),
        lambda header: header["w"].update(data_offsets=header["n"]["data_offsets"]),
        lambda header: header["w"].update(shape=[-5, -3]),
        lambda header: header["w"].update(shape=[5.0, 3]),
        lambda header: header["w"].update(shape=[2**62, 2**62]),
        lambda header: header["w"].update(shape=[1] * 100 + [5, 3]),
        lambda header: header["w"].update(dtype="F128"),
        lambda header: header["w"].update(data_offsets=None),
        lambda header: header.update(w=[1, 2]),
        lambda header: header.pop("w"),
        lambda header: header.pop("__metadata__"),
    ],
)
def test_a_header_that_lies_is_refused(change: Callable[[dict[str, Any]], object]):
    data = file.pack(arrays(), META)
    assert file.unpack(rewritten(data, lambda header: None), "here")[1] == META
    with pytest.raises(SnapshotError, match="not a snapshot file"):
        file.unpack(rewritten(data, change), "here")


def test_bytes_that_belong_to_no_array_are_refused():
    with pytest.raises(SnapshotError, match="after the last array"):
        file.unpack(rewritten(file.pack(arrays(), META), lambda header: None, more=b"hidden"), "here")


@given(st.integers(0, 400), st.binary(min_size=1, max_size=8))
@settings(max_examples=150, deadline=None)
def test_what_is_accepted_is_what_the_library_reads(place: int, noise: bytes):
    """safetensors' own reader is the judge of what a damaged file holds."""
    data = file.pack(arrays(), META)
    damaged = data[:place] + noise + data[place + len(noise) :]
    with contextlib.suppress(SnapshotError):
        loaded, _ = file.unpack(damaged, "here")
        judged = {name: bytes(info["data"]) for name, info in safetensors.deserialize(damaged)}
        assert {name: array.tobytes() for name, array in loaded.items()} == judged


def test_the_channel_follows_the_head(store: SnapshotStore):
    channel = CatalogueChannel(store, cache_s=0.0)
    cached = CatalogueChannel(store, cache_s=1000.0)
    assert isinstance(channel, SnapshotChannel)
    assert (channel.newest(), cached.newest()) == (None, None)
    snapshot = store.publish(arrays(), 1, 1, {})
    assert (channel.newest(), cached.newest()) == (1, None)
    cached.announce(snapshot)
    assert cached.newest() == 1


PUBLISH = """
import sys
import numpy as np
from pathlib import Path
from lwd.log.catalogue import Catalogue
from lwd.log.objects import ObjectStore
from lwd.snapshot.keys import load_private_key
from lwd.snapshot.store import SnapshotStore

folder = Path(sys.argv[1])
with Catalogue(folder / "catalogue.db") as catalogue:
    store = SnapshotStore(ObjectStore(folder / "objects"), catalogue, load_private_key(folder / "key"))
    for step in range(15):
        store.publish({"w": np.full(3, step, np.float32)}, step, 1, {"who": sys.argv[2]})
"""


def test_two_learners_at_once_never_share_a_number(fleet: Fleet, tmp_path: Path):
    key = create_key(tmp_path / "key")
    command = [sys.executable, "-c", PUBLISH, str(fleet.folder)]
    processes = [subprocess.Popen([*command, who]) for who in ("a", "b")]
    store = SnapshotStore(fleet.objects, fleet.catalogue, key.public_key())
    seen = [0]
    while any(process.poll() is None for process in processes):
        seen.append(store.newest() or 0)
    assert [process.returncode for process in processes] == [0, 0]
    assert seen == sorted(seen)
    snapshots = store.list()
    assert [snapshot.number for snapshot in snapshots] == list(range(1, 31))
    assert [snapshot.parent for snapshot in snapshots] == [None, *range(1, 30)]
    for snapshot in snapshots:
        store.load(snapshot.number)
