"""A site's cache: one download for all robots, nothing served that was not checked, bounded on disk."""

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import urllib3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from log_cases import Fleet

from lwd.errors import ConfigError, SnapshotError, StoreError
from lwd.log.objects import MissingObjectError
from lwd.snapshot.follower import SnapshotFollower
from lwd.snapshot.site_cache import CachedObjects, SiteCache, SiteCacheServer
from lwd.snapshot.store import SnapshotStore

KEY = Ed25519PrivateKey.generate()


class Origin:
    """Counts downloads; can be slow, silent or lie."""

    def __init__(self, inner) -> None:
        self.inner, self.asked = inner, 0
        self.pause_s, self.lie, self.silent = 0.0, b"", False

    def get(self, key: str, max_bytes: int | None = None) -> bytes:
        self.asked += 1
        time.sleep(self.pause_s)
        if self.silent:
            raise StoreError("origin: silent")
        return self.inner.get(key, max_bytes) + self.lie


@pytest.fixture
def origin(fleet: Fleet) -> Origin:
    return Origin(fleet.objects)


@pytest.fixture
def cache(origin: Origin, tmp_path: Path) -> SiteCache:
    return SiteCache(origin, tmp_path / "cache", 1000)


@pytest.fixture
def server(cache: SiteCache) -> Iterator[SiteCacheServer]:
    opened = SiteCacheServer(cache)
    yield opened
    opened.close()


def put(fleet: Fleet, data: bytes) -> str:
    sha256 = hashlib.sha256(data).hexdigest()
    fleet.objects.put_once(f"snapshots/{sha256}.safetensors", data)
    return sha256


def test_sixteen_robots_cost_one_download_and_skip_to_the_newest(fleet: Fleet, cache, server, origin):
    store = SnapshotStore(fleet.objects, fleet.catalogue, KEY)
    for step in range(1, 6):
        store.publish({"a": np.full(3, step, np.float32)}, step, manifest=None, meta={})
    origin.pause_s = 0.2
    direct = Origin(fleet.objects)
    start = threading.Barrier(16)

    def robot(_: int) -> float:
        follower = SnapshotFollower(store.latest, CachedObjects(server.url, direct), KEY.public_key())
        start.wait(30.0)
        arrays, snapshot = follower.poll() or pytest.fail("nothing was loaded")
        assert snapshot.number == 5
        return float(arrays["a"][0])

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(robot, range(16))) == [5.0] * 16
    assert (origin.asked, direct.asked) == (1, 0)
    status = cache.status()
    assert (status.served, status.downloads, status.files) == (16, 1, 1)


def test_wrong_bytes_are_never_served_whoever_made_them_wrong(fleet: Fleet, cache, server, origin, tmp_path):
    sha256 = put(fleet, b"good")
    key = f"snapshots/{sha256}.safetensors"
    origin.lie = b"x"
    with pytest.raises(SnapshotError, match="not kept"):
        cache.path(sha256)
    direct = Origin(fleet.objects)
    assert CachedObjects(server.url, direct).get(key) == b"good"  # past the cache
    assert direct.asked == 1
    origin.lie = b""
    path = cache.path(sha256)
    path.write_bytes(b"bad!")  # the disk rots while nobody runs
    again = SiteCache(origin, tmp_path / "cache", 1000)
    assert again.path(sha256).read_bytes() == b"good"
    path.write_bytes(b"evil")  # a cache that serves what it likes: the robot checks for itself
    assert CachedObjects(server.url, direct).get(key) == b"good"
    assert direct.asked == 2


def test_the_disk_is_bounded_and_what_was_used_last_stays(fleet: Fleet, cache: SiteCache, origin: Origin):
    names = [put(fleet, bytes([number]) * 400) for number in range(3)]
    for age, name in enumerate(names[:2]):
        path = cache.path(name)
        os.utime(path, (age, age))
    cache.path(names[0])  # used again
    cache.path(names[2])
    assert cache.status().size == 800
    assert origin.asked == 3
    cache.path(names[0])
    assert origin.asked == 3
    cache.path(names[1])
    assert origin.asked == 4
    with pytest.raises(StoreError, match="more than the 1000"):
        cache.path(put(fleet, b"z" * 1001))
    assert cache.status().files == 2


def test_what_is_asked_for_must_be_a_snapshots_name(fleet: Fleet, server, origin, tmp_path: Path):
    (tmp_path / "secret").write_text("x")
    name = "a" * 64
    paths = ["/", "/../secret", "/snapshots/../../secret", f"/episodes/e/{name}", f"/snapshots/{name}",
             f"/snapshots/{name.upper()}.safetensors", f"/snapshots/{name}.safetensors?x", "/%2e%2e/secret"]  # fmt: skip
    for path in paths:
        answer = urllib3.request("GET", server.url + path, retries=False, redirect=False)
        assert (answer.status, answer.data) == (404, b""), path
    assert origin.asked == 0
    assert urllib3.request("GET", f"{server.url}/snapshots/{name}.safetensors", retries=False).status == 404
    assert urllib3.request("POST", f"{server.url}/snapshots/{name}.safetensors", retries=False).status == 501


def test_an_origin_or_a_cache_that_is_silent_costs_a_detour(fleet: Fleet, cache, server, origin, tmp_path):
    sha256 = put(fleet, b"good")
    key = f"snapshots/{sha256}.safetensors"
    origin.silent = True
    with pytest.raises(StoreError, match="silent"):
        cache.path(sha256)
    assert urllib3.request("GET", f"{server.url}/{key}", retries=False).status == 502
    origin.silent = False
    assert cache.path(sha256).read_bytes() == b"good"  # a failure is not remembered
    direct = Origin(fleet.objects)
    assert CachedObjects("http://127.0.0.1:1", direct, timeout_s=1.0).get(key) == b"good"
    with pytest.raises(MissingObjectError):
        CachedObjects(server.url, direct).get(f"snapshots/{'b' * 64}.safetensors")
    with pytest.raises(ConfigError, match="max_bytes"):
        SiteCache(origin, tmp_path / "other", 0)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_is_none_says_so(cache: SiteCache, port: int):
    with pytest.raises(ConfigError, match="expected 0 to 65535"):
        SiteCacheServer(cache, port=port)
