"""The watchdog: a process that dies and one that hangs are noticed in time, all start again, and the job ends as it should."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lwd.errors import ConfigError
from lwd.fleet.folder import RunFolder, open_services
from lwd.fleet.heartbeat import ENDED, LEARNING, STARTING, Heartbeat, read_beat
from lwd.fleet.learner_job import LearnerJob, free_port
from lwd.fleet.supervisor import SUPERVISED
from lwd.fleet.watchdog import Member, Watchdog, WatchdogConfig, WatchdogError, beat_file

PROGRAM = Path(__file__).with_name("toy_job.py")
QUICK = WatchdogConfig(silent_s=2.0, starting_s=30.0, stop_s=10.0, pause_s=0.0, attempts=3)
UNTIL = 40


def job(folder, *mischief, here=(0, 1), config=QUICK, until=UNTIL):
    def members():
        return [
            Member(
                process_id=i,
                command=[sys.executable, str(PROGRAM), str(folder), str(i), str(until), *mischief],
            )
            for i in here
        ]

    return Watchdog(members, 2, folder / "beats", folder / "logs", config)


class Running:
    """A watchdog in a thread."""

    def __init__(self, watchdog):
        self.watchdog, self.stop, self.error, self.done = watchdog, threading.Event(), None, None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            self.done = self.watchdog.run(self.stop, poll_s=0.02)
        except Exception as error:
            self.error = error

    def join(self, timeout_s=60.0):
        self.thread.join(timeout_s)
        assert not self.thread.is_alive()


@pytest.fixture
def running():
    made = []

    def start(watchdog):
        made.append(Running(watchdog))
        return made[-1]

    yield start
    for one in made:
        one.stop.set()
        one.join()


def until(condition, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def step_of(folder, process_id):
    beat = read_beat(beat_file(folder / "beats", process_id))
    return -1 if beat is None else beat.learner_step


def finals(folder):
    return [int((folder / f"final-{i}").read_text()) for i in range(2)]


def test_an_undisturbed_job_runs_once(tmp_path, running):
    watchdog = job(tmp_path)
    ends = running(watchdog)
    ends.join()
    assert ends.done is True
    assert finals(tmp_path) == [UNTIL, UNTIL]
    assert watchdog.starts == 1
    assert read_beat(beat_file(tmp_path / "beats", 0)).phase == ENDED


@pytest.mark.parametrize(
    ("number", "bound_s", "says"),
    [
        (signal.SIGKILL, 2.0, r"process 1 \(pid \d+, code -9\) ended"),
        (signal.SIGSTOP, 5.0, "process 1 has been silent for 2"),
    ],
)
def test_a_dead_and_a_stopped_process_are_noticed_and_the_job_ends_at_the_same_step(
    tmp_path, running, number, bound_s, says
):
    watchdog = job(tmp_path)
    ends = running(watchdog)
    until(lambda: min(step_of(tmp_path, i) for i in (0, 1)) >= 12)
    before = dict(watchdog.pids)
    os.kill(before[1], number)
    began = time.monotonic()
    until(lambda: watchdog.failures, bound_s + 20)
    assert time.monotonic() - began < bound_s + 3.0  # the machine may be busy
    assert re.search(says, watchdog.failures[0])
    ends.join()
    assert ends.error is None
    assert finals(tmp_path) == [UNTIL, UNTIL]
    assert watchdog.starts == 2
    again = [int(line) for line in (tmp_path / "starts-0").read_text().split()]
    assert again[0] == 0
    assert again[1] >= 10, "it went on from a checkpoint"
    for pid in before.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_hopeless_job_is_given_up_and_its_last_word_passed_on(tmp_path):
    with pytest.raises(WatchdogError, match=r"started 3 times .* no accelerator found"):
        job(tmp_path, "hopeless").run(threading.Event(), poll_s=0.01)


def test_two_that_end_between_two_looks_are_both_named_with_their_own_last_words(tmp_path):
    """Found in CI: of a process killed and the one that lost its peer, only the second was called by its name."""

    def members():
        ends = ("sleep 0.3; echo lost its peer; exit 3", "sleep 0.3; echo nothing yet; kill -9 $$")
        return [Member(process_id=i, command=["sh", "-c", end]) for i, end in enumerate(ends)]

    config = WatchdogConfig(starting_s=30.0, pause_s=0.0, attempts=1)
    watchdog = Watchdog(members, 2, tmp_path / "beats", tmp_path / "logs", config)
    with pytest.raises(WatchdogError):
        watchdog.run(threading.Event(), poll_s=3.0)
    said = r"process 0 \(pid \d+, code 3\) ended: lost its peer; process 1 \(pid \d+, code -9\) ended: nothing yet"
    assert re.fullmatch(said, watchdog.failures[0])


def test_told_to_stop_it_stops_all_and_who_does_not_hear_is_killed(tmp_path, running):
    good = running(job(tmp_path / "good"))
    deaf = running(job(tmp_path / "deaf", "deaf", until=100_000, config=WatchdogConfig(stop_s=0.3)))
    until(lambda: min(step_of(tmp_path / name, i) for name in ("good", "deaf") for i in (0, 1)) >= 2)
    pids = deaf.watchdog.pids
    for one in (good, deaf):
        one.stop.set()
        one.join(20)
        assert one.watchdog.starts == 1
    assert max(finals(tmp_path / "good")) < UNTIL
    assert deaf.done is False
    for pid in pids.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_each_host_watches_all_and_ends_its_own(tmp_path, running):
    """Two watchdogs with one process each, as on two hosts: what stops on one host restarts both."""
    one, other = job(tmp_path, here=(0,)), job(tmp_path, here=(1,))
    both = [running(one), running(other)]
    until(lambda: min(step_of(tmp_path, i) for i in (0, 1)) >= 6)
    os.kill(other.pids[1], signal.SIGSTOP)
    for host in both:
        host.join()
    assert finals(tmp_path) == [UNTIL, UNTIL]
    assert one.starts >= 2
    assert other.starts >= 2
    assert any("process 1 has been silent" in why for why in one.failures)


def test_a_beat_says_how_far_the_loop_is(tmp_path):
    path = tmp_path / "beats" / "0.json"
    assert read_beat(path) is None
    pulse = Heartbeat(path)
    assert (read_beat(path).phase, read_beat(path).learner_step) == (STARTING, -1)
    pulse.beat(10)  # resumed; nothing is compiled yet
    assert (read_beat(path).phase, read_beat(path).learner_step) == (STARTING, 10)
    pulse.beat(15)
    newest = read_beat(path)
    assert (newest.phase, newest.learner_step, newest.process) == (LEARNING, 15, os.getpid())
    path.write_text("{")
    assert read_beat(path) is None


def test_the_processes_of_a_job_get_their_place(tmp_path):
    arguments = ["learner", "--processes", "2", "--bus", "nats://host:1"]
    here = LearnerJob(
        arguments=arguments, processes=2, process_id=None, coordinator_address=None, beats=tmp_path
    )
    first, second = here.members()
    assert list(first.command[3:8]) == arguments
    assert list(second.command[8:-1]) == [
        "--heartbeat",
        str(tmp_path / "1.json"),
        "--process-id",
        "1",
        "--coordinator-address",
    ]
    assert first.command[-1] == second.command[-1]
    assert first.command[-1].startswith("127.0.0.1:")
    one = LearnerJob(
        arguments=arguments, processes=2, process_id=1, coordinator_address="10.0.0.1:99", beats=tmp_path
    )
    (only,) = one.members()
    assert only.process_id == 1
    assert list(only.command[8:]) == ["--heartbeat", str(tmp_path / "1.json")]
    with pytest.raises(ConfigError, match="needs --coordinator-address"):
        LearnerJob(arguments=[], processes=2, process_id=1, coordinator_address=None, beats=tmp_path)


def test_the_command_watches_over_its_processes(tmp_path):
    """`lwd learner --processes 2` for a process that does not exist."""
    lwd = [sys.executable, "-m", "lwd.cli", "learner", "--processes", "2"]
    ended = subprocess.run(
        [*lwd, "--process-id", "5", "--coordinator-address", "127.0.0.1:1", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode != 0
    assert "process 5 of 2 does not exist" in ended.stderr + ended.stdout


@pytest.fixture
def begun(tmp_path):
    """A run folder as `lwd collect` begins one; without it `lwd train` ends at once."""
    with open_services(RunFolder(tmp_path)):
        return tmp_path


TRAIN = [sys.executable, "-m", "lwd.cli", "train", "sft", "--recipe", "metaworld_quick", "--processes", "2"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_training_that_was_stopped_half_way_does_not_look_like_one_that_is_done(begun, number, code):
    with subprocess.Popen([*TRAIN, "--out", str(begun)], stderr=subprocess.PIPE, text=True) as process:
        until((begun / "logs" / "learner-1.log").exists)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert "run the same command again to go on" in said


def test_a_process_that_trains_ends_when_its_watchdog_was_killed(begun):
    """It waits for the others of its job, which never come, so nothing else would end it."""
    watchdog = subprocess.Popen(["true"])
    watchdog.wait()
    place = ["--process-id", "0", "--coordinator-address", f"127.0.0.1:{free_port()}"]
    member = [*TRAIN, *place, "--heartbeat", str(begun / "0.json"), "--out", str(begun)]
    supervised = {**os.environ, SUPERVISED: str(watchdog.pid)}
    ended = subprocess.run(member, env=supervised, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "the supervisor is gone" in ended.stderr
