"""What every bus must do. Another implementation joins by adding its opener to `BUSES`."""

import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lwd.errors import StoreError
from lwd.log.bus import MAX_PAYLOAD_BYTES, Bus, CatalogueBus
from lwd.log.catalogue import Catalogue
from lwd.log.checks import MAX_DEPTH
from lwd.log.nats_bus import NatsBus
from lwd.log.nats_link import NatsLink

NATS_SUBJECTS = ("s", "other", "episodes", "episodes.*", "episodes.r1.*", "episodesX.*", "status.*")


@contextmanager
def catalogue_bus(address: str) -> Iterator[CatalogueBus]:
    with Catalogue(address) as catalogue:
        yield CatalogueBus(catalogue)


@contextmanager
def nats_bus(address: str) -> Iterator[NatsBus]:
    with NatsLink(address) as link:
        bus = NatsBus(link, subjects=NATS_SUBJECTS)
        bus.prepare("s")
        yield bus


BUSES = {"catalogue": catalogue_bus, "postgres": catalogue_bus, "nats": nats_bus}
"""Opens a bus at an address, which another process can open too."""


@pytest.fixture(params=BUSES)
def address(request: pytest.FixtureRequest) -> str:
    if request.param == "nats":
        return request.getfixturevalue("nats_server").url
    if request.param == "postgres":
        return request.getfixturevalue("postgres_server").create_database(f"bus_{uuid.uuid4().hex}")
    return str(request.getfixturevalue("tmp_path") / "catalogue.db")


@pytest.fixture
def bus(address: str) -> Iterator[NatsBus | CatalogueBus]:
    with BUSES["nats" if address.startswith("nats:") else "catalogue"](address) as opened:
        yield opened


def test_a_message_arrives_once_when_acknowledged(bus: Bus):
    assert isinstance(bus, Bus)
    before = time.time()
    bus.publish("episodes.r1", {"a": 1, "nested": {"b": [None, True, "ü"]}})
    (message,) = bus.consume("episodes.r1")
    assert message.subject == "episodes.r1"
    assert message.payload == {"a": 1, "nested": {"b": [None, True, "ü"]}}
    assert message.deliveries == 1
    assert before - 1 <= message.published_at <= time.time()
    assert bus.consume("episodes.r1") == []  # claimed
    bus.ack([message])
    bus.ack([message])  # again is harmless
    bus.nack([message])
    assert bus.consume("episodes.r1", visibility_s=0.0) == []


def test_unacknowledged_messages_come_again(bus: Bus):
    bus.publish("s", {"a": 1})
    (first,) = bus.consume("s", visibility_s=1.0)
    assert bus.consume("s") == []  # within that second, on a busy machine too
    (second,) = bus.consume("s", wait_s=5.0)
    assert (second.payload, second.deliveries) == (first.payload, 2)
    bus.ack([first])  # late, but done is done
    assert bus.consume("s", wait_s=0.1, visibility_s=0.0) == []


def test_nack_gives_back_after_a_pause(bus: Bus):
    bus.publish("s", {})
    (message,) = bus.consume("s")
    bus.nack([message], delay_s=1.0)
    began = time.monotonic()
    assert bus.consume("s") == []
    (again,) = bus.consume("s", wait_s=6.0)
    assert 0.8 < time.monotonic() - began < 5.0
    bus.nack([again])
    (third,) = bus.consume("s")
    assert third.deliveries == 3
    bus.ack([])
    bus.nack([])


def test_subjects_and_wildcards(bus: Bus):
    for subject in (
        "episodes.r1",
        "episodes.r_2",
        "episodes.r-3",
        "episodes.r1.more",
        "episodesX.r1",
        "status.r1",
        "episodes",
    ):
        bus.publish(subject, {"subject": subject})
    found = [message.subject for message in bus.consume("episodes.*")]
    assert sorted(found) == ["episodes.r-3", "episodes.r1", "episodes.r_2"]
    assert [message.subject for message in bus.consume("status.r1")] == ["status.r1"]
    for bad in ("", "a b", "a..b", ".a", "*", "a.*.b", "a.%", "ä"):
        with pytest.raises(StoreError, match="not allowed"):
            bus.consume(bad)
    for bad in ("", "a.*", "a b", "a" * 201):
        with pytest.raises(StoreError, match="not allowed"):
            bus.publish(bad, {})


def test_what_is_nested_too_deep_is_not_taken(bus: Bus):
    """It can be read and then neither shown nor written again."""
    nested: dict[str, Any] = {}
    for _ in range(MAX_DEPTH):
        nested = {"in": nested}
    with pytest.raises(StoreError, match="deep"):
        bus.publish("s", nested)
    bus.publish("s", nested["in"])
    assert bus.consume("s")[0].payload == nested["in"]


def test_limit_and_order(bus: Bus):
    for i in range(10):
        bus.publish("s", {"i": i})
    assert [message.payload["i"] for message in bus.consume("s", limit=4)] == [0, 1, 2, 3]
    assert [message.payload["i"] for message in bus.consume("s", limit=100)] == [4, 5, 6, 7, 8, 9]


def test_large_or_strange_payloads_are_refused(bus: Bus):
    with pytest.raises(StoreError, match="object store"):
        bus.publish("s", {"data": "x" * MAX_PAYLOAD_BYTES})
    for bad in ({"x": float("nan")}, {"x": b"bytes"}, {"x": object()}):
        with pytest.raises(StoreError, match="not JSON"):
            bus.publish("s", bad)
    assert bus.consume("s") == []


def test_a_repeated_message_id_is_allowed(bus: Bus):
    """The bus may drop it or deliver it twice; it must not lose it, also not after the first was acknowledged."""
    for _ in range(3):
        bus.publish("s", {"a": 1}, "same")
        bus.publish("s", {"a": 1}, "same")
        found = bus.consume("s")
        assert len(found) in (1, 2)
        bus.ack(found)
    bus.publish("other", {"a": 1}, "same")
    assert len(bus.consume("other")) == 1


def test_waiting_ends_when_a_message_comes(bus: Bus):
    timer = threading.Timer(0.2, lambda: bus.publish("s", {}))
    timer.start()
    began = time.monotonic()
    assert len(bus.consume("s", wait_s=20.0)) == 1
    assert time.monotonic() - began < 10.0
    timer.join()


def test_a_clock_set_back_hides_nothing(bus: Bus, monkeypatch):
    """Whatever the clock of a consumer says, a message comes again once its visibility is over."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 7 * 86400)
    bus.publish("s", {})
    assert len(bus.consume("s", visibility_s=0.5)) == 1  # claimed in the future, then its consumer died
    monkeypatch.setattr(time, "time", lambda: now)
    assert len(bus.consume("s", wait_s=10.0)) == 1


def test_in_the_catalogue_a_claim_from_the_future_does_not_count(tmp_path: Path, monkeypatch):
    """Its claims are stamped with the consumers' clocks, so a stamp that cannot be is ignored at once."""
    now = time.time()
    with catalogue_bus(str(tmp_path / "catalogue.db")) as bus:
        monkeypatch.setattr(time, "time", lambda: now + 7 * 86400)
        bus.publish("s", {})
        assert len(bus.consume("s", visibility_s=30.0)) == 1
        monkeypatch.setattr(time, "time", lambda: now)
        assert len(bus.consume("s")) == 1


def test_two_consumers_share_and_neither_loses(bus: Bus):
    for i in range(60):
        bus.publish("s", {"i": i})
    seen: list[int] = []
    lock = threading.Lock()

    def work() -> None:
        while found := bus.consume("s", limit=5):
            with lock:
                seen.extend(message.payload["i"] for message in found)
            bus.ack(found)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(60))


PUBLISH = """
import sys
sys.path.insert(0, sys.argv[1])
from test_bus import BUSES
with BUSES["nats" if sys.argv[2].startswith("nats:") else "catalogue"](sys.argv[2]) as bus:
    for i in range(40):
        bus.publish(f"episodes.{sys.argv[3]}", {"i": i})
"""


def test_publishers_in_other_processes(address: str, bus: NatsBus | CatalogueBus):
    here = str(Path(__file__).parent)
    processes = [
        subprocess.Popen([sys.executable, "-c", PUBLISH, here, address, robot]) for robot in ("a", "b")
    ]
    seen: list[tuple[str, int]] = []
    while any(process.poll() is None for process in processes) or bus.waiting("episodes.*"):
        found = bus.consume("episodes.*", wait_s=0.05)
        seen.extend((message.subject, message.payload["i"]) for message in found)
        bus.ack(found)
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(seen) == sorted((f"episodes.{robot}", i) for robot in ("a", "b") for i in range(40))
