"""What every object store must do. Another implementation joins by adding its opener to `STORES`."""

import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import S3Server, free_port

from lwd.errors import ConfigError, StoreError
from lwd.log.calls import LocalCalls
from lwd.log.catalogue import Catalogue
from lwd.log.granted_objects import GrantedObjects, Transfer
from lwd.log.grants import Grants
from lwd.log.objects import (
    MissingObjectError,
    ObjectSink,
    ObjectSource,
    ObjectStore,
    TooLargeError,
    check_key,
)
from lwd.log.robots import invite
from lwd.log.s3 import Credentials, presign

STORES: dict[str, Callable[[Path], ObjectStore]] = {
    "path": lambda folder: ObjectStore(folder / "objects"),
    "file url": lambda folder: ObjectStore(f"file://{folder}/with%20space/objects"),
    "memory": lambda folder: ObjectStore(
        "memory:///"
    ),  # stands for a remote store: other code, no local files
}


KEY = Credentials(access_key="test", secret_key="test")


@pytest.fixture(params=[*STORES, "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "s3":
        return request.getfixturevalue("bucket")
    return STORES[request.param](tmp_path)


@pytest.fixture
def bucket(s3_server: S3Server) -> ObjectStore:
    name = f"b{uuid.uuid4().hex}"
    s3_server.create_bucket(name)
    return ObjectStore(f"s3://{name}/fleet?endpoint={s3_server.url}", KEY)


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


def test_delete(store: ObjectStore):
    store.put_once("a/b", b"x")
    assert store.delete("a/b") is True
    assert store.delete("a/b") is False
    assert store.exists("a/b") is False
    assert store.put_once("a/b", b"y") is True


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


def test_a_bucket_that_is_not_there_or_a_server_that_is_down_is_a_store_error(s3_server: S3Server):
    missing = ObjectStore(f"s3://nosuchbucket?endpoint={s3_server.url}", KEY)
    with pytest.raises(StoreError, match="nosuchbucket"):
        missing.put_once("k", b"x")
    down = ObjectStore(f"s3://bucket?endpoint=http://127.0.0.1:{free_port()}", KEY)
    began = time.monotonic()
    for use in (lambda: down.put_once("k", b"x"), lambda: down.get("k"), lambda: list(down.list())):
        with pytest.raises(StoreError, match="failed"):
            use()
    assert time.monotonic() - began < 60


@pytest.fixture
def robot(bucket: ObjectStore, tmp_path: Path) -> Iterator[GrantedObjects]:
    """What a robot has in place of the bucket's key."""
    with Catalogue(tmp_path / "catalogue.db") as catalogue:
        invite(catalogue, "robot-1", "arm")
        calls = LocalCalls()
        serving = Grants(catalogue, bucket).serve(calls)
        limits = Transfer(tries=2, pause_s=(0.01, 0.02))
        yield GrantedObjects(calls, "robot-1", limits=limits)
        serving.close()


def test_through_grants_moto_takes_an_episode_once(robot: GrantedObjects, bucket: ObjectStore):
    data = os.urandom(300_000)
    key = f"episodes/e1/{hashlib.sha256(data).hexdigest()}"
    assert robot.put_once(key, data) is True
    assert robot.put_once(key, data) is False
    assert bucket.get(key) == robot.get(key) == data
    torn = f"episodes/e2/{hashlib.sha256(b'other').hexdigest()}"
    bucket.put_once(torn, b"OTHER")
    with pytest.raises(StoreError, match="immutable"):
        robot.put_once(torn, b"other")
    bucket.delete(key)
    with pytest.raises(MissingObjectError):
        robot.get(key)


def test_a_torn_upload_leaves_no_object(bucket: ObjectStore):
    assert bucket.location is not None
    url = urlsplit(presign(bucket.location, KEY, "PUT", "torn", expires_s=60))
    with socket.create_connection((url.hostname or "", url.port or 0), 10) as connection:
        head = f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall(head.encode() + b"x" * 500)
        time.sleep(0.3)
    time.sleep(0.3)
    assert bucket.exists("torn") is False
    assert bucket.put_once("torn", b"all of it") is True
