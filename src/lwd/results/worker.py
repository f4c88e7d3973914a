"""One cell in a process of its own: pinned to its cores, its words in its log file, gone when the runner is gone."""

from __future__ import annotations

import multiprocessing as mp
import os
import sys
import traceback
from collections.abc import Sequence
from multiprocessing.context import SpawnProcess
from pathlib import Path

from rich.console import Console

from lwd.errors import LwdError
from lwd.fleet.folder import RunFolder
from lwd.fleet.phases import run_phases
from lwd.fleet.process import end_with_parent, environment
from lwd.fleet.supervisor import ONE_THREAD
from lwd.results.fork import fork
from lwd.results.gather import gather
from lwd.results.plan import Cell, Places
from lwd.results.runfile import write_run_file
from lwd.results.state import cell_phases, claim_cell, hold

_UNLESS_CHOSEN = {"MUJOCO_GL": "disabled", "JAX_PLATFORMS": "cpu"}
"""As in the Makefile: state observations need no renderer, small networks no accelerator."""


def run_cell(cell: Cell, places: Places, console: Console) -> None:
    """Run a cell, or what is left of it, and write its run file.

    Raises:
        ConfigError: another process runs it, its parent has no run folder, or its folder has other settings.
    """
    folder = RunFolder(places.folder(cell.id).absolute())
    with hold(places.lock(cell.id)):
        begin(cell, places)
        timing = run_phases(folder, cell_phases(cell, folder, console), console)
        write_run_file(places.run_file(cell.id), gather(cell, folder.path, timing, _command(cell)))


def begin(cell: Cell, places: Places) -> None:
    """Make the cell's folder from its parent's, if it has not been begun; the caller holds the cell.

    Raises:
        ConfigError: its parent has no run folder, or its folder has other settings.
    """
    folder = places.folder(cell.id).absolute()
    if cell.parent is not None and not folder.exists():
        fork(places.folder(cell.parent), folder)
    claim_cell(cell, folder, _command(cell))


def _command(cell: Cell) -> str:
    return f"lwd results run --benchmark {cell.benchmark} --only '{cell.id}'"


def start(cell: Cell, places: Places, cores: Sequence[int]) -> SpawnProcess:
    """Start a cell's process on these cores."""
    log = places.log(cell.id)
    log.parent.mkdir(parents=True, exist_ok=True)
    process = mp.get_context("spawn").Process(target=_main, args=(cell, places, cores, log), name=cell.id)
    chosen = {name: os.environ.get(name, value) for name, value in _UNLESS_CHOSEN.items()}
    with environment({**ONE_THREAD, **chosen}):
        process.start()
    return process


def _main(cell: Cell, places: Places, cores: Sequence[int], log: Path) -> None:
    os.setsid()  # Ctrl-C reaches the runner only, which then ends its cells
    end_with_parent()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(cores))
    with log.open("a", buffering=1, encoding="utf-8") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
        try:
            run_cell(cell, places, Console(file=file, width=120))
        except LwdError as error:
            print(f"lwd: {error}", file=file)
            raise SystemExit(2) from None
        except BaseException:
            traceback.print_exc(file=file)
            raise SystemExit(1) from None
