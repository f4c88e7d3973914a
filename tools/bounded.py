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


def wait(pid: int, limit_s: float) -> int | None:
    """Reap whatever ends, this child among it: its exit code (negative: the signal), or None when time is up."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        ended, status = os.waitpid(-1, os.WNOHANG)
        if ended == pid:
            return os.waitstatus_to_exitcode(status)
        if ended == 0:
            time.sleep(0.1)
    return None


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


def command_line(pid: int) -> str:
    """The beginning of what a process was started with; "" for one that has ended and only waits to be reaped."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:120]
    return ""


def end_descendants() -> list[str]:
    """Kill everything below this process; the command lines of those that still ran."""
    ended: dict[int, str] = {}
    for _ in range(100):
        left = descendants(os.getpid())
        for pid in left:
            ended.setdefault(pid, command_line(pid))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not left:
            break
        time.sleep(0.05)
    return [command for command in ended.values() if command]


def main(arguments: list[str]) -> int:
    """Run it."""
    limit, command = float(arguments[0]), arguments[1:]
    adopt_orphans()
    # A shell that runs this in the background has it ignore SIGINT, and the command would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, start_new_session=True)
    status = wait(process.pid, limit)
    if status is None:
        print(f"bounded: {limit:.0f} s are over, interrupting: {' '.join(command)}", file=sys.stderr)
        os.killpg(process.pid, signal.SIGINT)  # the test runner then says what it was doing
        wait(process.pid, GRACE_S)
        status = TIMED_OUT
    process.returncode = status  # reaped above, not by it
    if left := end_descendants():
        print(
            f"bounded: ended {len(left)} processes that were left behind:", *left, sep="\n  ", file=sys.stderr
        )
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
