"""What a person sees while long work runs: a bar on a terminal, a line every ten seconds anywhere else."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_LINE_EVERY_S = 10.0


class Task:
    """One piece of long work; `to` says how far it is, `note` what it looks like now."""

    def __init__(self, console: Console, bar: Progress | None, name: str, total: int) -> None:
        self._console, self._bar, self._name, self._total = console, bar, name, total
        self._id = bar.add_task(name, total=total, note="") if bar else None
        self._done, self._note = 0, ""
        self._began = self._said = time.monotonic()

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Further by `count`."""
        self.to(self._done + count, note)

    def to(self, done: int, note: str | None = None) -> None:
        """At `done` of the total."""
        self._done, self._note = done, self._note if note is None else note
        if self._bar is not None and self._id is not None:
            self._bar.update(self._id, completed=done, note=self._note)
        elif time.monotonic() - self._said >= _LINE_EVERY_S:
            self.say()

    def say(self) -> None:
        """Print one line (without a terminal)."""
        self._said = time.monotonic()
        seconds = self._said - self._began
        self._console.print(
            f"  {self._name}: {self._done}/{self._total} {self._note} ({seconds:.0f} s)", highlight=False
        )


@contextmanager
def progress(console: Console, name: str, total: int) -> Generator[Task]:
    """Show the progress of one piece of work."""
    if not console.is_terminal:
        task = Task(console, None, name, total)
        yield task
        task.say()
        return
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bar:
        yield Task(console, bar, name, total)
