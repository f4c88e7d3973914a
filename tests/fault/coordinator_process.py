"""A coordinator in a process of its own, for tests that kill it.

    coordinator_process.py FOLDER [POINT]

Runs until it is killed. With POINT it kills itself, as SIGKILL does: before-record, before-ack, in-commit.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from log_cases import open_fleet

from lwd.log import manifest


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    point = sys.argv[2] if len(sys.argv) > 2 else ""
    with open_fleet(Path(sys.argv[1])) as fleet:
        if point == "before-record":
            fleet.coordinator._record = die
        elif point == "before-ack":
            fleet.bus.ack = die
        elif point == "in-commit":
            manifest.move_head = die
        fleet.coordinator.run(threading.Event(), commit_every_s=0.02)


if __name__ == "__main__":
    main()
