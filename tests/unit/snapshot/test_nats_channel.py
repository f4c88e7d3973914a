"""Announcements over a real broker: always the newest, verified, never waiting, never backwards."""

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from servers import NatsServer, free_port

from lwd.errors import SnapshotError
from lwd.log.nats_link import NatsLink
from lwd.snapshot.announcement import announcement, parse_announcement
from lwd.snapshot.channel import SnapshotChannel
from lwd.snapshot.nats_channel import SNAPSHOT_SUBJECT, NatsChannel
from lwd.snapshot.store import Snapshot, verify

KEY = Ed25519PrivateKey.generate()


def make(number: int, key: Ed25519PrivateKey = KEY, **changes) -> Snapshot:
    unsigned = Snapshot(
        number=number, parent=number - 1 or None, learner_step=50 * number, manifest=None, sha256="ab" * 32,
        size=7, key=f"snapshots/{'ab' * 32}.safetensors", signature="", created_at=1.5, status="published",
        meta={"stage": "online"},
    )  # fmt: skip
    unsigned = dataclasses.replace(unsigned, **changes)
    return dataclasses.replace(unsigned, signature=key.sign(unsigned.signed_bytes()).hex())


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def link(nats_server: NatsServer) -> Iterator[NatsLink]:
    with NatsLink(nats_server.url) as opened:
        yield opened


@pytest.fixture
def learner(link: NatsLink) -> NatsChannel:
    return NatsChannel(link, KEY.public_key())


def test_robots_hear_the_newest_live_and_late(link: NatsLink, learner: NatsChannel, nats_server: NatsServer):
    assert isinstance(learner, SnapshotChannel)
    early = NatsChannel(link, KEY.public_key(), first_wait_s=20.0)
    assert early.newest() is None
    for number in (1, 2, 3):
        learner.announce(make(number))
    assert learner.newest() == 3
    assert learner.flush(30.0)
    until(lambda: early.newest() == 3)
    with NatsLink(nats_server.url) as other:
        late = NatsChannel(other, KEY.public_key(), first_wait_s=20.0)
        assert late.newest() == 3
        assert late.snapshot() == make(3)
        late.close()
        late.close()
    assert late.newest() == 3


def test_what_is_older_or_not_signed_is_refused_and_said_once(link, learner, caplog):
    robot = NatsChannel(link, KEY.public_key(), at_least=4, first_wait_s=20.0)
    learner.announce(make(5))
    assert learner.flush(30.0)
    until(lambda: robot.newest() == 5)
    caplog.set_level(logging.WARNING)
    wrong = make(9, Ed25519PrivateKey.generate())
    other = make(5, sha256="cd" * 32)
    for snapshot in (wrong, make(4), other, make(6, learner_step=1)):
        row = announcement(snapshot)
        if snapshot.number == 6:
            row["learner_step"] = 2  # changed after it was signed
        for _ in range(3):
            link.publish(SNAPSHOT_SUBJECT, json.dumps(row).encode())
    link.publish(SNAPSHOT_SUBJECT, b"\xff rubbish")
    refused = [record for record in caplog.records if "snapshot_refused" in record.message]
    until(
        lambda: (
            len(
                [
                    record
                    for record in caplog.records
                    if "rubbish" in record.message or "JSON" in record.message
                ]
            )
            >= 2
        )
    )
    refused = [record.message for record in caplog.records if "snapshot_refused" in record.message]
    assert len(refused) == 2 * 5  # five different ones; the learner's channel listens too
    assert sum("only grow" in message for message in refused) == 4
    assert sum("signature" in message for message in refused) == 4
    assert robot.newest() == 5

    # The rubbish took the newest one's place in the broker. Whoever announced that one puts it back.
    def late() -> bool:
        channel = NatsChannel(link, KEY.public_key(), first_wait_s=20.0)
        try:
            return channel.newest() == 5
        finally:
            channel.close()

    until(late)


def test_a_robot_that_holds_a_newer_one_refuses_an_older_newest(link, learner):
    learner.announce(make(5))
    assert learner.flush(30.0)
    assert NatsChannel(link, KEY.public_key(), at_least=6, first_wait_s=20.0).newest() is None
    assert NatsChannel(link, KEY.public_key(), at_least=5, first_wait_s=20.0).newest() == 5


def test_another_kinds_newest_does_not_hide_its_own(link, learner):
    """The broker keeps one announcement; what the coordinator told when the robot joined stands in for it."""
    mine, others = (make(n, meta={"robot_spec": kind}) for n, kind in ((1, "arm"), (2, "crane")))
    learner.announce(others)
    assert learner.flush(30.0)

    def robot(**options):
        return NatsChannel(link, KEY.public_key(), kind="arm", first_wait_s=20.0, **options)

    assert robot().newest() is None
    told = robot(told=dataclasses.replace(mine, meta={}))
    assert told.newest() == 1
    assert robot(told=dataclasses.replace(mine, number=7)).newest() is None  # not signed
    assert robot(told=mine, at_least=3).newest() is None
    learner.announce(make(4, meta={"robot_spec": "crane"}))
    learner.announce(make(5, meta={"robot_spec": "arm"}))
    until(lambda: told.newest() == 5)
    learner.announce(make(6, meta={}))  # large metadata is left out
    until(lambda: told.newest() == 6)


def test_without_a_broker_nobody_waits():
    with NatsLink(f"nats://127.0.0.1:{free_port()}") as link:
        robot = NatsChannel(link, KEY.public_key(), first_wait_s=0.2)
        began = time.monotonic()
        robot.announce(make(1))
        assert robot.newest() == 1
        idle = NatsChannel(link, KEY.public_key(), first_wait_s=0.2)
        assert [idle.newest() for _ in range(100)] == [None] * 100
        assert time.monotonic() - began < 5.0
        assert not robot.flush(0.01)


def test_both_ends_survive_a_killed_broker_with_an_empty_store(own_nats_server: NatsServer):
    with (
        NatsLink(own_nats_server.url, backoff_s=(0.05, 0.2)) as up,
        NatsLink(own_nats_server.url, backoff_s=(0.05, 0.2)) as down,
    ):
        learner, robot = NatsChannel(up, KEY.public_key()), NatsChannel(down, KEY.public_key())
        learner.announce(make(1))
        until(lambda: robot.newest() == 1)
        own_nats_server.kill()
        learner.announce(make(2))
        learner.announce(make(3))
        own_nats_server.start()
        until(lambda: robot.newest() == 3)
        assert learner.flush(30.0)


def test_an_announcement_is_the_whole_row_and_trusts_nothing():
    snapshot = make(3, manifest=2)
    assert parse_announcement(json.loads(json.dumps(announcement(snapshot)))) == snapshot
    verify(parse_announcement(announcement(snapshot)), KEY.public_key())
    large = dataclasses.replace(snapshot, meta={"text": "x" * 9000})
    assert announcement(large)["meta"] == {}
    elsewhere = {**announcement(snapshot), "key": "../../etc/passwd"}
    assert parse_announcement(elsewhere).key == snapshot.key
    changes = {
        "number": (0, -1, True, "3", 2**70, None), "parent": ("x", -1), "sha256": ("zz", None, 3, "AB" * 32),
        "size": (-1, 1.5), "signature": ("", "00"), "created_at": (float("nan"), "x", 10**400, True), "meta": (None, []),
        "status": ("", 3, "x" * 99),
    }  # fmt: skip
    for name, values in changes.items():
        for value in values:
            with pytest.raises(SnapshotError, match="do not fit"):
                parse_announcement({**announcement(snapshot), name: value})
    for missing in ("number", "parent", "manifest", "meta", "size"):
        left = {name: value for name, value in announcement(snapshot).items() if name != missing}
        with pytest.raises(SnapshotError, match="do not fit"):
            parse_announcement(left)
    with pytest.raises(SnapshotError, match="do not fit"):
        parse_announcement({})
