"""A killed supervisor leaves no program of others behind, such as the broker."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

PARENT = """
import sys, threading, time
from pathlib import Path
from lwd.fleet.supervisor import Managed, Supervisor, ends_with_parent
supervisor = Supervisor([Managed(name="broker", command=ends_with_parent(["sleep", "600"]))], Path(sys.argv[1]))
supervisor.poll()
print(supervisor.pids["broker"], flush=True)
time.sleep(600)
"""

WRAP = """
import json
from lwd.fleet.supervisor import ends_with_parent
print(json.dumps(ends_with_parent(["echo", "started"])))
"""


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is not installed")
def test_what_the_supervisor_started_ends_when_it_is_killed(tmp_path):
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            assert alive(child)
            parent.kill()
            deadline = time.monotonic() + 20
            while alive(child):
                assert time.monotonic() < deadline, "the child outlives its supervisor"
                time.sleep(0.05)
        finally:
            if alive(child):
                os.kill(child, signal.SIGKILL)


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is not installed")
def test_what_starts_only_after_the_supervisor_was_killed_ends_at_once():
    """The kernel tells of deaths that are to come, so a supervisor killed in between would leave its child for ever."""
    supervisor = subprocess.Popen([sys.executable, "-c", WRAP], stdout=subprocess.PIPE, text=True)
    wrapped, _ = supervisor.communicate(timeout=60)  # it has ended before its child starts
    child = subprocess.run(json.loads(wrapped), timeout=60, capture_output=True, check=False)
    assert child.returncode != 0
    assert child.stdout == b""


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
