"""What every object store must do. Another implementation joins by adding its opener to `STORES`."""

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lwd.errors import ConfigError, StoreError
from lwd.log.objects import (
    MissingObjectError,
    ObjectSink,
    ObjectSource,
    ObjectStore,
    TooLargeError,
    check_key,
)

STORES: dict[str, Callable[[Path], ObjectStore]] = {
    "path": lambda folder: ObjectStore(folder / "objects"),
    "file url": lambda folder: ObjectStore(f"file://{folder}/with%20space/objects"),
    "memory": lambda folder: ObjectStore(
        "memory:///"
    ),  # stands for a remote store: other code, no local files
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return STORES[request.param](tmp_path)


def test_put_once_get_exists_size_list(store: ObjectStore):
    assert isinstance(store, ObjectSink)
    assert isinstance(store, ObjectSource)
    assert store.put_once("episodes/a/1", b"one") is True
    assert store.put_once("episodes/b/2", b"") is True
    assert store.get("episodes/a/1") == b"one"
    assert store.get("episodes/b/2") == b""
    assert (store.size("episodes/a/1"), store.exists("episodes/a/1")) == (3, True)
    assert store.exists("episodes/a") is False
    assert sorted(store.list()) == ["episodes/a/1", "episodes/b/2"]
    assert list(store.list("episodes/a")) == ["episodes/a/1"]
    assert list(store.list("snapshots")) == []


def test_putting_again_is_success_and_changes_nothing(store: ObjectStore):
    assert store.put_once("k", b"one") is True
    assert store.put_once("k", b"one") is False
    with pytest.raises(StoreError, match="immutable"):
        store.put_once("k", b"two")
    assert store.get("k") == b"one"


def test_a_torn_object_under_its_own_hash_is_mended(store: ObjectStore):
    """What a power cut can leave: the name, but not all of the bytes."""
    data = b"the whole episode"
    key = f"episodes/e/{hashlib.sha256(data).hexdigest()}"
    store.put_once(key, data[:5])
    assert store.put_once(key, data) is True
    assert store.get(key) == data
    assert store.put_once(key, data) is False


def test_what_is_missing_or_too_large(store: ObjectStore):
    for ask in (store.get, store.size):
        with pytest.raises(MissingObjectError, match="'nothing/here' does not exist"):
            ask("nothing/here")
    store.put_once("k", b"12345")
    assert store.get("k", 5) == b"12345"
    with pytest.raises(TooLargeError, match="5 bytes"):
        store.get("k", 4)


TRAVERSAL = [
    "",
    "/etc/passwd",
    "../x",
    "a/../../x",
    "a/..",
    "./a",
    "a/./b",
    "a//b",
    "a/",
    "a\\b",
    "a b",
    "a\0b",
    "ä",
    "%2e%2e/x",
    "...",
    "a" * 513,
]


@pytest.mark.parametrize("key", TRAVERSAL)
def test_keys_that_could_leave_the_store_are_refused(store: ObjectStore, key: str):
    for use in (lambda: store.put_once(key, b"x"), lambda: store.get(key), lambda: store.exists(key)):
        with pytest.raises(StoreError, match="not allowed"):
            use()


@given(st.text(max_size=30))
@settings(max_examples=300, deadline=None)
def test_an_allowed_key_stays_below_the_root(key: str):
    try:
        check_key(key)
    except StoreError:
        return
    assert os.path.normpath(f"/base/{key}") == f"/base/{key}"


def test_large_objects_and_odd_bytes(store: ObjectStore):
    data = os.urandom(12_000_000)
    store.put_once("large", data)
    assert store.get("large") == data


def test_of_many_writers_one_creates(store: ObjectStore):
    barrier = threading.Barrier(8)
    created: list[bool] = []

    def put() -> None:
        barrier.wait()
        created.append(store.put_once("k", b"same bytes" * 1000))

    threads = [threading.Thread(target=put) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(created) == [False] * 7 + [True]


PUT = """
import sys
from lwd.log.objects import ObjectStore
store = ObjectStore(sys.argv[1])
print(sum(store.put_once(f"k/{i}", b"x" * 20000) for i in range(60)))
"""


def test_a_reader_never_sees_half_an_object(tmp_path: Path):
    url = str(tmp_path / "objects")
    command = [sys.executable, "-c", PUT, url]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    store = ObjectStore(url)
    while any(process.poll() is None for process in processes):
        for key in store.list():
            assert store.get(key) == b"x" * 20000
    created = [int(process.communicate()[0]) for process in processes]
    assert sum(created) == 60
    assert sorted(store.list()) == sorted(f"k/{i}" for i in range(60))


def test_urls_that_cannot_work_say_why(tmp_path: Path):
    with pytest.raises(ConfigError, match="empty"):
        ObjectStore("")
    with pytest.raises(ConfigError, match="three slashes"):
        ObjectStore("file://data/objects")
    with pytest.raises(StoreError, match="cannot be opened"):
        ObjectStore("gopher://x/y")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be opened"):
        ObjectStore(tmp_path / "file" / "objects")


def test_a_disk_that_refuses_is_a_store_error(tmp_path: Path):
    store = ObjectStore(tmp_path / "objects")
    (tmp_path / "objects" / "folder").write_text("a file where a folder must be")
    with pytest.raises(StoreError, match="put 'folder/k' failed"):
        store.put_once("folder/k", b"x")
