"""Runs a command for at most so many seconds and ends whatever it leaves behind: `python3 tools/bounded.py SECONDS COMMAND...`

A test that crashes may leave servers that hold its output open, and whoever reads that output would wait for ever. Only what
descends from the command is ended, by pid (Linux: orphans are adopted). Exit status: the command's, or 124 when time was up.
Needs nothing but Python, since it runs before anything is installed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

TIMED_OUT, GRACE_S = 124, 60.0
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent is gone; Linux only, elsewhere nothing happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(pid: int) -> list[int]:
    """Every process below this one, as far as /proc tells."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            parent = int(entry.read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.parent.name))
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def end_descendants() -> int:
    """Kill everything below this process; how many there were."""
    ended: set[int] = set()
    for _ in range(100):
        left = descendants(os.getpid())
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        ended |= set(left)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not left:
            break
        time.sleep(0.05)
    return len(ended)


def main(arguments: list[str]) -> int:
    """Run it."""
    limit, command = float(arguments[0]), arguments[1:]
    adopt_orphans()
    process = subprocess.Popen(command, start_new_session=True)
    try:
        status = process.wait(limit)
    except subprocess.TimeoutExpired:
        print(f"bounded: {limit:.0f} s are over, interrupting: {' '.join(command)}", file=sys.stderr)
        os.killpg(process.pid, signal.SIGINT)  # the test runner then says what it was doing
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
        status = TIMED_OUT
    if left := end_descendants():
        print(f"bounded: ended {left} processes that were left behind", file=sys.stderr)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
