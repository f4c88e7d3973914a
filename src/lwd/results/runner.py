"""Runs missing cells, a few at a time, in an order in which each finds what it goes on from."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import SpawnProcess

from rich.console import Console
from rich.live import Live

from lwd.errors import ConfigError
from lwd.results.plan import Cell, Places
from lwd.results.progress import Progress
from lwd.results.state import folder_is_complete, is_held
from lwd.results.status import progress_table
from lwd.results.worker import start

_POLL_S = 0.5
_SHOW_EVERY_S = 5.0

Start = Callable[[Cell, Places, Sequence[int]], SpawnProcess]


def core_groups(jobs: int) -> list[list[int]]:
    """The cores that this process may use, dealt out to that many cells; more cells than cores share one each."""
    if jobs < 1:
        raise ConfigError(f"--jobs must be at least 1, got {jobs}.")
    count = os.cpu_count() or 1
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(count))
    return [cores[i :: min(jobs, len(cores))] for i in range(min(jobs, len(cores)))] * -(-jobs // len(cores))


class Runner:
    """Starts cells whose parents are complete, as many as there are groups of cores; one failing cell stops only its children.

    Args:
        todo: the cells to run, parents first; what they go on from is either in it or complete.
    """

    def __init__(
        self, todo: Sequence[Cell], planned: Sequence[Cell], places: Places, jobs: int, start: Start = start
    ) -> None:
        self._waiting = list(todo)
        self._by_id = {cell.id: cell for cell in planned}
        self._places, self._start = places, start
        self._free = core_groups(jobs)[:jobs]
        self._running: dict[str, tuple[SpawnProcess, list[int]]] = {}
        self.progress = Progress()

    def run(self, console: Console) -> Progress:
        """Run until nothing can be run any more; on Ctrl-C the cells' processes are ended, and go on the next time."""
        try:
            with Live(console=console, auto_refresh=False, transient=True) as live:
                shown = 0.0
                while self._step(console):
                    if console.is_terminal and time.monotonic() - shown > _SHOW_EVERY_S:
                        shown = time.monotonic()
                        live.update(progress_table(self.progress, self._by_id, self._places), refresh=True)
                    time.sleep(_POLL_S)
        finally:
            self.stop()
        return self.progress

    def stop(self) -> None:
        """End the cells' processes, each by its pid; their folders survive this."""
        for process, _ in self._running.values():
            process.kill()
        for process, _ in self._running.values():
            process.join()
        self._running.clear()

    def _step(self, console: Console) -> bool:
        """Take in what ended, start what can start; False when nothing runs and nothing can."""
        self._take_in(console)
        for cell in list(self._waiting):
            if self._free and self._can_start(cell):
                cores = self._free.pop(0)
                self._running[cell.id] = (self._start(cell, self._places, cores), cores)
                self._waiting.remove(cell)
                console.print(f"started {cell.id} on core {', '.join(map(str, cores))}", highlight=False)
        self.progress.waiting = [cell.id for cell in self._waiting]
        self.progress.running = list(self._running)
        return bool(self._running)

    def _take_in(self, console: Console) -> None:
        for cell_id, (process, cores) in list(self._running.items()):
            if process.is_alive():
                continue
            process.join()
            del self._running[cell_id]
            self._free.append(cores)
            if process.exitcode == 0:
                self.progress.done.append(cell_id)
                console.print(f"[green]done[/] {cell_id}", highlight=False)
            else:
                self.progress.failed.append(cell_id)
                log = self._places.log(cell_id)
                console.print(
                    f"[red]failed[/] {cell_id} (exit code {process.exitcode}): {log}", highlight=False
                )

    def _can_start(self, cell: Cell) -> bool:
        if is_held(self._places.lock(cell.id)):  # by another runner on the same folder
            return False
        return cell.parent is None or (
            cell.parent not in self._running
            and not any(waiting.id == cell.parent for waiting in self._waiting)
            and folder_is_complete(self._by_id[cell.parent], self._places)
        )
