"""A fleet's broker with TLS and permissions, attacked by a robot, by strangers and with stolen credentials."""

import dataclasses
import itertools
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from servers import NatsServer, running

from lwd.errors import EpisodeError, StoreError
from lwd.fleet import broker
from lwd.fleet.authority import Authority
from lwd.fleet.credential import ROLES, Credential
from lwd.log.bus import Message
from lwd.log.calls import NatsCalls
from lwd.log.events import parse_event
from lwd.log.nats_bus import NatsBus
from lwd.log.nats_client import TlsIdentity
from lwd.log.nats_link import NatsLink
from lwd.snapshot.nats_channel import SNAPSHOT_SUBJECT, NatsChannel
from lwd.snapshot.nats_releases import NatsReleases
from lwd.snapshot.promotion import Notice, Release, sign
from lwd.snapshot.store import Snapshot

KEY = Ed25519PrivateKey.generate()
RELEASE = Release(edition=1, kind="arm", stable=1, reason="", created_at=1.5)
NUMBERS = itertools.count(1)
"""Of snapshots: the tests share one broker, in any order."""
QUICK = (0.05, 0.3)
TIMEOUT_S = 20.0


def make(number: int) -> Snapshot:
    unsigned = Snapshot(
        number=number, parent=None, learner_step=1, manifest=None, sha256="ab" * 32, size=7, key="",
        signature="", created_at=1.5, status="published", meta={},
    )  # fmt: skip
    return dataclasses.replace(unsigned, signature=KEY.sign(unsigned.signed_bytes()).hex())


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@dataclasses.dataclass
class Guarded:
    """A broker with everybody invited, and a link for each."""

    authority: Authority
    server: NatsServer
    credentials: dict[str, Credential]
    links: dict[str, NatsLink]

    def reload(self) -> None:
        self.server.write_configuration()
        broker.reload(self.server.pidfile)

    def invite(self, name: str, **options) -> Credential:
        credential = self.authority.invite(name, **options)
        self.reload()
        return credential


def open_link(credential: Credential, **changes) -> NatsLink:
    return dataclasses.replace(credential, **changes).link(backoff_s=QUICK)


def configuration(authority: Authority, server: NatsServer) -> str:
    config = broker.BrokerConfig(
        host="127.0.0.1", port=server.port, store=server.folder / "store", pidfile=server.pidfile
    )
    return broker.render(authority, config)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder: Path = tmp_path_factory.mktemp("guarded")
    server = NatsServer(folder, config=lambda server: configuration(authority, server))
    url = f"tls://127.0.0.1:{server.port}"
    authority = Authority.create(folder / "fleet", "kitchen", [url], KEY.public_key())
    credentials = {name: authority.invite(name) for name in ("r1", "r2")}
    credentials |= {role: authority.invite(role, role) for role in ROLES if role != "robot"}
    with running(server):
        links = {name: open_link(credential) for name, credential in credentials.items()}
        NatsBus(links["coordinator"], timeout_s=TIMEOUT_S).prepare()
        yield Guarded(authority, server, credentials, links)
        for link in links.values():
            link.close()


def drain(fleet: Guarded) -> list[Message]:
    bus = NatsBus(fleet.links["coordinator"], timeout_s=TIMEOUT_S)
    found = bus.consume("episodes.*", wait_s=0.5)
    bus.ack(found)
    return found


def test_everybody_can_do_their_part(fleet: Guarded):
    robot, coordinator, learner = (fleet.links[name] for name in ("r1", "coordinator", "learner"))
    NatsBus(robot, timeout_s=TIMEOUT_S).publish("episodes.r1", {"a": 1}, "one")
    bus = NatsBus(coordinator, timeout_s=TIMEOUT_S)
    (message,) = bus.consume("episodes.*", visibility_s=5.0, wait_s=5.0)
    assert (message.subject, message.payload) == ("episodes.r1", {"a": 1})
    bus.nack([message])
    bus.ack(bus.consume("episodes.*", wait_s=5.0))
    assert bus.waiting("episodes.*") == 0
    served = NatsCalls(coordinator).serve("calls.*.who", lambda subject, _: {"who": subject.split(".")[1]})
    until(lambda: _answers(robot, "calls.r1.who") == {"who": "r1"})
    served.close()
    channel = NatsChannel(learner, KEY.public_key())
    number = next(NUMBERS)
    channel.announce(make(number))
    assert channel.flush(TIMEOUT_S)
    for name in ("r2", "evaluator", "operator"):
        assert NatsChannel(fleet.links[name], KEY.public_key(), first_wait_s=TIMEOUT_S).newest() == number
    releases = NatsReleases(fleet.links["promoter"], KEY.public_key(), "arm")
    notice = Notice(sign(RELEASE, KEY), {number: make(number) for number in RELEASE.numbers})
    releases.announce(notice)
    assert releases.flush(TIMEOUT_S)
    robot_hears = NatsReleases(fleet.links["r2"], KEY.public_key(), "arm", first_wait_s=TIMEOUT_S)
    assert robot_hears.newest() == RELEASE.edition
    state = fleet.links["operator"].request("$JS.API.STREAM.INFO.EPISODES", b"", TIMEOUT_S)
    assert json.loads(state.data)["state"]["messages"] == 0


def _answers(link: NatsLink, subject: str) -> object:
    try:
        return NatsCalls(link).call(subject, {}, TIMEOUT_S)
    except StoreError:
        return None


ROBOT_MUST_NOT = [
    "episodes.r2.x",
    "episodes.r1",
    "episodes.r1.x.y",
    "snapshot.newest",
    "release.arm",
    "status.r2",
    "calls.r2.who",
    "_INBOX.r2.x",
    "$JS.API.INFO",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.CREATE.MINE",
    "$JS.API.STREAM.INFO.EPISODES",
    "$JS.API.STREAM.UPDATE.EPISODES",
    "$JS.API.STREAM.DELETE.EPISODES",
    "$JS.API.STREAM.PURGE.EPISODES",
    "$JS.API.STREAM.MSG.GET.EPISODES",
    "$JS.API.STREAM.MSG.DELETE.EPISODES",
    "$JS.API.STREAM.DELETE.SNAPSHOT",
    "$JS.API.STREAM.CREATE.RELEASE",
    "$JS.API.STREAM.PURGE.RELEASE",
    "$JS.API.DIRECT.GET.RELEASE",
    "$JS.API.DIRECT.GET.EPISODES",
    "$JS.API.DIRECT.GET.SNAPSHOT",
    "$JS.API.CONSUMER.CREATE.EPISODES",
    "$JS.API.CONSUMER.CREATE.EPISODES.mine.episodes.>",
    "$JS.API.CONSUMER.DURABLE.CREATE.EPISODES.mine",
    "$JS.API.CONSUMER.NAMES.EPISODES",
    "$JS.API.CONSUMER.MSG.NEXT.EPISODES.mine",
    "$JS.ACK.EPISODES.mine.1.1.1.1.0",
    "$SYS.REQ.SERVER.PING",
    "$SYS.REQ.USER.INFO.X",
]


def test_a_robot_cannot_speak_for_others_nor_touch_the_queue(fleet: Guarded):
    NatsBus(fleet.links["r2"], timeout_s=TIMEOUT_S).publish("episodes.r2", {"b": 2}, "two")
    for subject in ROBOT_MUST_NOT:
        with pytest.raises(StoreError, match="not allowed"):
            fleet.links["r1"].request(subject, b"{}", TIMEOUT_S)
    assert [message.payload for message in drain(fleet)] == [{"b": 2}]


@pytest.mark.parametrize(
    ("who", "subject"),
    [
        ("learner", "episodes.learner.x"),
        ("learner", "$JS.API.STREAM.CREATE.EPISODES"),
        ("learner", "$JS.API.STREAM.PURGE.SNAPSHOT"),
        ("learner", "$JS.API.CONSUMER.MSG.NEXT.EPISODES.x"),
        ("learner", "release.arm"),
        ("learner", "$JS.API.STREAM.CREATE.RELEASE"),
        ("promoter", "snapshot.newest"),
        ("promoter", "episodes.promoter.x"),
        ("promoter", "$JS.API.STREAM.PURGE.RELEASE"),
        ("promoter", "$JS.API.STREAM.CREATE.SNAPSHOT"),
        ("evaluator", "release.arm"),
        ("server", "release.arm"),
        ("operator", "release.arm"),
        ("coordinator", "release.arm"),
        ("coordinator", "snapshot.newest"),
        ("coordinator", "$JS.API.STREAM.DELETE.EPISODES"),
        ("coordinator", "$JS.API.STREAM.PURGE.EPISODES"),
        ("coordinator", "episodes.r1.x"),
        ("evaluator", "episodes.r1.x"),
        ("evaluator", "snapshot.newest"),
        ("operator", "snapshot.newest"),
        ("operator", "$JS.API.STREAM.DELETE.EPISODES"),
        ("operator", "episodes.r1.x"),
    ],
)
def test_services_have_only_what_they_need(fleet: Guarded, who: str, subject: str):
    with pytest.raises(StoreError, match="not allowed"):
        fleet.links[who].request(subject, b"{}", TIMEOUT_S)


class Ear:
    """Subscribes to what it should not hear."""

    def __init__(self, subject: str) -> None:
        self.subject, self.heard = subject, []

    async def connected(self, client):
        async def hear(message) -> None:
            self.heard.append(message.subject)

        return await client.subscribe(self.subject, cb=hear)

    def close(self) -> None:
        pass


def test_a_robot_hears_nothing_but_its_own_inbox_and_snapshots(fleet: Guarded):
    robot, other = fleet.links["r1"], fleet.links["r2"]
    ears = [
        Ear(subject)
        for subject in (">", "episodes.>", "status.>", "calls.>", "_INBOX.>", "_INBOX.r2.>", "$JS.>")
    ]
    kept = [robot.keep(ear) for ear in ears]
    NatsBus(other, timeout_s=TIMEOUT_S).publish("episodes.r2", {})
    other.publish("status.r2", b"{}")
    with pytest.raises(StoreError):
        other.request("calls.r2.nobody", b"{}", TIMEOUT_S)
    assert len(drain(fleet)) == 1
    NatsBus(robot, timeout_s=TIMEOUT_S).publish(
        "episodes.r1", {}
    )  # whatever was to be heard came before its answer
    assert [ear.heard for ear in ears] == [[]] * len(ears)
    for closeable in kept:
        closeable.close()
    drain(fleet)


def test_where_a_robot_sends_its_answers_it_can_put_rubbish_but_nothing_that_is_believed(fleet: Guarded):
    """NATS lets a client name any subject for the server's answer to its publish. What comes of it is no event, no
    snapshot and no request, and the newest snapshot is back in its place soon."""
    channel = NatsChannel(fleet.links["learner"], KEY.public_key())
    newest = next(NUMBERS)
    channel.announce(make(newest))
    assert channel.flush(TIMEOUT_S)
    api, operator = "$JS.API", fleet.links["operator"]

    def streams() -> int:
        return json.loads(operator.request(f"{api}.INFO", b"", TIMEOUT_S).data)["streams"]

    before = streams()
    for number, reply in enumerate(
        [
            "episodes.r2.stray",
            SNAPSHOT_SUBJECT,
            f"{api}.STREAM.PURGE.EPISODES",
            f"{api}.STREAM.DELETE.EPISODES",
            f"{api}.STREAM.DELETE.SNAPSHOT",
            f"{api}.STREAM.UPDATE.EPISODES",
            f"{api}.STREAM.CREATE.MINE",
        ]
    ):

        async def stray(client, number=number, reply=reply) -> None:
            await client.publish(f"episodes.r1.{number}", b"{}", reply=reply)

        fleet.links["r1"].run("stray", stray, TIMEOUT_S)
    fleet.links["r1"].run("flush", lambda client: client.flush(10), TIMEOUT_S)
    time.sleep(0.5)
    found = drain(fleet)
    assert len(found) == 7 + 1
    for message in found:
        if message.subject == "episodes.r2":
            with pytest.raises(EpisodeError, match="schema"):
                parse_event(message.payload)
    for stream in ("EPISODES", "SNAPSHOT"):
        assert "error" not in json.loads(operator.request(f"{api}.STREAM.INFO.{stream}", b"", TIMEOUT_S).data)
    assert streams() == before

    def back() -> bool:
        late = NatsChannel(fleet.links["r2"], KEY.public_key(), first_wait_s=TIMEOUT_S)
        try:
            return late.newest() == newest
        finally:
            late.close()

    until(back)
    channel.close()


def refused(link: NatsLink) -> bool:
    """Whether it tried and was turned away, more than once."""
    with link:
        until(lambda: "never up" not in link.cause or link.connected)
        time.sleep(0.5)
        return not link.connected


def test_strangers_are_not_let_in(fleet: Guarded, tmp_path: Path):
    url, own = fleet.server.url.replace("nats:", "tls:"), fleet.credentials["r1"]
    anonymous = TlsIdentity(ca=own.ca)
    assert refused(NatsLink(url, identity=anonymous, backoff_s=QUICK))
    assert refused(NatsLink(fleet.server.url, backoff_s=QUICK))  # no TLS
    # Another authority that says the same of itself: its certificate carries the very name of r1.
    forged = Authority.create(tmp_path / "forged", "kitchen", [url], KEY.public_key()).invite("r1")
    assert refused(open_link(forged, ca=own.ca))
    # Our authority, but nobody that was invited.
    unlisted = fleet.authority.invite("unlisted")
    assert refused(open_link(unlisted))
    # A robot does not talk to a server of another authority either.
    assert refused(open_link(own, ca=forged.ca))
    assert refused(open_link(own, servers=(url.replace("127.0.0.1", "localhost"),)))  # the name is checked
    fleet.authority.revoke("unlisted")


def test_an_expired_certificate_is_refused_even_where_it_is_still_listed(fleet: Guarded):
    slow = Authority(fleet.authority.folder, clock=lambda: time.time() - 43200.0)
    expired = slow.invite("late", days=0.25)
    fleet.server.configuration.write_text(configuration(slow, fleet.server))
    assert expired.id in fleet.server.configuration.read_text()
    broker.reload(fleet.server.pidfile)
    time.sleep(0.5)
    assert refused(open_link(expired))
    fleet.authority.revoke("late")
    fleet.reload()


def test_a_copied_credential_works_until_it_is_revoked_and_never_again(fleet: Guarded):
    stolen = fleet.invite("r3")
    with open_link(stolen) as robot, open_link(stolen) as thief:
        for link in (robot, thief):
            link.publish("status.r3", b"{}", TIMEOUT_S)
        fleet.authority.revoke("r3")
        fleet.reload()
        until(lambda: not robot.connected and not thief.connected)  # thrown out, not only kept out
        assert refused(open_link(stolen))
        renewed = fleet.invite("r3")
        with open_link(renewed) as again:
            NatsBus(again, timeout_s=TIMEOUT_S).publish("episodes.r3", {})
        assert not robot.connected
        assert not thief.connected
        assert refused(open_link(stolen))
    fleet.links["r1"].publish("status.r1", b"{}", TIMEOUT_S)  # the others noticed nothing
    assert [message.subject for message in drain(fleet)] == ["episodes.r3"]


def test_a_connection_without_tls_gets_nothing_to_read(fleet: Guarded):
    with socket.create_connection(("127.0.0.1", fleet.server.port), 10.0) as raw:
        raw.settimeout(1.0)
        with pytest.raises(TimeoutError):
            raw.recv(1)  # not even the server's greeting
