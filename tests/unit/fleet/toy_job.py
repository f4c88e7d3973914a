"""A process of a make-believe learner: `python toy_job.py FOLDER ID UNTIL [MISCHIEF]`. No JAX.

Counts learner steps like the real one: no process is more than one step ahead of another, every fifth step is a checkpoint of
all, and it starts from the newest that all have. MISCHIEF: "hopeless" ends with code 3, "deaf" ignores SIGTERM.
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
    step = min(read(path) for path in saved)
    write(at[me], step)
    with (folder / f"starts-{me}").open("a") as file:
        file.write(f"{step}\n")
    pulse.beat(step)
    while step < until and not stopping:
        step += 1
        write(at[me], step)
        while min(read(path) for path in at) < step - 1 and not stopping:  # the "collective"
            time.sleep(0.005)
        if step % 5 == 0:
            write(saved[me], step)
        pulse.beat(step)
        time.sleep(0.02)
    write(folder / f"final-{me}", step)
    pulse.end()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
