"""How a robot learns that there is a newer snapshot: it asks for the newest number at each episode's boundary."""

from __future__ import annotations

import time
from typing import Protocol, runtime_checkable

from lwd.snapshot.store import Snapshot, SnapshotStore


@runtime_checkable
class SnapshotChannel(Protocol):
    """Announcements from the learner to the robots. Only the newest counts; robots skip what lies between."""

    def announce(self, snapshot: Snapshot, /) -> None:
        """Tell the robots; called by the learner after `publish`."""
        ...

    def newest(self) -> int | None:
        """The newest number announced, None before the first. Never waits for the network for long."""
        ...


class CatalogueChannel:
    """The embedded channel: the head in the catalogue is the announcement.

    Args:
        store: whose head is read.
        cache_s: seconds for which an answer is reused, so that a fleet's polling costs the database nothing.
    """

    def __init__(self, store: SnapshotStore, cache_s: float = 0.1) -> None:
        self._store, self._cache_s = store, cache_s
        self._number: int | None = None
        self._asked = -float("inf")

    def announce(self, snapshot: Snapshot) -> None:
        """Nothing is left to do: publishing moved the head. This channel's own cache is brought up to date."""
        self._number, self._asked = max(snapshot.number, self._number or 0), time.monotonic()

    def newest(self) -> int | None:
        """The newest number, at most `cache_s` seconds old."""
        if time.monotonic() - self._asked >= self._cache_s:
            self._number, self._asked = self._store.newest(), time.monotonic()
        return self._number
