"""How far each cell is, read from its files; nothing here remembers anything."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console

from lwd.errors import ConfigError
from lwd.evaluate.jsonfile import write_json
from lwd.fleet.demo import consolidated_phases, offline_phases, online_phases, sft_phases
from lwd.fleet.folder import RunFolder
from lwd.fleet.phases import Phases, claim, finished_phases
from lwd.results.plan import Cell, Places
from lwd.results.runfile import read_run_file
from lwd.results.settings import agree, settings

_PARTS = {
    "sft": sft_phases,
    "offline": offline_phases,
    "online": online_phases,
    "consolidated": consolidated_phases,
}
_SETTINGS = "settings.json"


@dataclass(frozen=True, kw_only=True)
class CellState:
    """Where a cell is.

    Attributes:
        state: done (its run file is there), running (a process holds it), cut (begun), missing.
        phase: the one that runs or was cut, "" otherwise; phases: done of all.
        spent_s: seconds of its finished phases; left_s: expected for the others, None where nothing like them was measured.
        note: why a run file does not count.
    """

    cell: Cell
    state: Literal["done", "running", "cut", "missing"]
    phase: str = ""
    phases: tuple[int, int] = (0, 0)
    spent_s: float = 0.0
    left_s: float | None = 0.0
    note: str = ""


def cell_phases(cell: Cell, folder: RunFolder, console: Console) -> Phases:
    """What a cell does, in order. Only its last stage is evaluated; an earlier one learns nothing by construction."""
    phases = {
        name: phase
        for stage in cell.stages
        for name, phase in _PARTS[stage](cell.experiment, folder, console).items()
    }
    for stage in cell.stages[:-1]:
        del phases[f"evaluate {stage}"]
    return phases


def phase_names(cell: Cell) -> list[str]:
    """Names of a cell's phases."""
    return list(cell_phases(cell, RunFolder(Path()), Console(quiet=True)))


def claim_cell(cell: Cell, folder: Path, command: str) -> None:
    """Note in a new run folder whose it is and with which settings; check it in one that exists.

    Raises:
        ConfigError: it belongs to another cell, or was begun with other settings.
    """
    claim(folder, cell.id, command, cell.seed)
    path = folder / _SETTINGS
    if not path.exists():
        write_json(path, settings(cell.experiment, cell.stage))
    elif not _settings_agree(cell, folder):
        raise ConfigError(
            f"{folder} was begun with other settings than {cell.id} has now. Delete it to begin again with these, "
            "and the folders that went on from it."
        )


def folder_is_complete(cell: Cell, places: Places) -> bool:
    """Whether other cells can go on from this one's run folder: it has the same settings, and all phases are done."""
    folder = places.folder(cell.id)
    return _settings_agree(cell, folder) and set(phase_names(cell)) <= set(finished_phases(folder))


def _settings_agree(cell: Cell, folder: Path) -> bool:
    path = folder / _SETTINGS
    return path.exists() and agree(json.loads(path.read_text(encoding="utf-8")), cell.experiment, cell.stage)


@contextmanager
def hold(path: Path) -> Generator[None]:
    """Hold a cell for this process.

    Raises:
        ConfigError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        for left in reversed(range(10)):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if not left:
                    raise ConfigError(
                        f"{path}: another process runs this cell. `lwd results status` shows it."
                    ) from error
                time.sleep(0.05)  # perhaps only someone who looks whether it is held
        yield
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process holds a cell now."""
    if not path.exists():
        return False
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def states(planned: Sequence[Cell], places: Places) -> list[CellState]:
    """Where every cell is, with what the others' measured phases say about the time left."""
    timings = {cell.id: _timing(cell, places) for cell in planned}
    measured = _Measured(planned, timings)
    return [_state(cell, places, timings[cell.id], measured) for cell in planned]


def _timing(cell: Cell, places: Places) -> dict[str, float]:
    """Seconds of finished phases, from the run folder, else from the run file."""
    timing = finished_phases(places.folder(cell.id))
    path = places.run_file(cell.id)
    return timing or (dict(read_run_file(path).timing) if path.exists() else {})


class _Measured:
    """What phases took, of this row if any of its seeds ran them, else of any row."""

    def __init__(self, planned: Sequence[Cell], timings: Mapping[str, Mapping[str, float]]) -> None:
        self._seconds: dict[tuple[str, str], list[float]] = {}
        for cell in planned:
            for phase, seconds in timings[cell.id].items():
                for method in (cell.method, ""):
                    self._seconds.setdefault((method, phase), []).append(seconds)

    def expected(self, cell: Cell, phases: Sequence[str]) -> float | None:
        """Seconds for these phases, None where one of them was never measured."""
        found = [self._seconds.get((cell.method, p)) or self._seconds.get(("", p)) for p in phases]
        return None if None in found else float(sum(np.mean(seconds) for seconds in found if seconds))


def _state(cell: Cell, places: Places, timing: Mapping[str, float], measured: _Measured) -> CellState:
    names = phase_names(cell)
    left = [name for name in names if name not in timing]
    spent = float(sum(timing.values()))
    note = ""
    if places.run_file(cell.id).exists():
        if agree(read_run_file(places.run_file(cell.id)).settings, cell.experiment, cell.stage):
            return CellState(cell=cell, state="done", phases=(len(names), len(names)), spent_s=spent)
        note = "its run file has other settings"
    held = is_held(places.lock(cell.id))
    if not held and not places.folder(cell.id).exists():
        expected = measured.expected(cell, names)
        return CellState(cell=cell, state="missing", phases=(0, len(names)), left_s=expected, note=note)
    return CellState(
        cell=cell,
        state="running" if held else "cut",
        phase=left[0] if left else "run file",
        phases=(len(names) - len(left), len(names)),
        spent_s=spent,
        left_s=measured.expected(cell, left),
        note=note,
    )


def to_run(planned: Sequence[Cell], wanted: Sequence[Cell], places: Places) -> list[Cell]:
    """Of the wanted cells those that are not done, with every cell that they must go on from, in the plan's order."""
    by_id = {cell.id: cell for cell in planned}
    found: set[str] = set()
    unfinished = {s.cell.id for s in states(wanted, places) if s.state != "done"}
    for cell_id in unfinished:
        cell = by_id[cell_id]
        found.add(cell.id)
        while cell.parent is not None and not folder_is_complete(by_id[cell.parent], places):
            cell = by_id[cell.parent]
            found.add(cell.id)
    return [cell for cell in planned if cell.id in found]
