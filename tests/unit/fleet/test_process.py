"""Processes of a fleet: a death is an error with its traceback, stopping has an order, nothing stays behind."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import toy_fleet

from lwd.fleet import process
from lwd.fleet.process import FleetError, ProcessSpec, RunningFleet


@contextmanager
def running(folder, *specs):
    fleet = RunningFleet(specs, str(folder))
    try:
        yield fleet
    finally:
        fleet.kill()
        assert not any(p.is_alive() for p in fleet.processes.values())


def spec(name, main, folder, **options):
    return ProcessSpec(name, main, (str(folder),), **options)


def wait_for(fleet, condition, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not condition(fleet.status):
        assert time.monotonic() < deadline, fleet.status
        assert fleet.poll()
        time.sleep(0.02)


def poll_to_the_end(fleet, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while fleet.poll():
        assert time.monotonic() < deadline, fleet.status
        time.sleep(0.02)


def test_a_crash_is_an_error_with_its_traceback(tmp_path):
    with (
        running(
            tmp_path,
            spec("steady", toy_fleet.until_stopped, tmp_path),
            spec("actor", toy_fleet.crashes, tmp_path),
        ) as fleet,
        pytest.raises(FleetError, match="the gripper fell off") as caught,
    ):
        poll_to_the_end(fleet)
    message = str(caught.value)
    assert "process actor (pid " in message
    assert "ended with code 1" in message
    assert "in crashes" in message


def test_a_killed_process_is_an_error_too(tmp_path):
    with (
        running(tmp_path, spec("learner", toy_fleet.killed, tmp_path)) as fleet,
        pytest.raises(FleetError, match=r"learner \(pid \d+\) ended with code -9.\n.*may have been killed"),
    ):
        poll_to_the_end(fleet)


def test_processes_start_with_their_environment_and_stop_in_the_order_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_FLAG", "outside")
    names = ("a", "b", "c")
    specs = [
        spec(name, toy_fleet.until_stopped, tmp_path, environment={"TOY_FLAG": f"of {name}"})
        for name in names
    ]
    with running(tmp_path, *specs) as fleet:
        wait_for(fleet, lambda status: all("pid" in status[name] for name in names))
        assert {name: fleet.status[name]["flag"] for name in names} == {
            "a": "of a",
            "b": "of b",
            "c": "of c",
        }
        assert os.environ["TOY_FLAG"] == "outside"
        assert all(fleet.status[name]["waits_for"] == "the end" for name in names)
        fleet.stop(["c", "a", "b"])
    assert (tmp_path / "order").read_text().split() == ["c", "a", "b"]


def test_the_fleet_is_done_when_the_process_that_ends_it_is(tmp_path):
    with running(
        tmp_path,
        spec("helper", toy_fleet.ends_soon, tmp_path),
        spec("steady", toy_fleet.until_stopped, tmp_path),
        spec("actor", toy_fleet.ends_soon, tmp_path, ends_fleet=True),
    ) as fleet:
        poll_to_the_end(fleet)
        assert fleet.status["actor"]["done"] == 1
        assert fleet.processes["steady"].is_alive()
        fleet.stop(["steady"])


def test_an_error_while_stopping_is_not_lost(tmp_path):
    with running(tmp_path, spec("learner", toy_fleet.crashes_when_stopped, tmp_path)) as fleet:
        wait_for(fleet, lambda status: "pid" in status["learner"])
        with pytest.raises(
            FleetError, match=r"(?s)learner failed while stopping.*ValueError: could not tidy up"
        ):
            fleet.stop(["learner"])


def test_a_process_that_does_not_stop_is_killed_one_that_says_something_may_take_its_time(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(process, "STOP_TIMEOUT_S", 4.0)
    with running(
        tmp_path,
        spec("deaf", toy_fleet.deaf, tmp_path),
        spec("slow", toy_fleet.slow_but_talking, tmp_path),
    ) as fleet:
        wait_for(fleet, lambda status: "pid" in status["deaf"] and "pid" in status["slow"])
        fleet.stop(["slow"])
        assert fleet.status["slow"]["left"] == 1
        with pytest.raises(FleetError, match="deaf was told to stop, said nothing for 4 s and was killed"):
            fleet.stop(["deaf"])


PARENT = """
import os, sys, time
import toy_fleet
from lwd.fleet.process import ProcessSpec, RunningFleet
if __name__ == "__main__":
    fleet = RunningFleet([ProcessSpec("a", toy_fleet.until_stopped, (sys.argv[1],))], sys.argv[1])
    while "pid" not in fleet.status["a"]:
        fleet.poll()
        time.sleep(0.02)
    print(fleet.status["a"]["pid"], flush=True)
    time.sleep(600)
"""


def test_nothing_runs_on_when_the_main_process_was_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen([sys.executable, str(script), str(tmp_path)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 20
    while alive(child):
        assert time.monotonic() < deadline, "the child outlives its fleet"
        time.sleep(0.05)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
