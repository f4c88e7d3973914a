"""A killed supervisor leaves no program of others behind, such as the broker."""

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


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
