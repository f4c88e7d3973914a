"""Robots without bucket keys: what a grant allows, what it does not, and transfers over a bad network."""

import dataclasses
import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import urllib3
from log_cases import SPEC, TASK, make_episode
from strict_s3 import StrictS3

from lwd.errors import ConfigError, StoreError
from lwd.log import codec, tables
from lwd.log.bus import CatalogueBus
from lwd.log.calls import CallBusyError, CallRefusedError, LocalCalls
from lwd.log.catalogue import Catalogue
from lwd.log.coordinator import Coordinator
from lwd.log.deletion import delete
from lwd.log.granted_objects import GrantedObjects, Transfer
from lwd.log.grants import Grants
from lwd.log.objects import MissingObjectError, ObjectSink, ObjectSource, ObjectStore, TooLargeError
from lwd.log.robots import invite, revoke, robots
from lwd.log.s3 import Credentials
from lwd.log.writer import EdgeClient

KEY = Credentials(access_key="ACCESS", secret_key="verysecret")
QUICK = Transfer(timeout_s=60.0, tries=4, pause_s=(0.01, 0.02), stall_s=10.0)


@dataclass
class Site:
    """A fleet's store, and robots that reach it through grants only."""

    folder: Path
    server: StrictS3
    catalogue: Catalogue
    objects: ObjectStore
    calls: LocalCalls
    grants: Grants

    def robot(self, name: str = "robot-1", **options: Any) -> GrantedObjects:
        return GrantedObjects(self.calls, name, **{"limits": QUICK, **options})


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with (
        StrictS3(KEY.access_key, KEY.secret_key) as server,
        Catalogue(tmp_path / "catalogue.db") as catalogue,
    ):
        objects = ObjectStore(f"s3://fleet/a?endpoint={server.url}", KEY)
        calls, grants = LocalCalls(), Grants(catalogue, objects, max_bytes=1_000_000)
        for name in ("robot-1", "robot-2"):
            invite(catalogue, name, SPEC.name)
        serving = grants.serve(calls)
        yield Site(tmp_path, server, catalogue, objects, calls, grants)
        serving.close()


def named(data: bytes, episode_id: str = "e1") -> str:
    return f"episodes/{episode_id}/{hashlib.sha256(data).hexdigest()}"


def publish_snapshot(site: Site, data: bytes) -> str:
    key = f"snapshots/{hashlib.sha256(data).hexdigest()}.safetensors"
    row = {"number": 1, "learner_step": 1, "sha256": "0", "size": len(data), "signature": "", "key": key}
    with site.catalogue.write() as connection:
        connection.execute(
            sa.insert(tables.snapshots).values(**row, created_at=0.0, status="published", meta="{}")
        )
    site.objects.put_once(key, data)
    return key


def put(grant: Mapping[str, Any], data: bytes, **changes: str | None) -> tuple[int, bytes]:
    """Use a granted URL as a robot's own program might."""
    headers = {**grant["headers"], **{name.replace("_", "-"): value for name, value in changes.items()}}
    kept = {name: value for name, value in headers.items() if value is not None}
    answer = urllib3.request("PUT", grant["url"], body=data, headers=kept, retries=False, timeout=10)
    return answer.status, answer.data


def test_an_episode_goes_up_and_a_snapshot_comes_down(site: Site):
    robot, data = site.robot(), os.urandom(300_000)
    assert isinstance(robot, ObjectSink)
    assert isinstance(robot, ObjectSource)
    assert robot.put_once(named(data), data) is True
    assert site.objects.get(named(data)) == data
    assert site.server.objects == {f"/fleet/a/{named(data)}": data}
    assert robot.put_once(named(data), data) is False
    assert robot.get(named(data)) == data  # its own
    key = publish_snapshot(site, b"a policy")
    assert robot.get(key, 8) == b"a policy"
    with pytest.raises(TooLargeError):
        robot.get(key, 7)
    assert robot.put_once(named(b"", "e2"), b"") is True
    assert robot.get(named(b"", "e2")) == b""
    robot.close()


def test_a_grant_is_for_exactly_these_bytes_once(site: Site):
    data = b"the episode"
    grant = site.grants.answer("calls.robot-1.grant-put", {"key": named(data), "size": len(data)})
    for spoiled in (
        put(grant, data + b"!", content_length=str(len(data) + 1)),  # over the announced size
        put(grant, b"other bytes"),  # the same length
        put(grant, data, if_none_match=None),
        put(grant, data, x_amz_checksum_sha256=None),
        put({**grant, "url": grant["url"].replace("e1", "e2")}, data),
        put({**grant, "url": grant["url"].replace("Expires=300", "Expires=301")}, data),
    ):
        assert spoiled[0] in (400, 403)
    with pytest.raises(AssertionError):
        assert urllib3.request("GET", grant["url"], headers=grant["headers"]).status == 200
    assert site.server.objects == {}
    assert put(grant, data)[0] == 200
    assert put(grant, data)[0] == 412
    assert "verysecret" not in grant["url"]


REFUSED = [
    ("robot-1", "episodes/../x/" + "0" * 64, 1),
    ("robot-1", "episodes/e/" + "0" * 63, 1),
    ("robot-1", "snapshots/x.safetensors", 1),
    ("robot-1", "episodes/e/" + "0" * 64, 1_000_001),
    ("robot-1", "episodes/e/" + "0" * 64, -1),
    ("robot-1", "episodes/e/" + "0" * 64, True),
    ("robot-1", None, 1),
    ("robot-1", "\ud800\0", 1),
    ("stranger", "episodes/e/" + "0" * 64, 1),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: repr(case)[:60])
def test_what_is_not_granted(site: Site, case: tuple[str, Any, Any]):
    robot, key, size = case
    with pytest.raises(CallRefusedError):
        site.calls.call(f"calls.{robot}.grant-put", {"key": key, "size": size})
    with pytest.raises(CallRefusedError):
        site.calls.call(f"calls.{robot}.grant-get", {"key": key})


def test_another_robots_episode_is_refused(site: Site):
    mine, other = site.robot(), site.robot("robot-2")
    mine.put_once(named(b"mine"), b"mine")
    for attempt in (
        lambda: other.put_once(named(b"forged"), b"forged"),
        lambda: other.get(named(b"mine")),
        lambda: other.put_once(named(b"mine"), b"mine"),
    ):
        with pytest.raises(CallRefusedError, match=r"not robot|may not read"):
            attempt()
    assert len(site.server.objects) == 1
    with pytest.raises(CallRefusedError, match="may not read"):
        mine.get("snapshots/unknown.safetensors")


def test_a_revoked_robot_gets_nothing(site: Site):
    robot = site.robot()
    key = publish_snapshot(site, b"a policy")
    assert revoke(site.catalogue, "robot-1").revoked_at is not None
    for attempt in (lambda: robot.put_once(named(b"x"), b"x"), lambda: robot.get(key)):
        with pytest.raises(CallRefusedError, match="revoked"):
            attempt()
    with pytest.raises(StoreError, match="revoked; choose another"):
        invite(site.catalogue, "robot-1", SPEC.name)
    with pytest.raises(StoreError, match="never invited"):
        revoke(site.catalogue, "nobody")
    assert [row.revoked_at is None for row in robots(site.catalogue)] == [False, True]


def test_an_expired_url_is_replaced_by_a_new_one(site: Site):
    site.server.clock_s = 301.0  # the server's clock counts
    data = b"data"
    grant = site.grants.answer("calls.robot-1.grant-put", {"key": named(data), "size": 4})
    assert put(grant, data)[0] == 403
    with pytest.raises(StoreError, match="403 AccessDenied"):
        site.robot().put_once(named(data), data)
    site.server.clock_s = 0.0
    assert site.robot().put_once(named(data), data) is True


def test_a_wrong_bucket_key_says_so(site: Site):
    wrong = ObjectStore(
        f"s3://fleet/a?endpoint={site.server.url}", Credentials(access_key="ACCESS", secret_key="no")
    )
    calls = LocalCalls()
    serving = Grants(site.catalogue, wrong).serve(calls)
    with pytest.raises(StoreError, match="403 SignatureDoesNotMatch"):
        GrantedObjects(calls, "robot-1", limits=QUICK).put_once(named(b"x"), b"x")
    serving.close()


@pytest.mark.parametrize("fault", ["cut-put", "503", "stall", "lose-answer"])
def test_an_upload_survives_a_bad_network(site: Site, fault: str):
    data = os.urandom(200_000)
    site.server.faults = [fault, fault]
    if fault == "cut-put":
        with pytest.raises(StoreError):
            site.robot(limits=Transfer(tries=1)).put_once(named(data), data)
        assert site.server.objects == {}  # torn: no object
    impatient = dataclasses.replace(QUICK, stall_s=0.5)
    created = site.robot(limits=impatient if fault == "stall" else QUICK).put_once(named(data), data)
    assert fault == "stall" or created is (fault != "lose-answer")  # its own earlier try had created it
    assert site.objects.get(named(data)) == data


def test_a_download_goes_on_where_it_broke(site: Site):
    data = os.urandom(400_000)
    key = publish_snapshot(site, data)
    site.server.faults, site.server.seen = ["cut-get"] * 6, []
    assert site.robot().get(key, len(data)) == data
    asked = [line.partition("bytes=")[2] for line in site.server.seen if line.startswith("GET")]
    starts = [int(text.rstrip("-") or 0) for text in asked]
    assert len(starts) == 7  # more failures than `tries`, but each made progress
    assert starts == sorted(set(starts))
    site.server.faults = ["503"] * 100  # also for the coordinator, which looks for the object first
    with pytest.raises(StoreError, match="failed 4 times, last: the coordinator's catalogue or object store"):
        site.robot().get(key)
    site.server.faults = ["503"] * 100
    with pytest.raises(StoreError, match="failed 4 times, last: the object store answered 503 SlowDown"):
        site.robot().put_once(named(data), data)


def test_what_exists_with_other_bytes_is_an_error(site: Site):
    data = b"the episode"
    site.server.objects[f"/fleet/a/{named(data)}"] = b"other bytes"
    for held in (b"other bytes", b"longer than what is put", b""):
        site.server.objects[f"/fleet/a/{named(data)}"] = held
        with pytest.raises(StoreError, match="immutable"):
            site.robot().put_once(named(data), data)


def test_redirects_and_other_hosts_are_refused(site: Site):
    site.server.faults = ["redirect"]
    with pytest.raises(StoreError, match="redirect"):
        site.robot().put_once(named(b"x"), b"x")
    assert site.server.objects == {}
    with pytest.raises(StoreError, match="nothing was sent"):
        site.robot(hosts=["store.example:443"]).put_once(named(b"x"), b"x")
    with pytest.raises(StoreError, match="nothing was sent"):
        site.robot(hosts=[]).put_once(named(b"x"), b"x")
    assert site.robot(hosts=[site.server.host]).put_once(named(b"x"), b"x") is True


def test_a_missing_object_and_a_store_that_is_gone(site: Site):
    key = publish_snapshot(site, b"a policy")
    site.server.objects.clear()
    with pytest.raises(MissingObjectError):
        site.robot().get(key)
    robot = GrantedObjects(LocalCalls(), "robot-1", limits=QUICK)
    began = time.monotonic()
    with pytest.raises(StoreError, match="nobody serves it"):
        robot.put_once(named(b"x"), b"x")
    assert time.monotonic() - began < 5


def test_the_time_of_a_call_is_bounded(site: Site):
    site.server.faults = ["stall"] * 50
    limits = Transfer(timeout_s=2.0, tries=100, pause_s=(0.01, 0.02), stall_s=0.3)
    began = time.monotonic()
    with pytest.raises(StoreError, match="took more than 2 s"):
        site.robot(limits=limits).put_once(named(b"x"), b"x")
    assert time.monotonic() - began < 10


class BusyCalls(LocalCalls):
    """Says that too many wait, so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.left, self.asked = times, []

    def call(self, subject: str, payload: Mapping[str, Any], timeout_s: float = 5.0) -> dict[str, Any]:
        self.asked.append(time.monotonic())
        if self.left:
            self.left -= 1
            raise CallBusyError("too many calls wait here")
        return super().call(subject, payload, timeout_s)


def test_a_busy_coordinator_is_asked_seldom(site: Site):
    """A thousand robots that ask again at once would keep it busy with telling them so."""
    limits = Transfer(timeout_s=60.0, tries=4, pause_s=(0.001, 0.2), stall_s=10.0)
    calls = BusyCalls(3)
    site.grants.serve(calls)
    assert GrantedObjects(calls, "robot-1", limits=limits).put_once(named(b"x"), b"x") is True
    assert len(calls.asked) == 4
    assert all(later - one >= 0.1 for one, later in pairwise(calls.asked))
    with pytest.raises(StoreError, match="too many calls wait"):
        GrantedObjects(BusyCalls(4), "robot-1", limits=limits).get(named(b"x"))


def test_robots_elsewhere_use_another_address(site: Site):
    grants = Grants(site.catalogue, site.objects, public_url="https://store.example/")
    grant = grants.answer("calls.robot-1.grant-put", {"key": named(b"x"), "size": 1})
    assert grant["url"].startswith(f"https://store.example/fleet/a/{named(b'x')}?X-Amz-")
    for bad in ("store.example", "https://store.example/path", "https://user@store.example"):
        with pytest.raises(ConfigError, match="not a server's address"):
            Grants(site.catalogue, site.objects, public_url=bad)


def test_no_log_line_shows_a_signature(site: Site, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    site.server.faults = ["cut-put", "503"]
    robot = site.robot()
    robot.put_once(named(b"x" * 1000), b"x" * 1000)
    robot.get(named(b"x" * 1000))
    site.server.faults = ["503"] * 9
    with pytest.raises(StoreError) as caught:
        robot.put_once(named(b"y"), b"y")
    text = caplog.text + str(caught.value) + repr(caught.value.__cause__)
    assert "urllib3" in text
    for secret in ("X-Amz", "Signature", "verysecret"):
        assert secret not in text


def test_a_hundred_uploads_at_once(site: Site):
    robot, failed = site.robot(limits=Transfer(stall_s=20.0)), list[BaseException]()
    barrier = threading.Barrier(100)
    contents = {f"e{i}": os.urandom(5000) for i in range(100)}

    def upload(episode_id: str) -> None:
        try:
            barrier.wait(60)
            robot.put_once(named(contents[episode_id], episode_id), contents[episode_id])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=upload, args=(name,)) for name in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failed == []
    assert set(site.server.objects.values()) == set(contents.values())


def test_a_robot_delivers_through_grants_and_a_deleted_episode_stays_away(site: Site):
    bus = CatalogueBus(site.catalogue)
    coordinator = Coordinator(site.catalogue, bus, site.objects, {SPEC.name: SPEC}, {TASK.name: TASK})
    episode = make_episode(5)
    with EdgeClient(site.folder / "spool", site.robot(), bus, "robot-1") as client:
        client.submit(episode)
        assert client.deliver() == 1
        assert coordinator.step().catalogued == 1
        row = site.catalogue.episodes()[0]
        with site.catalogue.read() as connection:
            assert connection.execute(sa.select(tables.claims)).all() == []
        seen = len(site.server.seen)
        assert site.robot().put_once(row.key, codec.encode(episode)) is False  # catalogued: nothing is sent
        assert len(site.server.seen) == seen
        nowhere = ObjectStore(site.folder / "nowhere")  # deleting from S3 is tested with moto
        delete(site.catalogue, nowhere, row.episode_id, reason="consent", deleted_by="me")
        site.server.objects.clear()
        client.submit(episode)
        assert client.deliver() == 1  # its spool drains, but nothing comes back
    assert coordinator.step().duplicates == 1
    assert site.server.objects == {}
    assert site.catalogue.episodes() == []


def test_a_local_directory_needs_no_urls(tmp_path: Path):
    with Catalogue(tmp_path / "catalogue.db") as catalogue:
        invite(catalogue, "robot-1", SPEC.name)
        objects, calls = ObjectStore(tmp_path / "objects"), LocalCalls()
        serving = Grants(catalogue, objects).serve(calls)
        robot = GrantedObjects(calls, "robot-1", files=True)
        assert robot.put_once(named(b"x"), b"x") is True
        assert robot.get(named(b"x")) == objects.get(named(b"x")) == b"x"
        with pytest.raises(StoreError, match="a directory of its machine"):
            GrantedObjects(calls, "robot-1").put_once(named(b"y"), b"y")
        serving.close()
        with pytest.raises(ConfigError, match="cannot be granted"):
            Grants(catalogue, ObjectStore("memory:///"))


def test_without_a_key_nothing_can_be_signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    with (
        Catalogue(tmp_path / "catalogue.db") as catalogue,
        pytest.raises(ConfigError, match="no key to sign with"),
    ):
        Grants(catalogue, ObjectStore("s3://bucket?endpoint=http://127.0.0.1:1"))


@pytest.mark.parametrize(
    "answer",
    [{}, {"url": 5}, {"url": "ftp://x/y", "headers": {}}, {"url": "http://x/y", "headers": {"a": 1}},
     {"url": "http://x/y", "headers": []}, {"url": "http://x/y"}, {"files": 3}, {"missing": "yes"},
     {"url": "http://x/y", "headers": {"\ud800": "a"}, "size": 1},
     {"url": "http://x/y", "headers": {"a": "b\nc: d"}, "size": 1}],
    ids=ascii,
)  # fmt: skip
def test_a_strange_answer_is_a_store_error(answer: dict[str, Any]):
    calls = LocalCalls()
    serving = calls.serve("calls.robot-1.*", lambda *_: answer)
    robot = GrantedObjects(calls, "robot-1", limits=QUICK)
    with pytest.raises(StoreError, match="grants: "):
        robot.put_once(named(b"x"), b"x")
    with pytest.raises(StoreError, match="grants: "):
        robot.get(named(b"x"))
    serving.close()


def test_done_is_no_answer_to_a_download():
    calls = LocalCalls()
    serving = calls.serve("calls.robot-1.*", lambda *_: {"done": True})
    with pytest.raises(StoreError, match="has no URL"):
        GrantedObjects(calls, "robot-1", limits=QUICK).get(named(b"x"))
    serving.close()
