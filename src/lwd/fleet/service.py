"""One process of a networked fleet: stopped by a signal, heard through its status, restarted by whoever supervises it."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from lwd import __version__
from lwd.fleet.telemetry import Telemetry

log = logging.getLogger(__name__)

STATUS_EVERY_S = 2.0

Tell = Callable[[dict[str, Any]], None]
"""Sends one status to whoever keeps them; must return soon and never raise for a missing network."""


@runtime_checkable
class Context(Protocol):
    """What the main of a process gets: when to stop, and how to say where it is."""

    @property
    def telemetry(self) -> Telemetry:
        """Where it counts and measures."""
        ...

    def stop_sets(self, event: threading.Event) -> None:
        """Set a thread's event when this process is told to stop."""
        ...

    def should_stop(self) -> bool:
        """Whether this process has been told to stop."""
        ...

    def say(self, **status: object) -> None:
        """Report numbers and what this process waits for to whoever watches the fleet."""
        ...


class ServiceContext:
    """A `Context` for a process of its own: SIGTERM and SIGINT stop it, its status is sent every two seconds.

    Args:
        name, role: as in its status.
        telemetry: whose numbers go into the status.

    Attributes:
        stopping: set when it is to stop.
        signal: number of the signal that stopped it, None if none did.
    """

    def __init__(self, name: str, role: str, telemetry: Telemetry | None = None) -> None:
        self.name, self.role = name, role
        self.telemetry = telemetry or Telemetry({"process": name, "role": role})
        self.stopping = threading.Event()
        self.signal: int | None = None
        self._said: dict[str, object] = {}
        self._guard = threading.Lock()
        self._began = time.time()

    def stop_sets(self, event: threading.Event) -> None:
        """See `Context.stop_sets`."""
        threading.Thread(target=lambda: (self.stopping.wait(), event.set()), daemon=True).start()

    def should_stop(self) -> bool:
        """See `Context.should_stop`."""
        return self.stopping.is_set()

    def say(self, **status: object) -> None:
        """See `Context.say`; the next status carries it."""
        with self._guard:
            self._said.update(status)
        for name, value in status.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self.telemetry.gauge(name, float(value))

    def status(self) -> dict[str, Any]:
        """What to send now."""
        with self._guard:
            said = dict(self._said)
        return {
            **said,
            "version": __version__,
            "pid": os.getpid(),
            "up_s": round(time.time() - self._began, 1),
            "stopping": self.stopping.is_set(),
            "numbers": self.telemetry.summary(),
        }

    @contextmanager
    def telling(self, tell: Tell) -> Generator[None]:
        """Send the status every two seconds, and once more at the end."""
        ended = threading.Event()

        def run() -> None:
            while not ended.wait(STATUS_EVERY_S):
                tell(self.status())

        thread = threading.Thread(target=run, name="lwd-status", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(STATUS_EVERY_S)
            self.stopping.set()
            tell(self.status())

    @contextmanager
    def signals(self) -> Generator[None]:
        """SIGTERM and SIGINT ask it to stop; a second one ends it at once. Main thread only."""

        def stop(number: int, _: object) -> None:
            if self.stopping.is_set():
                os._exit(128 + number)
            log.info("stopping name=%s signal=%s", self.name, signal.Signals(number).name)
            self.signal = number
            self.stopping.set()

        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
