"""The policy server on a loopback socket: many clients at once, batches, snapshots, strangers, and clients that misbehave."""

import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from serving import KEYS, SPEC, Client, MarkedRunner, frame, serving, until
from websockets.exceptions import ConnectionClosed, InvalidStatus

from lwd.errors import ConfigError
from lwd.fleet.serve.batcher import BatchSettings
from lwd.fleet.serve.held import HeldSnapshots, NoSnapshotError, SnapshotGoneError
from lwd.fleet.serve.server import PolicyServer, ServerSettings
from lwd.fleet.serve.tokens import TokenFile, new_token
from lwd.fleet.telemetry import Telemetry

HERE = Path(__file__).parent


def snapshot_in(answer):
    """Which snapshot computed the numbers of a chunk; all of them must say the same."""
    (number,) = set(np.round(answer["actions"][:, 0] * 100).astype(int).tolist())
    return number


def test_an_answer_is_a_chunk_that_names_its_snapshot():
    with serving([3]) as s, Client(s.url) as client:
        assert client.metadata["robot_spec"] == "line"
        assert client.metadata["action_horizon"] == 4
        assert client.metadata["snapshot"] == 3
        assert client.metadata["server"] == "test"
        answer = client.ask(x=0.25)
        assert answer["actions"].dtype == np.float32
        np.testing.assert_allclose(answer["actions"], np.tile([0.03, 0.25], (4, 1)), rtol=1e-6)
        assert answer["snapshot"] == snapshot_in(answer) == 3
        timing = answer["server_timing"]
        assert {"infer_ms", "wait_ms", "batch_rows"} == set(timing)
        assert client.ask()["server_timing"]["prev_total_ms"] > 0
        # openpi's chunk broker slices every array of an answer by the control step.
        assert [key for key, value in answer.items() if isinstance(value, np.ndarray)] == ["actions"]


def held_back(s, clients):
    """Lets the first client's request occupy the policy, and the others' wait."""
    s.runner.gate.clear()
    clients[0].send(x=0.0)
    until(lambda: s.runner.calls == 1)
    for i, client in enumerate(clients[1:], 1):
        client.send(x=i / 10)
    until(lambda: s.server.status()["waiting"] == len(clients) - 1)


@contextmanager
def several(s, count):
    with ExitStack() as stack:
        yield [stack.enter_context(Client(s.url)) for _ in range(count)]


def test_requests_that_wait_become_one_batch_and_each_client_gets_its_own_row():
    with serving() as s, several(s, 8) as clients:
        held_back(s, clients)
        s.runner.gate.set()
        for i, client in enumerate(clients):
            assert client.recv()["actions"][0, 1] == pytest.approx(i / 10)
        assert [len(batch) for batch in s.runner.batches] == [1, 7]
        assert s.count("serve_rows_total") == 8
        assert s.telemetry.summary()["serve_request_seconds"]["count"] == 8


def test_no_batch_is_larger_than_the_policy_bears():
    with serving(batch=BatchSettings(max_batch=3)) as s, several(s, 8) as clients:
        held_back(s, clients)
        s.runner.gate.set()
        assert all("actions" in client.recv() for client in clients)
        assert [len(batch) for batch in s.runner.batches] == [1, 3, 3, 1]


def test_the_first_request_waits_for_others_that_may_come_and_for_nobody_else():
    with serving(batch=BatchSettings(collect_s=3600.0)) as s, Client(s.url) as client:
        assert "actions" in client.ask()  # nobody else is connected
        with Client(s.url) as other:
            client.send()
            assert other.ask()["server_timing"]["batch_rows"] == 2
            assert "actions" in client.recv()
    with serving(batch=BatchSettings(collect_s=0.05)) as s, several(s, 2) as clients:
        assert clients[0].ask()["server_timing"]["wait_ms"] > 40


def test_a_stalled_client_delays_nobody():
    """One client's process is stopped with requests under way and half a frame sent; the others never wait for it."""
    program = (
        "import sys, time; sys.path.insert(0, sys.argv[2]); from serving import *\n"
        "c = Client(sys.argv[1])\n"
        "for _ in range(20): c.send()\n"
        "c.socket.socket.sendall(b'\\x82\\xfe\\x0f')\n"
        "print('sent', flush=True); time.sleep(60)"
    )
    with serving() as s, Client(s.url) as client:
        command = [sys.executable, "-c", program, s.url, str(HERE)]
        stalled = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            assert stalled.stdout.readline() == b"sent\n"
            stalled.send_signal(signal.SIGSTOP)
            for _ in range(30):
                assert "actions" in client.ask()
            assert s.server.status()["clients"] == 2
        finally:
            stalled.kill()
            stalled.wait()
            stalled.stdout.close()
        until(lambda: s.server.status()["clients"] == 1)


def test_a_client_that_goes_away_in_mid_request_costs_no_row():
    with serving() as s, Client(s.url) as client:
        s.runner.gate.clear()
        client.send(x=0.1)  # occupies the policy
        until(lambda: s.runner.calls == 1)
        gone = Client(s.url)
        gone.send(x=0.2)
        until(lambda: s.server.status()["waiting"] == 1)
        gone.socket.socket.close()
        until(lambda: s.server.status()["clients"] == 1)
        s.runner.gate.set()
        assert "actions" in client.recv()
        assert "actions" in client.ask(x=0.3)
        xs = [round(x, 1) for batch in s.runner.batches for _, x in batch]
        assert xs == [0.1, 0.3]
        assert s.count("serve_dropped_total") == 1


def test_too_many_requests_are_told_so_at_once():
    with serving(batch=BatchSettings(max_batch=1, max_waiting=2)) as s, several(s, 3) as clients:
        held_back(s, clients)
        with Client(s.url) as late:
            assert late.ask().startswith("busy: 2 requests wait")
            s.runner.gate.set()
            assert all("actions" in client.recv() for client in clients)
            assert "actions" in late.ask()  # the connection is as good as before
        assert s.count("serve_busy_total") == 1


def test_who_waited_too_long_is_told_so():
    with serving(batch=BatchSettings(max_batch=1, patience_s=0.1)) as s, several(s, 2) as clients:
        held_back(s, clients)
        time.sleep(0.2)
        s.runner.gate.set()
        assert "actions" in clients[0].recv()
        assert clients[1].recv().startswith("busy: the request waited")


def test_a_policy_that_fails_is_said_and_the_next_call_works():
    with serving() as s, Client(s.url) as client:
        s.runner.fails = 1
        assert client.ask().startswith(
            "failed: the policy's call failed: ValueError: the accelerator fell off"
        )
        assert "actions" in client.ask()
        s.runner.poison = 0.75
        assert client.ask(x=0.75).startswith("failed: snapshot 1 gave a chunk that is not finite")
        assert "actions" in client.ask(x=0.5)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prompt": None}, "observation: key 'prompt' is missing"),
        ({"observation/state": np.zeros(3)}, "observation: the state has 3 numbers"),
        ({"observation/state": np.array([np.nan, 0])}, "observation: key 'observation/state': 1 of 2"),
        ({"lwd/sed": 1}, "observation: key 'lwd/sed' is not known"),
        ({"lwd/snapshot": 9}, "snapshot: snapshot 9 is not loaded here"),
    ],
)
def test_a_request_that_makes_no_sense_gets_a_sentence_and_the_connection_stays(changes, says):
    with serving() as s, Client(s.url) as client:
        assert client.ask(**changes).startswith(says)
        assert "actions" in client.ask()
        assert sum(len(batch) for batch in s.runner.batches) == 1


@pytest.mark.parametrize("data", [b"\xc1garbage", b"", "text", frame({"a": 1})[:-1], b"\x90"])
def test_garbage_gets_a_sentence_and_is_hung_up_on(data):
    with serving() as s, Client(s.url) as other:
        client = Client(s.url)
        client.socket.send(data)
        assert client.recv().startswith("protocol: ")
        with pytest.raises(ConnectionClosed):
            client.recv()
        assert "actions" in other.ask()


def test_a_frame_that_is_too_large_is_hung_up_on():
    with serving(settings=ServerSettings(port=0, max_frame_bytes=10_000)) as s, Client(s.url) as other:
        client = Client(s.url)
        client.socket.send(frame({"observation/state": np.zeros(5000)}))
        with pytest.raises(ConnectionClosed) as closed:
            client.recv()
        assert closed.value.rcvd.code == 1009
        assert "actions" in other.ask()


# ---- snapshots -------------------------------------------------------------------------------------------


def test_an_episode_keeps_its_snapshot_and_the_next_one_gets_the_newest():
    with serving([1]) as s, Client(s.url) as client, Client(s.url) as other:
        assert snapshot_in(client.ask()) == 1
        s.held.add(2, None)
        assert snapshot_in(client.ask()) == 1  # a connection without named episodes is one episode
        assert snapshot_in(other.ask()) == 2
        assert snapshot_in(client.ask(lwd_reset=True)) == 2
        assert snapshot_in(client.ask(lwd_episode="a")) == 2
        s.held.add(3, None)
        assert snapshot_in(client.ask(lwd_episode="a")) == 2
        assert snapshot_in(client.ask(lwd_episode="b")) == 3
        with Client(s.url) as back:
            assert snapshot_in(back.ask(lwd_episode="a")) == 2  # the connection broke, the episode did not
            assert back.ask(lwd_episode="a", lwd_snapshot=3).startswith("snapshot: this episode runs under")
            assert snapshot_in(back.ask(lwd_episode="a", lwd_reset=True)) == 3
        assert client.ask(lwd_begin=True, lwd_episode="c")["snapshot"] == 3


def test_robots_of_several_snapshots_in_one_batch_each_get_their_own():
    with serving([1]) as s, several(s, 6) as clients:
        for i, client in enumerate(clients):
            if i in (2, 4):
                s.held.add(1 + i // 2, None)
            assert snapshot_in(client.ask()) == 1 + i // 2
        s.runner.calls = 0
        held_back(s, clients)
        s.runner.gate.set()
        for i, client in enumerate(clients):
            answer = client.recv()
            assert snapshot_in(answer) == answer["snapshot"] == 1 + i // 2
        assert {number for number, _ in s.runner.batches[-1]} == {1, 2, 3}


def test_snapshots_are_dropped_when_nobody_needs_them_any_more():
    now = [0.0]
    runner = MarkedRunner()
    held = HeldSnapshots(runner, room=3, linger_s=30.0, clock=lambda: now[0])
    with pytest.raises(NoSnapshotError):
        held.begin("arm", None, None)
    held.add(1, None)
    first = held.begin("arm", "e", None)
    assert first.snapshot == 1
    held.add(2, None)
    now[0] = 100.0
    assert held.make_room()
    assert runner.loaded == {1, 2}  # an episode holds 1
    held.end(first)
    now[0] = 129.0
    held.make_room()
    again = held.begin("arm", "e", None)
    assert again.snapshot == 1  # back within 30 s
    held.end(first)  # it has nothing any more to let go of
    held.end(again)
    held.add(3, None)
    assert not held.make_room()
    now[0] = 160.0
    assert held.make_room()
    assert runner.loaded == {3}
    with pytest.raises(SnapshotGoneError, match="snapshot 1 is not loaded here"):
        held.begin("arm", "e", None)
    assert held.begin("arm", "e", None, fresh=True).snapshot == 3
    assert held.begin("another arm", "e", None).snapshot == 3


def test_what_is_kept_stays_loaded_and_an_older_one_may_be_served_again():
    runner = MarkedRunner()
    held = HeldSnapshots(runner, room=3, linger_s=0.0)
    held.keep((4, 5))
    held.add(4, None)
    held.add(5, None, serve=False)
    stable, pinned = (held.begin("arm", None, number) for number in (None, 5))
    assert (stable.snapshot, pinned.snapshot) == (4, 5)
    held.end(pinned)
    held.serve(5)
    served = held.begin("arm", None, None)
    assert served.snapshot == 5
    held.end(served)
    held.serve(4)  # 5 was rejected
    held.keep((4,))
    assert held.begin("arm", None, None).snapshot == 4
    held.make_room()
    assert runner.loaded == {4}
    with pytest.raises(SnapshotGoneError, match=r"snapshot 5 is not loaded here \(it has \[4\]\)"):
        held.begin("arm", None, 5)


def test_an_episode_that_asks_nothing_for_long_holds_no_room_that_is_needed():
    now = [0.0]
    runner = MarkedRunner()
    held = HeldSnapshots(runner, room=3, linger_s=0.0, silent_s=60.0, clock=lambda: now[0])
    holds = []
    for number in (1, 2, 3):
        held.add(number, None)
        holds.append(held.begin(f"arm {number}", None, None))
        now[0] += 1.0
    now[0] = 60.5
    held.ask(holds[1])
    assert held.make_room(needed=True), "the first one asked 60.5 s ago"
    assert runner.loaded == {2, 3}
    with pytest.raises(
        SnapshotGoneError, match=r"snapshot 1 is not loaded here any more.*more than 60 s.*Begin a new"
    ):
        held.ask(holds[0])
    held.end(holds[0])
    held.add(4, None)
    now[0] = 200.0
    assert not held.make_room(), "nobody needs the room: silent episodes go on"
    held.keep((3,))
    assert held.make_room(needed=True), "what is kept stays, silent or not"
    assert runner.loaded == {3, 4}
    held.add(1, None, serve=False)
    held.ask(holds[0])  # the same policy is there again
    assert not held.make_room(needed=True)


# ---- who may ask -----------------------------------------------------------------------------------------


def health(s):
    try:
        with urllib.request.urlopen(s.url.replace("ws:", "http:") + "/healthz", timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_health_says_whether_a_policy_is_there(tmp_path):
    new_token(tmp_path / "tokens", "arm")
    with serving([], tokens=TokenFile(tmp_path / "tokens")) as s:  # health needs no token
        assert health(s) == (503, b"no snapshot is loaded yet\n")
        s.held.add(1, None)
        assert health(s) == (200, b"OK\n")
    with serving([]) as s, Client(s.url) as client:
        assert client.metadata["snapshot"] is None
        assert client.ask().startswith("waits: no snapshot")
        s.held.add(1, None)
        assert "actions" in client.ask()


def test_only_holders_of_a_token_are_let_in(tmp_path):
    path = tmp_path / "tokens"
    token = new_token(path, "arm")
    with serving(tokens=TokenFile(path)) as s:
        for headers in (
            {},
            {"Authorization": f"Api-Key {token}x"},
            {"Authorization": f"Basic {token}"},
            {"Authorization": token},
        ):
            with pytest.raises(InvalidStatus) as refused:
                Client(s.url, additional_headers=headers)
            assert refused.value.response.status_code == 401
        assert s.count("serve_unauthorized_total") == 4
        for scheme in ("Api-Key", "Bearer", "bearer"):
            with Client(s.url, additional_headers={"Authorization": f"{scheme} {token}"}) as client:
                assert "actions" in client.ask()
        with Client(f"{s.url}/?token={token}") as client:
            assert "actions" in client.ask()
            new_token(path, "arm")  # takes the old one away
            with pytest.raises(ConnectionClosed) as closed:
                client.socket.recv(timeout=10)
            assert closed.value.rcvd.code == 1008


def test_there_is_room_for_so_many():
    with serving(settings=ServerSettings(port=0, max_clients=1)) as s, Client(s.url) as client:
        with pytest.raises(InvalidStatus) as refused:
            Client(s.url)
        assert refused.value.response.status_code == 503
        assert "actions" in client.ask()


def test_a_taken_port_is_said():
    with serving() as s, pytest.raises(ConfigError, match="cannot listen"):
        PolicyServer(s.held, s.runner, SPEC, KEYS, ServerSettings(port=s.server.port), None, Telemetry({}))


def test_tls(tmp_path):
    from lwd.fleet import certificates

    ca = certificates.make_authority("lab", time.time(), 1.0)
    issued = certificates.issue_server(ca, "lab", ["127.0.0.1"], time.time(), 1.0)
    (tmp_path / "cert.pem").write_text(issued.certificate_pem)
    (tmp_path / "key.pem").write_text(issued.key_pem)
    settings = ServerSettings(port=0, certificate=tmp_path / "cert.pem", key=tmp_path / "key.pem")
    context = ssl.create_default_context(cadata=ca.certificate_pem)
    with serving(settings=settings) as s:
        with Client(s.url.replace("ws:", "wss:"), ssl=context) as client:
            assert "actions" in client.ask()
        with pytest.raises(ssl.SSLError):
            Client(s.url.replace("ws:", "wss:"), ssl=ssl.create_default_context())
    (tmp_path / "cert.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match="certificate"), serving(settings=settings):
        pass


def test_closing_ends_connections_and_threads():
    before = {thread.name for thread in threading.enumerate()}
    with serving() as s:
        client = Client(s.url)
        assert "actions" in client.ask()
    with pytest.raises(ConnectionClosed):
        client.recv()
    assert not s.server.alive

    def left() -> list[str]:
        """The policy's thread is told to end, not waited for, since a call may hang."""
        names = {thread.name for thread in threading.enumerate()} - before
        return [name for name in names if name.startswith("lwd-")]

    ended = time.monotonic() + 10.0
    while left() and time.monotonic() < ended:
        time.sleep(0.01)
    assert not left()


# ---- the published client --------------------------------------------------------------------------------


def openpi_python():
    """An interpreter with openpi-client: LWD_OPENPI_PYTHON (it wants NumPy 1), or this one."""
    import importlib.util
    import os

    named = os.environ.get("LWD_OPENPI_PYTHON")
    if named is None and importlib.util.find_spec("openpi_client") is None:
        pytest.skip("openpi-client is in no interpreter; name one in LWD_OPENPI_PYTHON")
    return named or sys.executable


OPENPI = """
import sys
import numpy as np
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy

host, port, key = sys.argv[1], int(sys.argv[2]), sys.argv[3]
policy = WebsocketClientPolicy(host, port, api_key=key)
assert policy.get_server_metadata()["robot_spec"] == "line"
answer = policy.infer({"observation/state": np.array([0.25, 0.0]), "prompt": "Walk."})
assert answer["actions"].shape == (4, 2), answer
assert answer["snapshot"] == 5
broker = ActionChunkBroker(policy, 4)
steps = [broker.infer({"observation/state": np.array([i / 8, 0.0]), "prompt": "Walk."}) for i in range(5)]
assert [float(step["actions"][1]) for step in steps] == [0, 0, 0, 0, 0.5], steps
assert steps[0]["actions"].shape == (2,)
try:
    policy.infer({"observation/state": np.zeros(3), "prompt": "Walk."})
except RuntimeError as error:
    assert "the state has 3 numbers" in str(error), error
else:
    raise AssertionError("no error")
print("openpi-client is content")
"""


def test_the_published_openpi_client_works_unchanged(tmp_path):
    token = new_token(tmp_path / "tokens", "arm")
    with serving([5], tokens=TokenFile(tmp_path / "tokens")) as s:
        command = [openpi_python(), "-c", OPENPI, "127.0.0.1", str(s.server.port), token]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, env={"PATH": "/usr/bin"}, check=False
        )
    assert done.stdout == "openpi-client is content\n", done.stderr
