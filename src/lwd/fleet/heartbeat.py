"""What a learner's process leaves for whoever watches it: a small file that changes with every block of learner steps.

Only the content counts, never the file's time, so clocks of hosts that share the folder need not agree. No JAX.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

STARTING, LEARNING, ENDED = "starting", "learning", "ended"


@dataclass(frozen=True)
class Beat:
    """One sign of life.

    Attributes:
        process: pid.
        number: counts up.
        phase: "starting" until the first learner step is done, since compiling takes long, and again where the loop rests;
            then "learning"; "ended" when the work is done.
        learner_step: done so far; -1 while unknown.
    """

    process: int
    number: int
    phase: str
    learner_step: int


class Heartbeat:
    """The writing end. `beat` is called by the loop itself, never by a thread: a thread lives on where the loop hangs."""

    def __init__(self, path: Path) -> None:
        self._path, self._number, self._first, self._step = path, 0, -1, -1
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write(STARTING)

    def beat(self, learner_step: int) -> None:
        """Say that the loop goes round and has done so many learner steps."""
        if self._first < 0:
            self._first = learner_step
        self._step = learner_step
        self._write(STARTING if learner_step == self._first else LEARNING)

    def rest(self, learner_step: int) -> None:
        """Say that the loop waits at this learner step; the next one counts as the first again."""
        self._first = self._step = learner_step
        self._write(STARTING)

    def end(self) -> None:
        """Nothing more will come, and that is right."""
        self._write(ENDED)

    def _write(self, phase: str) -> None:
        self._number += 1
        beat = {
            "process": os.getpid(),
            "number": self._number,
            "phase": phase,
            "learner_step": self._step,
        }
        fresh = self._path.with_suffix(".tmp")
        fresh.write_text(json.dumps(beat))
        fresh.replace(self._path)


def read_beat(path: Path) -> Beat | None:
    """The newest sign of life; None before the first, or where it cannot be read now."""
    try:
        found = json.loads(path.read_text())
        return Beat(
            int(found["process"]), int(found["number"]), str(found["phase"]), int(found["learner_step"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
