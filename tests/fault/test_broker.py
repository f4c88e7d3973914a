"""The broker killed, frozen, absent and fed with rubbish: nothing acknowledged comes back, nothing else is lost."""

import socket
import threading
import time

import pytest
from servers import NatsServer, free_port

from lwd.errors import ConfigError, StoreError
from lwd.log.calls import NatsCalls
from lwd.log.nats_bus import NatsBus
from lwd.log.nats_link import NatsLink

QUICK = (0.05, 0.2)


def publish_stubbornly(bus: NatsBus, subject: str, number: int) -> None:
    deadline = time.monotonic() + 60.0
    while True:
        try:
            return bus.publish(subject, {"i": number}, f"id-{number}")
        except StoreError:
            assert time.monotonic() < deadline


def test_killed_again_and_again_while_messages_flow(own_nats_server: NatsServer):
    """Four kills: each message that was published is seen, and none after its acknowledgement."""
    total, acknowledged, late = 120, set(), []
    with (
        NatsLink(own_nats_server.url, backoff_s=QUICK) as up,
        NatsLink(own_nats_server.url, backoff_s=QUICK) as down,
    ):
        sender, receiver = NatsBus(up, timeout_s=2.0), NatsBus(down, timeout_s=2.0)
        receiver.prepare()
        thread = threading.Thread(
            target=lambda: [publish_stubbornly(sender, "episodes.r1", i) for i in range(total)]
        )
        thread.start()
        deadline, kills = time.monotonic() + 200.0, 0
        while len(acknowledged) < total and time.monotonic() < deadline:
            try:
                found = receiver.consume("episodes.*", limit=7, visibility_s=1.0, wait_s=0.2)
                numbers = [message.payload["i"] for message in found]
                late += [number for number in numbers if number in acknowledged]
                receiver.ack(found)
                acknowledged.update(numbers)
            except StoreError:
                continue
            if len(acknowledged) >= (kills + 1) * total // 5 and kills < 4:
                own_nats_server.restart()  # right after an acknowledgement
                kills += 1
        thread.join(60.0)
        assert (len(acknowledged), late, kills) == (total, [], 4)
        assert receiver.waiting("episodes.*") == 0


def test_a_claim_that_the_broker_forgot_is_delivered_again(own_nats_server: NatsServer):
    """It may have been killed before it wrote down who claimed what: then the acknowledgement says that it failed."""
    with NatsLink(own_nats_server.url, backoff_s=QUICK) as link:
        bus = NatsBus(link, timeout_s=5.0)
        bus.prepare()
        bus.publish("episodes.r1", {})
        (message,) = bus.consume("episodes.*")
        own_nats_server.restart()
        try:
            bus.ack([message])
        except StoreError:
            (message,) = bus.consume("episodes.*", wait_s=5.0)
            bus.ack([message])
        assert bus.waiting("episodes.*") == 0
        assert bus.consume("episodes.*", wait_s=0.2) == []


def test_absent_at_the_start_everything_waits_within_its_time(own_nats_server: NatsServer):
    own_nats_server.kill()
    with NatsLink(own_nats_server.url, backoff_s=QUICK) as link:
        bus = NatsBus(link, timeout_s=0.3)
        began = time.monotonic()
        with pytest.raises(StoreError, match=r"no link within 0\.3 s.*The link is down"):
            bus.publish("episodes.r1", {})
        with pytest.raises(StoreError, match="no link"):
            bus.consume("episodes.*")
        assert time.monotonic() - began < 10.0
        served = NatsCalls(link).serve("calls.*.hello", lambda subject, payload: {"to": subject})
        own_nats_server.start()
        patient = NatsBus(link, timeout_s=30.0)
        patient.prepare()
        patient.publish("episodes.r1", {})
        assert len(patient.consume("episodes.*")) == 1
        assert NatsCalls(link).call("calls.r1.hello", {}, timeout_s=30.0) == {"to": "calls.r1.hello"}
        own_nats_server.restart()
        assert NatsCalls(link).call("calls.r1.hello", {}, timeout_s=30.0) == {"to": "calls.r1.hello"}
        served.close()
    with pytest.raises(StoreError, match="closed"):
        bus.publish("episodes.r1", {})
    link.close()


def test_a_frozen_broker_is_noticed_and_costs_no_more_than_the_timeout(own_nats_server: NatsServer):
    with NatsLink(own_nats_server.url, backoff_s=QUICK, ping_s=0.5) as link:
        bus = NatsBus(link, timeout_s=1.0)
        NatsBus(link, timeout_s=30.0).prepare()
        own_nats_server.pause()
        with pytest.raises(StoreError, match="episodes"):
            bus.publish("episodes.r1", {}, "one")
        deadline = time.monotonic() + 30.0
        while link.connected:  # it has no way to say that it is gone: our own signs of life find it
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert "sign of life" in link.cause or "ended" in link.cause
        own_nats_server.resume()
        patient = NatsBus(link, timeout_s=30.0)
        patient.publish("episodes.r1", {}, "one")
        assert len(patient.consume("episodes.*", wait_s=1.0)) == 1


def test_a_call_that_waits_ends_when_the_link_is_closed(own_nats_server: NatsServer):
    link = NatsLink(own_nats_server.url)
    bus = NatsBus(link, timeout_s=30.0)
    bus.prepare()
    closing = threading.Timer(0.5, link.close)
    closing.start()
    with pytest.raises(StoreError):
        bus.consume("episodes.*", wait_s=30.0)
    closing.join()


HOSTILE = [
    (b"episodes.r1.a", b"NATS/1.0", b"{}"),
    (b"episodes.r1.b", b"NATS/1.0\r\n\r\n", b"\xff\xfe"),
    (b"episodes.r1.c", b"NATS/1.0 404 \xff\xfe\r\n\r\n", b"{}"),
    (b"episodes.r1.d", b"NATS/1.0\r\nStatus: 404\r\n\r\n", b"[]"),
    (b"episodes.r1.e", b"NATS/1.0 408\r\nStatus\r\n\xff: \xff\r\n\r\n", b""),
    (b"episodes.r1.\xff\xfe", b"NATS/1.0\r\n: \r\n\r\n", b'{"a": NaN}'),
    (b"episodes.r1.f", b"XXXXXXXXXXXX\x00\r\n\r\n", b"[" * 5000),
]


def say(server: NatsServer, words: bytes) -> None:
    """Send raw bytes, and return when the server has taken them in or has hung up."""
    with socket.create_connection(("127.0.0.1", server.port), 10.0) as raw:
        raw.settimeout(30.0)
        raw.sendall(b'CONNECT {"verbose":false,"headers":true}\r\n' + words + b"PING\r\n")
        heard = b""
        while b"PONG" not in heard and (more := raw.recv(65536)):
            heard += more


def test_messages_that_the_client_cannot_read_are_seen_and_settled(own_nats_server: NatsServer):
    """One such message must not stop the queue, nor come back for ever: it arrives, as something to be refused."""
    with NatsLink(own_nats_server.url, backoff_s=QUICK) as link:
        bus = NatsBus(link)
        bus.prepare()
        for subject, headers, body in HOSTILE:
            line = b"HPUB %s %d %d\r\n" % (subject, len(headers), len(headers) + len(body))
            say(own_nats_server, line + headers + body + b"\r\n")
        deadline = time.monotonic() + 20.0
        while bus.waiting("episodes.*") < len(HOSTILE):  # it stores them after it has answered
            assert time.monotonic() < deadline
        bus.publish("episodes.r2", {"good": True})
        found = bus.consume("episodes.*", wait_s=5.0)
        assert len(found) == len(HOSTILE) + 1
        assert [message.payload for message in found if message.subject == "episodes.r2"] == [{"good": True}]
        assert {message.subject for message in found} == {"episodes.r1", "episodes.r2"}
        assert sum("malformed" in message.payload for message in found) >= 3
        bus.ack(found)
        assert bus.waiting("episodes.*") == 0


def test_addresses_that_cannot_work_are_refused():
    for bad in ("", "http://x:1", "nats://", "nats://host:port", []):
        with pytest.raises(ConfigError, match="NATS address"):
            NatsLink(bad)
    with NatsLink(f"nats://me:secret@127.0.0.1:{free_port()}") as link, pytest.raises(StoreError) as caught:
        link.publish("s", b"", timeout_s=0.1)
    assert "secret" not in str(caught.value)
