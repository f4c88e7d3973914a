"""A small chaos run over the whole networked stack; and its parts: schedule, proxy, witness and verdict can each fail."""

from __future__ import annotations

import hashlib
import http.server
import itertools
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from benchmarks.chaos.judge import count, learning, manifest_problems
from benchmarks.chaos.observer import Growth
from benchmarks.chaos.process import set_clock
from benchmarks.chaos.proxy import Proxies, Proxy
from benchmarks.chaos.schedule import KINDS, schedule
from benchmarks.chaos.witness import Witnessed
from lwd.errors import StoreError
from lwd.log.catalogue import EpisodeRow
from lwd.log.manifest import Manifest

ROOT = Path(__file__).resolve().parents[2]
ROBOTS, EPISODES = 3, 30


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_is_lost_or_counted_twice_whatever_dies(tmp_path: Path):
    result = tmp_path / "chaos.json"
    command = [sys.executable, "-m", "benchmarks.chaos", "--seed", "0", "--robots", str(ROBOTS)]
    command += ["--episodes", str(EPISODES), "--faults", str(len(KINDS)), "--limit-s", "400"]
    command += ["--out", str(tmp_path / "run"), "--result", str(result)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    found = json.loads(result.read_text())
    assert found["faults"] == len(KINDS)
    assert found["episodes_finished"] >= EPISODES
    assert found["episodes_finished"] == found["episodes_catalogued"] == found["episodes_identical"]
    assert (found["duplicates"], found["manual_restarts"], found["seed"]) == (0, 0, 0)
    assert found["supervisor_restarts"] >= sum(
        fault["kind"].startswith("kill_") for fault in found["fault_list"]
    )


# ---- the schedule -----------------------------------------------------------------------------------------------------


def test_faults_follow_from_the_seed_and_each_round_has_every_kind():
    first = list(itertools.islice(schedule(7, 16), 100))
    assert first == list(itertools.islice(schedule(7, 16), 100))
    assert first != list(itertools.islice(schedule(8, 16), 100))
    for start in range(0, 80, len(KINDS)):
        assert Counter(fault.kind for fault in first[start : start + len(KINDS)]) == Counter(KINDS)


def test_a_kind_that_is_skipped_changes_nothing_else():
    whole = [fault for fault in itertools.islice(schedule(1, 4), 200) if fault.kind != "full_disk"]
    rest = list(itertools.islice(schedule(1, 4, {"full_disk"}), 150))
    assert [(fault.kind, fault.target, fault.seed) for fault in rest] == [
        (fault.kind, fault.target, fault.seed) for fault in whole[:150]
    ]


# ---- the proxy --------------------------------------------------------------------------------------------------------


class Keeper(http.server.BaseHTTPRequestHandler):
    """Keeps what is put, and says how much of it came."""

    protocol_version = "HTTP/1.1"
    got: ClassVar[list[int]] = []

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.got.append(len(body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    Keeper.got = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Keeper)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with Proxies() as proxies:
        yield proxies.open(server.server_address[1])
    server.shutdown()
    server.server_close()
    thread.join(10.0)


def put(proxy: Proxy, timeout_s: float = 10.0) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{proxy.port}/one", data=bytes(100_000), method="PUT")
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:
        return answer.status


def test_a_torn_upload_arrives_in_part_and_the_next_one_whole(proxy: Proxy):
    assert put(proxy) == 200
    proxy.tear(1)
    with pytest.raises(OSError):  # noqa: PT011 - reset or cut off, as the kernel likes
        put(proxy)
    assert proxy.torn == 1
    assert put(proxy) == 200
    deadline = time.monotonic() + 10.0
    while len(Keeper.got) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)  # the server may come to the torn one after the one behind it
    torn, one, another = sorted(Keeper.got)
    assert (one, another) == (100_000, 100_000)
    assert 0 < torn < 100_000


def test_a_half_open_link_takes_everything_and_answers_nothing(proxy: Proxy):
    proxy.half_open(True)
    with pytest.raises(TimeoutError):
        put(proxy, 0.5)
    assert Keeper.got == []
    proxy.half_open(False)
    assert put(proxy) == 200


def test_a_link_can_be_slow(proxy: Proxy):
    proxy.slow(5.0)
    with pytest.raises(TimeoutError):
        put(proxy, 0.5)
    proxy.slow(0.0)
    assert put(proxy) == 200


# ---- witness and clock ------------------------------------------------------------------------------------------------

WITNESSED = """
import os, sys, time
from benchmarks.chaos.process import moved_clock, witness
from pathlib import Path
from typing import ClassVar
folder = Path(sys.argv[1])
witness(folder / "witness")
moved_clock(folder / "clock")
spool = folder / "spool"
spool.mkdir()
for data in (b"first", b"second"):
    (spool / "a1.part").write_bytes(data)
    os.replace(spool / "a1.part", spool / "a1.mcap")
(spool / "b2.part").write_bytes(b"not finished")
os.replace(spool / "b2.part", spool / "b2.aside")
print(time.time())
"""


def test_what_is_finished_is_witnessed_and_nothing_else(tmp_path: Path):
    (tmp_path / "witness").mkdir()
    set_clock(tmp_path / "clock", 1e9)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", WITNESSED, str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=True, env=environment, cwd=ROOT
    )
    witnessed = Witnessed(tmp_path / "witness")
    assert witnessed.ids() == {"a1"}
    assert witnessed.copies()["a1"].read_bytes() == b"second"
    assert float(done.stdout) > 2.5e9


# ---- the verdict ------------------------------------------------------------------------------------------------------


def row(seq: int, episode_id: str, data: bytes) -> EpisodeRow:
    return EpisodeRow(
        **{"seq": seq, "episode_id": episode_id, "task": "t", "instruction": "i", "source": "online"},
        **{"robot": "r", "spec": "s", "control_hz": 1.0, "snapshot": 1, "software": "0", "seed": 1},
        **{"operator": None, "started_at": 0.0, "outcome": "success", "stage_score": 1.0, "steps": 1},
        **{"cycle_time_s": 1.0, "intervention_steps": 0, "key": episode_id, "size": len(data)},
        **{"sha256": hashlib.sha256(data).hexdigest(), "catalogued_at": 0.0},
    )


FINISHED = {name: hashlib.sha256(name.encode()).digest() for name in ("a", "b")}
ROWS = [row(1, "a", b"a"), row(2, "b", b"b")]


def stored(one: EpisodeRow) -> bytes:
    return one.episode_id.encode()


def test_a_clean_run_has_no_problems():
    found = count(FINISHED, ROWS, stored)
    assert (found.finished, found.catalogued, found.identical, found.duplicates) == (2, 2, 2, 0)
    assert found.problems == ()


def test_what_is_missing_double_damaged_or_made_up_is_found():
    missing = count(FINISHED, ROWS[:1], stored)
    assert (missing.catalogued, missing.identical) == (1, 1)
    assert "b was finished and is not catalogued" in missing.problems[0]
    assert count(FINISHED, [*ROWS, row(3, "b", b"b")], stored).duplicates == 2  # the id, and the content
    assert count(FINISHED, [*ROWS, row(3, "c", b"b")], stored).duplicates == 1  # the content under another id
    assert "c is catalogued and no robot" in " ".join(
        count(FINISHED, [*ROWS, row(3, "c", b"c")], stored).problems
    )
    assert count(FINISHED, ROWS, lambda one: b"damaged").identical == 0
    assert count(FINISHED, [ROWS[0], row(2, "b", b"other")], lambda one: b"other").identical == 0

    def away(one: EpisodeRow) -> bytes:
        raise StoreError("no such object")

    assert count(FINISHED, ROWS, away).identical == 0


def test_manifests_only_grow_and_count_what_they_say():
    def manifest(number: int, episodes: int, parent: int | None) -> Manifest:
        return Manifest(number=number, parent=parent, created_at=0.0, episodes=episodes, upto_seq=episodes)

    good = [manifest(1, 1, None), manifest(2, 2, 1)]
    assert manifest_problems(good, ROWS) == []
    assert manifest_problems(good[:1], ROWS)  # the newest does not have all
    assert manifest_problems([good[0], manifest(2, 2, None)], ROWS)
    assert manifest_problems([good[0], manifest(2, 1, 1)], ROWS)
    seen = Growth("manifest")
    for rows, head in (({1: "a"}, 1), ({1: "a", 2: "b"}, 2)):
        seen.look(rows, head)
    assert seen.violations == []
    seen.look({1: "a", 2: "c"}, 2)
    seen.look({1: "a"}, 1)
    assert len(seen.violations) == 3  # row 2 changed, row 2 went, the head went back


def test_a_learner_may_redo_two_checkpoints_and_no_more():
    def line(event: str, step: int, manifest: int) -> str:
        return f"12:00 lwd INFO {event} learner_step={step} manifest={manifest}\n"

    way = line("published", 10, 1) + line("published", 20, 2) + line("learner_resumed", 10, 1)
    found = learning(way + line("published", 20, 3), 10, 5)
    assert (found.resumed, found.redone, found.problems) == (1, 10, ())
    assert learning(line("published", 40, 2) + line("learner_resumed", 10, 1), 10, 5).problems
    assert learning(way + line("published", 20, 0), 10, 5).problems  # an older manifest than it resumed on
    assert learning(line("published", 10, 4) + line("learner_resumed", 10, 3), 10, 5).problems
