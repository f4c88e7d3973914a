"""What is in a spool, kept in memory: with ten thousand episodes waiting, looking into each file would hold up recordings."""

from __future__ import annotations

import contextlib
import threading
from bisect import bisect_left, insort
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from lwd.log.worth import Worth


@dataclass(frozen=True, kw_only=True)
class Held:
    """One whole episode in a spool: its bytes, its class, and whether it waits (else it was refused for good)."""

    path: Path
    size: int
    worth: Worth
    waits: bool


class SpoolIndex:
    """The episodes of one spool in the order in which they may be dropped. Thread-safe; touches the disk in `used` only."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held: dict[Path, Held] = {}
        self._order: list[tuple[Worth, bool, _Newest, Path]] = []
        self._bytes, self._waiting = 0, 0
        self._parts: set[Path] = set()

    def put(self, held: Held) -> None:
        """Note a whole episode; it replaces what was noted under its path."""
        with self._guard:
            self._forget(held.path)
            self._held[held.path] = held
            insort(self._order, _key(held))
            self._bytes += held.size
            self._waiting += held.waits

    def forget(self, path: Path) -> Held | None:
        """A file is gone; what was noted of it."""
        with self._guard:
            self._parts.discard(path)
            return self._forget(path)

    def runs(self, part: Path) -> None:
        """Note a file that an episode is being written into."""
        with self._guard:
            self._parts.add(part)

    def first(self, busy: Collection[Path]) -> Held | None:
        """What goes first of what is not `busy`: the least worth, then refused before waiting, then the newest."""
        with self._guard:
            return next((self._held[key[3]] for key in self._order if key[3] not in busy), None)

    def worths(self, paths: Collection[Path]) -> list[Worth]:
        """The classes of those of `paths` that are here."""
        with self._guard:
            return [self._held[path].worth for path in paths if path in self._held]

    def counts(self) -> tuple[int, int]:
        """Episodes that wait, and that were refused."""
        with self._guard:
            return self._waiting, len(self._held) - self._waiting

    def used(self) -> int:
        """Bytes of all episodes, running, waiting and refused."""
        with self._guard:
            size, parts = self._bytes, list(self._parts)
        for part in parts:
            with contextlib.suppress(FileNotFoundError):  # not made yet, or whole since
                size += part.stat().st_size
        return size

    def _forget(self, path: Path) -> Held | None:
        held = self._held.pop(path, None)
        if held is not None:
            del self._order[bisect_left(self._order, _key(held))]
            self._bytes -= held.size
            self._waiting -= held.waits
        return held


class _Newest(str):
    """An id that sorts before older ones."""

    __slots__ = ()

    def __lt__(self, other: str) -> bool:
        return str.__gt__(self, other)


def _key(held: Held) -> tuple[Worth, bool, _Newest, Path]:
    return held.worth, held.waits, _Newest(held.path.stem), held.path
