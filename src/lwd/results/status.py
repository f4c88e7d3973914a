"""How far the evidence is, for people and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lwd.results.plan import Cell, Places
from lwd.results.progress import Progress
from lwd.results.state import CellState, states


def status_json(found: Sequence[CellState]) -> list[dict[str, Any]]:
    """One object per cell."""
    return [
        {
            "cell": state.cell.id,
            "benchmark": state.cell.benchmark,
            "method": state.cell.method,
            "seed": state.cell.seed,
            **{name: value for name, value in asdict(state).items() if name not in ("cell", "phases")},
            "phases_done": state.phases[0],
            "phases": state.phases[1],
        }
        for state in found
    ]


def print_status(console: Console, found: Sequence[CellState], jobs: int) -> None:
    """One line per row, what runs or was cut, and the time left."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("row", no_wrap=True, min_width=max(len(state.cell.method) for state in found))
    for name in ("done", "running", "cut", "missing", "hours spent", "hours left"):
        table.add_column(name, justify="right")
    for method in dict.fromkeys(state.cell.method for state in found):
        mine = [state for state in found if state.cell.method == method]
        counts = {
            name: [s for s in mine if s.state == name] for name in ("done", "running", "cut", "missing")
        }
        table.add_row(
            method,
            f"{len(counts['done'])} of {len(mine)}",
            *(", ".join(str(s.cell.seed) for s in counts[name]) for name in ("running", "cut", "missing")),
            f"{sum(s.spent_s for s in mine) / 3600:.1f}",
            _hours([s.left_s for s in mine]),
        )
    console.print(table)
    for state in found:
        if state.state in ("running", "cut") or state.note:
            done, total = state.phases
            note = f"; {state.note}" if state.note else ""
            where = f", {state.phase} ({done} of {total} phases done)" if state.phase else ""
            console.print(f"{state.cell.id}: {state.state}{where}{note}", highlight=False)
    done = sum(state.state == "done" for state in found)
    left = _hours([state.left_s for state in found], jobs)
    console.print(
        f"{done} of {len(found)} cells done; {left} hours left with {jobs} at a time", highlight=False
    )


def _hours(seconds: Sequence[float | None], jobs: int = 1) -> str:
    """The sum in hours; with a plus where a part of it is not known."""
    known = [s for s in seconds if s is not None]
    return f"{sum(known) / 3600 / jobs:.1f}{'' if len(known) == len(seconds) else ' + ?'}"


def progress_table(progress: Progress, by_id: Mapping[str, Cell], places: Places) -> Table:
    """What the runner is doing."""
    table = Table("cell", "phase", "phases done", box=SIMPLE_HEAD)
    for state in states([by_id[cell_id] for cell_id in progress.running], places):
        table.add_row(state.cell.id, state.phase, f"{state.phases[0]} of {state.phases[1]}")
    table.caption = f"{len(progress.done)} done, {len(progress.failed)} failed, {len(progress.waiting)} waiting; Ctrl-C stops"
    return table
