"""A learner of two processes: the numbers of one, on one manifest, across a hang, a death and a change to another topology."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from lwd.errors import ConfigError, StoreError
from lwd.fleet.heartbeat import read_beat
from lwd.fleet.hosts import Agreement, HostsConfig
from lwd.fleet.learner_job import free_port
from lwd.fleet.metrics_log import read_metrics
from lwd.fleet.watchdog import Member, Watchdog, WatchdogConfig, beat_file

pytestmark = pytest.mark.timeout(900)  # half a minute, but of nine processes

ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}  # one device per process
PROGRAM = Path(__file__).with_name("hosts_run.py")
MIDDLE, END = 60, 65
FEW, MANY = 10, 12
"""Episodes, each a manifest of its own, that the process that lags behind and the other hold."""


def command(folder, until, *options):
    return [
        sys.executable,
        "-W",
        "ignore",
        str(PROGRAM),
        str(folder),
        "--until",
        str(until),
        *map(str, options),
    ]


def run_alone(folder, until):
    folder.mkdir(exist_ok=True)
    ended = subprocess.run(
        command(folder, until, "--episodes", FEW),
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return np.load(folder / f"at-{until}.npz")


def pair(folder):
    """Two processes that share one copy of the state; the second has fewer manifests."""

    def members():
        address = f"127.0.0.1:{free_port()}"
        made = []
        for i, episodes in enumerate((MANY, FEW)):
            options = ["--processes", 2, "--process-id", i, "--address", address, "--fsdp", 2]
            options += ["--episodes", episodes, "--pause", 0.2, "--heartbeat", beat_file(folder / "beats", i)]
            made.append(
                Member(process_id=i, command=command(folder, MIDDLE, *options), environment=ENVIRONMENT)
            )
        return made

    config = WatchdogConfig(silent_s=15.0, starting_s=250.0, stop_s=60.0, pause_s=0.0)
    return Watchdog(members, 2, folder / "beats", folder / "logs", config)


def wait_for(condition, watchdog, timeout_s=280.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, watchdog.failures
        time.sleep(0.02)


def disturb(watchdog, folder, number, checkpoint):
    """Send process 1 a signal once it learns and this checkpoint is on disk; wait until it is noticed."""

    def ready():
        beat = read_beat(beat_file(folder / "beats", 1))
        saved = (folder / "checkpoints" / str(checkpoint)).exists()
        return saved and beat is not None and beat.learner_step > checkpoint and 1 in watchdog.pids

    wait_for(ready, watchdog)
    noticed = len(watchdog.failures)
    os.kill(watchdog.pids[1], number)
    wait_for(lambda: len(watchdog.failures) > noticed, watchdog, 100)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder of a job of two processes, one of which was stopped and later killed."""
    folder = tmp_path_factory.mktemp("two")
    watchdog, stop = pair(folder), threading.Event()
    thread = threading.Thread(target=watchdog.run, args=(stop,), daemon=True)
    thread.start()
    try:
        disturb(watchdog, folder, signal.SIGSTOP, 10)
        disturb(watchdog, folder, signal.SIGKILL, 30)
        thread.join(280)
        assert not thread.is_alive(), watchdog.failures
    finally:
        stop.set()
        thread.join(70)
    return folder, watchdog


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The folder of one process that was never disturbed."""
    folder = tmp_path_factory.mktemp("one")
    run_alone(folder, MIDDLE)
    return folder


def differences(a, b):
    names = [name for name in a.files if name != "began"]
    assert sorted(names) == sorted(name for name in b.files if name != "began")
    for name in names:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_two_disturbed_processes_learn_what_one_undisturbed_learns(one, two):
    folder, watchdog = two
    alone, together = np.load(one / f"at-{MIDDLE}.npz"), np.load(folder / f"at-{MIDDLE}.npz")
    assert int(together["step"]) == int(alone["step"]) == MIDDLE
    differences(together, alone)
    # On a machine that is busy enough, a process may be taken for hung once more.
    assert watchdog.starts == len(watchdog.failures) + 1 >= 3
    assert any("process 1 has been silent" in why for why in watchdog.failures)
    assert any("process 1" in why and "code -9" in why for why in watchdog.failures)
    assert int(together["began"]) >= 30


def test_all_processes_draw_from_the_manifest_that_the_slowest_holds(one, two):
    folder, _ = two
    assert int(np.load(folder / f"at-{MIDDLE}.npz")["manifest"]) == FEW
    # The data would have been another with the manifests that process 0 alone holds: see the equality above.
    assert MANY > FEW


def test_only_process_0_writes_metrics(two):
    folder, _ = two
    assert read_metrics(folder / "learner.jsonl")[-1]["learner_step"] == MIDDLE
    assert not (folder / "learner-1.jsonl").read_text()


def test_what_two_processes_saved_one_goes_on_with(one, two, tmp_path):
    # Copies: other tests read what the folders hold now, and come in any order.
    resumed, alone = (
        run_alone(Path(shutil.copytree(folder, tmp_path / name)), END)
        for name, folder in (("two", two[0]), ("one", one))
    )
    assert int(resumed["began"]) == int(alone["began"]) == MIDDLE
    differences(resumed, alone)


class Wall:
    """A board in memory: texts that threads leave for each other."""

    def __init__(self):
        self.texts, self.changed = {}, threading.Condition()

    def key_value_set(self, key, value):
        with self.changed:
            assert key not in self.texts
            self.texts[key] = value
            self.changed.notify_all()

    def blocking_key_value_get(self, key, timeout_in_ms):
        with self.changed:
            if not self.changed.wait_for(lambda: key in self.texts, timeout_in_ms / 1000):
                raise RuntimeError("DEADLINE_EXCEEDED")
            return self.texts[key]

    def key_value_delete(self, key):
        with self.changed:
            del self.texts[key]


def test_processes_agree_in_every_round_however_late_they_are():
    wall, rounds, found = Wall(), 50, {}

    def process(me):
        rng, agreement = np.random.default_rng(me), Agreement(3, me, wall, patience_s=20.0)
        answers = []
        for k in range(rounds):
            time.sleep(rng.uniform(0, 0.004))
            answers.append((agreement.least(10 * k + me), agreement.any(me == k % 4)))
        found[me] = answers

    threads = [threading.Thread(target=process, args=(me,)) for me in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    # In every fourth round nobody says yes.
    assert found[0] == [(10 * k, k % 4 != 3) for k in range(rounds)]
    assert found[1] == found[2] == found[0]
    assert len(wall.texts) <= 6, "old rounds are taken off the wall"


def test_who_does_not_answer_or_differs_is_named():
    with pytest.raises(StoreError, match=r"process 1 of the learner did not answer within 0 s"):
        Agreement(2, 0, Wall(), patience_s=0.05).least(3)
    wall = Wall()
    wall.key_value_set("lwd/agreement/0/1", "20")
    with pytest.raises(StoreError, match="differ in the newest checkpoint: 10, 20 by process id"):
        Agreement(2, 0, wall, patience_s=1.0).same(10, "the newest checkpoint")


def test_one_process_agrees_with_itself():
    alone = Agreement()
    assert alone.alone
    assert alone.least(7) == 7
    assert alone.any(True)
    assert not alone.any(False)
    alone.same(3, "anything")


def test_a_place_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="process 2 of 2 does not exist"):
        HostsConfig(processes=2, process_id=2, coordinator_address="host:1")
    with pytest.raises(ConfigError, match="needs --coordinator-address HOST:PORT"):
        HostsConfig(processes=2, process_id=0)
