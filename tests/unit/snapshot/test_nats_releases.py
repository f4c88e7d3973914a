"""Releases over a real broker: the newest edition of a kind, verified, never a lower one, back after the broker's death."""

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from servers import NatsServer

from lwd.log.nats_link import NatsLink
from lwd.snapshot.nats_releases import NatsReleases, release_topic
from lwd.snapshot.promotion import Notice, Release, notice_message, sign
from lwd.snapshot.store import Snapshot

KEY = Ed25519PrivateKey.generate()


def row(number: int) -> Snapshot:
    unsigned = Snapshot(
        number=number, parent=None, learner_step=number, manifest=None, sha256=f"{number:02x}" * 32, size=7,
        key=f"snapshots/{number:02x}.safetensors", signature="", created_at=1.5, status="published", meta={},
    )  # fmt: skip
    return dataclasses.replace(unsigned, signature=KEY.sign(unsigned.signed_bytes()).hex())


def notice(edition: int, stable: int, kind: str = "arm", key: Ed25519PrivateKey = KEY, **more) -> Notice:
    unsigned = Release(edition=edition, kind=kind, stable=stable, reason="", created_at=1.5, **more)
    return Notice(sign(unsigned, key), {number: row(number) for number in unsigned.numbers})


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def link(nats_server: NatsServer) -> Iterator[NatsLink]:
    with NatsLink(nats_server.url) as opened:
        yield opened


def robot(link: NatsLink, kind: str = "arm", **options) -> NatsReleases:
    return NatsReleases(link, KEY.public_key(), kind, first_wait_s=20.0, **options)


def test_robots_hear_the_newest_of_their_kind_live_and_late(link: NatsLink, nats_server: NatsServer):
    early = robot(link)
    assert early.held() is None
    arms, legs = robot(link), robot(link, "two legs/über")
    for edition, stable in ((1, 3), (2, 5), (3, 4)):
        arms.announce(notice(edition, stable))
    legs.announce(notice(9, 8, "two legs/über"))
    assert arms.flush(30.0)
    assert legs.flush(30.0)
    until(lambda: early.newest() == 3)
    assert early.held().allowed("r1").number == 4, "back to a lower number"
    with NatsLink(nats_server.url) as other:
        assert robot(other).newest() == 3
        assert robot(other, "two legs/über").newest() == 9
        assert robot(other, "crane").newest() is None


def test_forged_replayed_and_lower_editions_are_refused(link: NatsLink, caplog):
    promoter, told = robot(link), notice(5, 6)
    robots = robot(link, told=told)
    assert robots.newest() == 5, "from its disk, without asking"
    promoter.announce(notice(4, 3))
    assert promoter.flush(30.0)
    caplog.set_level(logging.WARNING)
    subject, strange = release_topic("arm").subject, Ed25519PrivateKey.generate()
    changed = notice_message(notice(8, 6))
    changed["release"]["stable"], changed["snapshots"] = 7, notice_message(notice(8, 7))["snapshots"]
    foreign_row = notice_message(notice(9, 6))
    foreign_row["snapshots"][0]["sha256"] = "ab" * 32
    for message in (
        notice_message(notice(7, 6, key=strange)),
        notice_message(notice(3, 2)),  # once true
        notice_message(notice(99, 2, kind="leg")),  # of another kind, on this kind's subject
        changed,
        foreign_row,
        {"release": 3},
    ):
        link.publish(subject, json.dumps(message).encode())
    until(lambda: "a release's message does not fit" in caplog.text)
    assert robots.newest() == 5
    assert robots.held() == told
    assert "numbers only grow" in caplog.text
    forged = [r.message for r in caplog.records if "signature does not fit" in r.message]
    assert len(forged) >= 3
    # What stands where the newest should is put right by whoever announced it, and the true next one is heard.
    promoter.announce(notice(6, 2))
    until(lambda: robots.newest() == 6)
    late = robot(link)
    until(lambda: late.newest() == 6)


def test_what_a_robot_holds_is_verified_like_what_it_hears(link: NatsLink):
    forged = dataclasses.replace(notice(5, 6), release=dataclasses.replace(notice(5, 6).release, edition=50))
    assert robot(link, told=forged).newest() is None
    assert robot(link, told=notice(5, 6, kind="leg")).newest() is None


def test_two_releases_of_one_edition_are_told_apart(link: NatsLink):
    """A catalogue restored from a backup made an edition that robots know already."""
    first, other, follower = notice(3, 5), notice(3, 4), robot(link)
    before = robot(link)
    before.announce(first)
    assert before.flush(30.0)
    assert before.rival() is None
    until(lambda: follower.newest() == 3)
    after = NatsReleases(link, KEY.public_key(), "arm", first_wait_s=0.0)
    after.announce(other)  # the broker had not answered yet
    until(lambda: after.rival() is not None)
    assert {after.held().release.signature, after.rival().release.signature} == {
        first.release.signature, other.release.signature,
    }  # fmt: skip
    assert not after.flush(0.5), "the broker does not hold what was announced"
    assert follower.held().release == first.release
    after.announce(notice(4, 4))
    assert after.flush(30.0)
    assert after.rival() is None
    until(lambda: follower.newest() == 4)


def test_both_ends_survive_a_killed_broker_with_an_empty_store(own_nats_server: NatsServer):
    quick = (0.05, 0.2)
    with (
        NatsLink(own_nats_server.url, backoff_s=quick) as up,
        NatsLink(own_nats_server.url, backoff_s=quick) as down,
    ):
        promoter, follower = robot(up), robot(down)
        promoter.announce(notice(1, 1))
        until(lambda: follower.newest() == 1)
        own_nats_server.kill()
        promoter.announce(notice(2, 2))
        own_nats_server.start()
        until(lambda: follower.newest() == 2)
        assert promoter.flush(30.0)
