"""The watchdog of an action guard: a thread that holds the robot if no command comes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

JOIN_S = 1.0
"""How long `stop` waits for a hold under way: a driver that hangs in it must not hang the rest."""


class SilenceWatch:
    """Calls `hold` once, from a thread of its own, if `feed` is not called for `silence_s` seconds. Begins to watch at once."""

    def __init__(self, silence_s: float, hold: Callable[[], None]) -> None:
        self._silence_s, self._hold = silence_s, hold
        self._ended, self._guard = threading.Event(), threading.Lock()
        self._fed, self._fired = time.monotonic(), False
        self._thread = threading.Thread(target=self._run, name="lwd-silence", daemon=True)
        self._thread.start()

    def feed(self) -> bool:
        """A command is about to be sent; False if it comes too late, since the robot was told to hold."""
        with self._guard:
            self._fed = time.monotonic()
            return not self._fired

    def stop(self) -> bool:
        """Watch no longer; whether the robot was told to hold."""
        with self._guard:
            self._ended.set()
        self._thread.join(JOIN_S)
        return self._fired

    def _run(self) -> None:
        left = self._silence_s
        while not self._ended.wait(left):
            with self._guard:
                left = self._fed + self._silence_s - time.monotonic()
                self._fired = left <= 0 and not self._ended.is_set()
            if self._fired:
                log.error("no_command silence_s=%g", self._silence_s)
                self._hold()
                return
