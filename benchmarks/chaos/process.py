"""`lwd ...` with a witness and a clock that can be moved: what the chaos run starts instead of `lwd` itself.

Witness: the file name decides when an episode is finished: the moment when the spool renames something to `<id>.mcap`. The
interpreter announces each rename to its audit hooks before it happens, so the bytes are copied to the witness folder before
the episode exists, and no kill can fall between the two. Killed after the copy and before the rename, the episode is not
finished; its part file is recovered at the next start, under the same id, and witnessed again. So once all robots have
started again, the newest copy of an id is exactly what its robot finished. A copy and not a link, so that bytes which change
later are seen.

Clock: `time.time`, `time.time_ns` and `time.gmtime` are moved by the seconds in a file, one double. It is this process's own
clock, as lwd reads it; TLS, file times and the monotonic clock keep the machine's.
"""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import sys
import time
from pathlib import Path
from typing import Any

WITNESS, CLOCK = "LWD_CHAOS_WITNESS", "LWD_CHAOS_CLOCK"


def witness(folder: Path) -> None:
    """From now on copy each episode into `folder` just before it is finished."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "os.rename":
            return
        source, target = Path(os.fsdecode(arguments[0])), Path(os.fsdecode(arguments[1]))
        if target.suffix == ".mcap" and target.parent.name == "spool":
            # CLOCK_MONOTONIC is the same for all processes of a machine, and is not moved.
            copy = folder / f"{target.stem}.{time.monotonic_ns():020d}"
            shutil.copyfile(source, copy.with_suffix(copy.suffix + ".tmp"))
            os.replace(copy.with_suffix(copy.suffix + ".tmp"), copy)

    sys.addaudithook(hook)


def moved_clock(path: Path) -> None:
    """From now on `time.time` is ahead by the seconds in the file."""
    with path.open("r+b") as file:
        shared = mmap.mmap(file.fileno(), 8)
    real, real_gmtime = time.time, time.gmtime

    def now() -> float:
        return real() + struct.unpack_from("d", shared)[0]

    time.time = now
    time.time_ns = lambda: int(now() * 1e9)
    time.gmtime = lambda seconds=None: real_gmtime(now() if seconds is None else seconds)


def set_clock(path: Path, seconds: float) -> None:
    """Move the clock of whoever has this file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(struct.pack("d", seconds))


def main() -> None:
    if CLOCK in os.environ:
        moved_clock(Path(os.environ[CLOCK]))
    if WITNESS in os.environ:
        witness(Path(os.environ[WITNESS]))
    from lwd.cli import main as lwd  # after the clock was moved: a module may keep `time.time`

    lwd()


if __name__ == "__main__":
    main()
