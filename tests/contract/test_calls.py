"""What every implementation of calls must do."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import pytest
from servers import NatsServer

from lwd.errors import ConfigError, StoreError
from lwd.log.bus import MAX_PAYLOAD_BYTES
from lwd.log.calls import (
    CallBusyError,
    CallRefusedError,
    Calls,
    Closeable,
    LocalCalls,
    NatsCalls,
    answer,
    read_answer,
)
from lwd.log.nats_link import NatsLink


@contextmanager
def nats_calls(server: NatsServer) -> Iterator[Calls]:
    with NatsLink(server.url) as link:
        yield NatsCalls(link)


@pytest.fixture(params=["local", "nats"])
def calls(request: pytest.FixtureRequest) -> Iterator[Calls]:
    opener: AbstractContextManager[Calls] = nullcontext(LocalCalls())
    if request.param == "nats":
        opener = nats_calls(request.getfixturevalue("nats_server"))
    with opener as opened:
        yield opened


@pytest.fixture
def serve(calls: Calls) -> Iterator[Callable[..., Closeable]]:
    served: list[Closeable] = []

    def both(*arguments) -> Closeable:
        served.append(calls.serve(*arguments))
        return served[-1]

    yield both
    for closeable in served:
        closeable.close()


def test_a_call_is_answered_and_the_subject_says_who_asks(calls: Calls, serve):
    assert isinstance(calls, Calls)
    serve(
        "calls.*.double", lambda subject, payload: {"who": subject.split(".")[1], "twice": 2 * payload["n"]}
    )
    answered = calls.call("calls.r-1.double", {"n": 4, "text": "ü"}, timeout_s=20.0)
    assert answered == {"who": "r-1", "twice": 8}


def test_a_refusal_travels_with_its_text_and_a_bug_without(calls: Calls, serve):
    def refuse(subject: str, payload):
        raise ConfigError("robot 'r1' has no bucket; ask the operator.")

    def fail(subject: str, payload):
        raise ValueError("the secret is 42")

    serve("calls.*.refuse", refuse)
    serve("calls.*.fail", fail)
    serve("calls.*.nothing", lambda subject, payload: None)
    with pytest.raises(CallRefusedError, match="r1' has no bucket; ask the operator"):
        calls.call("calls.r1.refuse", {}, timeout_s=20.0)
    with pytest.raises(StoreError, match="the handler failed") as caught:
        calls.call("calls.r1.fail", {}, timeout_s=20.0)
    assert "42" not in str(caught.value)
    with pytest.raises(StoreError, match="refused"):
        calls.call("calls.r1.nothing", {}, timeout_s=20.0)


def test_nobody_serves_it(calls: Calls, serve):
    with pytest.raises(StoreError, match="nobody"):
        calls.call("calls.r1.other", {}, timeout_s=20.0)
    closeable = serve("calls.*.other", lambda subject, payload: {})
    calls.call("calls.r1.other", {}, timeout_s=20.0)
    for bad in ("calls.r1.more.other", "calls.r1"):
        with pytest.raises(StoreError, match="nobody"):
            calls.call(bad, {}, timeout_s=20.0)
    closeable.close()
    closeable.close()
    deadline = time.monotonic() + 20.0
    while time.monotonic() < deadline:
        try:
            calls.call("calls.r1.other", {}, timeout_s=20.0)
        except StoreError:
            return
    raise AssertionError("still served after it was closed")


def test_a_slow_handler_does_not_hold_its_caller_nor_others(calls: Calls, serve):
    go = threading.Event()
    serve("calls.*.slow", lambda subject, payload: {"done": go.wait(60.0)})
    serve("calls.*.quick", lambda subject, payload: {})
    began = time.monotonic()
    with pytest.raises(StoreError, match=r"within 0\.3 s"):
        calls.call("calls.r1.slow", {}, timeout_s=0.3)
    assert time.monotonic() - began < 10.0
    assert calls.call("calls.r1.quick", {}, timeout_s=20.0) == {}
    go.set()


def test_payloads_are_checked_on_both_sides(calls: Calls, serve):
    serve("calls.*.large", lambda subject, payload: {"x": "y" * MAX_PAYLOAD_BYTES})
    serve("calls.*.fits", lambda subject, payload: {"x": "y" * (MAX_PAYLOAD_BYTES - 100)})
    with pytest.raises(StoreError, match="not JSON"):
        calls.call("calls.r1.large", {"x": float("inf")})
    with pytest.raises(StoreError, match="bytes"):
        calls.call("calls.r1.large", {"x": "y" * MAX_PAYLOAD_BYTES})
    with pytest.raises(CallRefusedError, match="bytes"):
        calls.call("calls.r1.large", {}, timeout_s=20.0)
    assert len(calls.call("calls.r1.fits", {}, timeout_s=20.0)["x"]) == MAX_PAYLOAD_BYTES - 100
    for bad in ("", "a b", "a..b", "calls.>", "ä"):
        with pytest.raises(StoreError, match="not allowed"):
            calls.serve(bad, lambda subject, payload: {})
        with pytest.raises(StoreError, match="not allowed"):
            calls.call(bad, {})


def test_rubbish_is_refused_and_never_raises():
    for question in (b"", b"\xff", b"[]", b"1" * 5000, b"[" * 100_000, b'{"a": NaN}', b"{}" + b" " * 10**6):
        with pytest.raises(CallRefusedError):
            read_answer("s", answer(lambda subject, payload: {}, "s", question))
    for reply in (b'{"answer": 3}', b'{"error": "x"}', b"{}"):
        with pytest.raises(CallRefusedError):
            read_answer("s", reply)


def test_too_many_calls_is_not_a_refusal():
    busy = b'{"error": {"kind": "Busy", "text": "too many calls wait here"}}'
    with pytest.raises(CallBusyError, match="too many calls"):
        read_answer("calls.robot7.who", busy)
    assert not issubclass(CallBusyError, CallRefusedError)
    with pytest.raises(CallRefusedError) as refused:
        read_answer("calls.robot7.who", b'{"error": {"kind": "NotAllowedError", "text": "no"}}')
    assert refused.value.kind == "NotAllowedError"
