"""CI's bound: it passes the status on, and nothing that the command started outlives it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux only")


def bounded(seconds, script):
    command = [sys.executable, str(ROOT / "tools/bounded.py"), str(seconds), "sh", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_commands_status_is_passed_on():
    assert bounded(30, "exit 0").returncode == 0
    assert bounded(30, "exit 3").returncode == 3


def test_an_orphan_that_holds_the_output_is_ended(tmp_path):
    began = time.monotonic()
    done = bounded(30, f"setsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 300' & sleep 0.5; exit 5")
    assert time.monotonic() - began < 20, "the output was held open"
    assert done.returncode == 5
    assert "ended 1 processes" in done.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_what_takes_too_long_is_interrupted():
    done = bounded(0.5, "trap 'echo interrupted; exit 1' INT; while :; do sleep 0.1; done")
    assert done.returncode == 124
    assert "interrupted" in done.stdout
    assert "interrupting: sh -c" in done.stderr


def test_orphans_that_end_are_not_left_as_zombies():
    orphan = "(setsid sh -c 'echo $$; exec sleep 0.2' &)"
    done = bounded(30, f"pid=$( {orphan} ); sleep 1; ! kill -0 $pid")
    assert done.returncode == 0, "an orphan that has ended still has a pid"
    assert "left behind" not in done.stderr
