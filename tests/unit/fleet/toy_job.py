"""A process of a make-believe learner: `python toy_job.py FOLDER ID UNTIL [MISCHIEF]`. No JAX.

Counts learner steps like the real one: no process is more than one step ahead of another, every fifth step is a checkpoint of
all, and it starts from the newest that all have. Process 0 ends each step last, so that a process 1 that hangs is the first to
be silent, and not the one that waits for it. MISCHIEF: "hopeless" ends with code 3, "deaf" ignores SIGTERM.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from lwd.fleet.heartbeat import Heartbeat
from lwd.fleet.watchdog import beat_file

PROCESSES = 2


def read(path: Path) -> int:
    try:
        return int(path.read_text() or 0)
    except OSError:
        return 0


def write(path: Path, value: int) -> None:
    fresh = path.with_suffix(".tmp")
    fresh.write_text(str(value))
    fresh.replace(path)


def main(folder: Path, me: int, until: int, mischief: str = "") -> None:
    stopping: list[int] = []
    if mischief == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    pulse = Heartbeat(beat_file(folder / "beats", me))
    if mischief == "hopeless":
        print("no accelerator found", flush=True)
        raise SystemExit(3)
    saved = [folder / f"saved-{i}" for i in range(PROCESSES)]
    at = [folder / f"at-{i}" for i in range(PROCESSES)]
    others = [path for i, path in enumerate(at) if i != me]
    step = min(read(path) for path in saved)
    write(at[me], step)
    with (folder / f"starts-{me}").open("a") as file:
        file.write(f"{step}\n")
    pulse.beat(step)
    while step < until and not stopping:
        step += 1
        needed = step if me == 0 else step - 1
        while min(read(path) for path in others) < needed and not stopping:  # the "collective"
            time.sleep(0.005)
        if step % 5 == 0:
            write(saved[me], step)
        pulse.beat(step)
        write(at[me], step)
        time.sleep(0.02)
    write(folder / f"final-{me}", step)
    pulse.end()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
