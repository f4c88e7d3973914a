"""Processes of a fleet on one machine: started together, watched, stopped in order; a crash is an error, not a silence."""

from __future__ import annotations

import logging
import multiprocessing as mp
import os
import threading
import time
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from lwd.errors import LwdError
from lwd.fleet.telemetry import Telemetry

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 120.0
"""How long a process that was told to stop may go without a word before it is killed."""


class FleetError(LwdError):
    """A process of the fleet died; its traceback is in the message."""


@dataclass
class ProcessContext:
    """What a process main gets: when to stop, and how to say where it is."""

    name: str
    stop: Any
    status: Connection
    telemetry: Telemetry = field(default_factory=lambda: Telemetry({}))

    def stop_sets(self, event: threading.Event) -> None:
        """Set a thread's event when this process is told to stop."""
        threading.Thread(target=lambda: (self.stop.wait(), event.set()), daemon=True).start()

    def should_stop(self) -> bool:
        """Whether this process has been told to stop."""
        return bool(self.stop.is_set())

    def say(self, **status: object) -> None:
        """Report numbers and what this process waits for to whoever watches the fleet."""
        self.status.send({"process": self.name, **status})


@dataclass(frozen=True)
class ProcessSpec:
    """One process: a main importable by name, its arguments, environment variables that it must start with.

    Attributes:
        ends_fleet: the fleet's work is done when this process ends by itself.
    """

    name: str
    main: Callable[..., None]
    arguments: tuple[Any, ...]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    ends_fleet: bool = False


def _child(
    main: Callable[..., None],
    name: str,
    stop: Any,
    status: Connection,
    arguments: tuple[Any, ...],
    log_path: str,
) -> None:
    logging.basicConfig(
        filename=log_path, level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )
    context = ProcessContext(name, stop, status)
    end_with_parent()
    try:
        main(context, *arguments)
    except BaseException:
        context.say(error=traceback.format_exc())
        raise SystemExit(1) from None


def end_with_parent() -> None:
    """End this process when its parent does: after a kill nothing runs on unseen. Spool, log and checkpoints survive this."""
    parent = mp.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


class RunningFleet:
    """The started processes."""

    def __init__(self, specs: Sequence[ProcessSpec], log_folder: str) -> None:
        self._specs = {spec.name: spec for spec in specs}
        context = mp.get_context("spawn")
        self._stops = {spec.name: context.Event() for spec in specs}
        self._pipes: dict[str, Connection] = {}
        self.processes: dict[str, Any] = {}
        self.status: dict[str, dict[str, Any]] = {spec.name: {} for spec in specs}
        for spec in specs:
            receive, send = context.Pipe(duplex=False)
            arguments = (
                spec.main, spec.name, self._stops[spec.name], send, spec.arguments, f"{log_folder}/{spec.name}.log"
            )  # fmt: skip
            process = context.Process(target=_child, args=arguments, name=f"lwd-{spec.name}")
            with environment(spec.environment):
                process.start()
            send.close()
            self._pipes[spec.name], self.processes[spec.name] = receive, process
            log.info("process_started name=%s pid=%s", spec.name, process.pid)

    def poll(self) -> bool:
        """Take in the processes' reports; False once a process that ends the fleet has ended.

        Raises:
            FleetError: a process died.
        """
        self._receive()
        for name, process in self.processes.items():
            if process.is_alive() or self._stops[name].is_set():
                continue
            self._receive()  # what it said last may have come after the first look
            if process.exitcode != 0:
                raise FleetError(
                    f"process {name} (pid {process.pid}) ended with code {process.exitcode}.\n"
                    f"{self.status[name].get('error', 'It left no traceback; it may have been killed.')}"
                )
            if self._specs[name].ends_fleet:
                return False
        return True

    def stop(self, names: Sequence[str]) -> None:
        """Tell these processes to finish, one after the other, and wait for each.

        Raises:
            FleetError: one did not end in time; it was killed.
        """
        for name in names:
            process, deadline = self.processes[name], time.monotonic() + STOP_TIMEOUT_S
            self._stops[name].set()
            while process.is_alive() and time.monotonic() < deadline:
                if name in self._receive():
                    deadline = time.monotonic() + STOP_TIMEOUT_S
                process.join(0.05)
            if process.is_alive():
                process.kill()
                raise FleetError(
                    f"process {name} was told to stop, said nothing for {STOP_TIMEOUT_S:.0f} s and was killed."
                )
            self._receive()
            if process.exitcode != 0:
                raise FleetError(
                    f"process {name} failed while stopping.\n{self.status[name].get('error', '')}"
                )

    def kill(self) -> None:
        """End whatever still runs, by pid."""
        for process in self.processes.values():
            if process.is_alive():
                process.kill()
            process.join()
        for pipe in self._pipes.values():
            pipe.close()

    def _receive(self) -> set[str]:
        """Take in what was said; the names of those who said something."""
        heard: set[str] = set()
        for name, pipe in self._pipes.items():
            try:
                while pipe.poll():
                    self.status[name].update(pipe.recv())
                    heard.add(name)
            except (EOFError, OSError):  # it ended, perhaps in mid-message
                continue
        return heard


@contextmanager
def environment(extra: Mapping[str, str]) -> Generator[None]:
    """Environment variables for a child that reads them before its first import."""
    before = {name: os.environ.get(name) for name in extra}
    os.environ.update(extra)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
