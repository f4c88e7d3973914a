"""What a robot keeps while it cannot deliver: the spool within its byte budget, and on a disk that is full.

What goes first follows from `worth`: unjudged, then autonomous successes, then failures, then what a human commanded; within
a class what was refused for good before what still waits, then the newest first. A running episode makes room for itself
at the cost of classes below its own only; how it ends is not known yet, so it counts as a failure. Where nothing may go for
it, the budget is exceeded until it ends; a full disk is then an error. Every drop is in the journal before the file goes.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lwd.errors import ConfigError
from lwd.log.losses import Drop, Losses, Total
from lwd.log.spool import Spool
from lwd.log.spool_file import FULL
from lwd.log.spool_index import Held
from lwd.log.worth import About, Worth

log = logging.getLogger(__name__)

BUDGET, DISK_FULL = "budget", "disk full"


@dataclass(frozen=True, kw_only=True)
class SpoolStatus:
    """A spool's state, for a robot's status message.

    Attributes:
        waiting, refused: whole episodes that wait for delivery, or were refused for good.
        used_bytes: of all episodes, running ones too; budget_bytes: None without a budget.
        dropped: all that was ever dropped from this spool, by class.
        unreported: drops that the coordinator was not told of yet.
    """

    waiting: int
    refused: int
    used_bytes: int
    budget_bytes: int | None
    dropped: Mapping[Worth, Total]
    unreported: int


class Keeper:
    """Makes room in a spool. Thread-safe.

    Args:
        spool: whose files these are.
        budget_bytes: for all its episodes together; None for as much as the disk takes.
    """

    def __init__(self, spool: Spool, budget_bytes: int | None = None) -> None:
        if budget_bytes is not None and budget_bytes <= 0:
            raise ConfigError(f"the spool's budget_bytes is {budget_bytes}, expected at least 1, or None.")
        self._spool, self._budget = spool, budget_bytes
        self._guard = threading.RLock()
        self._busy: set[Path] = set()
        self._losses = Losses(spool.folder / ".dropped.jsonl")
        noted = {drop.episode_id for drop in self._losses.untold()}
        for path in [*spool.whole(), *spool.set_aside()]:
            if path.stem in noted:  # a crash came between the journal's line and the file
                spool.remove(path)

    def room(self, size: int, full: bool, worth: Worth) -> bool:
        """Make room for the next `size` bytes of a running episode of at most this worth; whether there is.

        Args:
            size: bytes that are about to be written.
            full: the disk has just refused them.
            worth: only what is worth less is dropped.
        """
        if not full and self._budget is None:
            return True
        with self._guard:
            if full or self._budget is None:
                return self._drop_one(worth, DISK_FULL)
            while self._spool.index.used() + size > self._budget:
                if not self._drop_one(worth, BUDGET):
                    return False
            return True

    def store(self, write: Callable[[], object], about: About | None) -> None:
        """Run `write`, which stores one whole episode, making room where the disk refuses; then keep to the budget.

        Raises:
            OSError: the disk refuses, and nothing may go for this episode.
        """
        with self._guard:
            worth = Worth.UNJUDGED if about is None else about.worth
            while True:
                try:
                    write()
                    break
                except OSError as error:
                    if error.errno not in FULL or not self._drop_one(worth, DISK_FULL):
                        raise
            self.settle()

    def settle(self) -> None:
        """Drop whole episodes until the spool is within its budget."""
        if self._budget is None:
            return
        with self._guard:
            while self._spool.index.used() > self._budget and self._drop_one(None, BUDGET):
                pass

    @contextlib.contextmanager
    def delivering(self, path: Path) -> Generator[bool]:
        """Keep a waiting episode from being dropped while it is delivered; False if it is gone already."""
        with self._guard:
            there = path.exists()
            self._busy.add(path)
        try:
            yield there
        finally:
            with self._guard:
                self._busy.discard(path)
                self.settle()

    def untold(self) -> list[Drop]:
        """Drops that are still to be reported, oldest first."""
        with self._guard:
            return self._losses.untold()

    def told(self, episode_id: str) -> None:
        """The bus has the report of this drop. OSError if the journal cannot be written."""
        with self._guard:
            self._losses.told(episode_id)

    def status(self) -> SpoolStatus:
        """The spool's state now."""
        waiting, refused = self._spool.index.counts()
        with self._guard:
            return SpoolStatus(
                waiting=waiting,
                refused=refused,
                used_bytes=self._spool.index.used(),
                budget_bytes=self._budget,
                dropped=self._losses.totals(),
                unreported=len(self._losses.untold()),
            )

    def _drop_one(self, below: Worth | None, why: str) -> bool:
        """Drop what goes first, of what is worth less than `below` (anything if None); False if there is nothing."""
        index = self._spool.index
        while (first := index.first(self._busy)) is not None and not first.path.exists():
            index.forget(first.path)  # somebody took it away by hand: that is no drop
        if first is None or (below is not None and first.worth >= below):
            return False
        # A budget waits for what is worth less and is being delivered: it makes room by itself. A full disk cannot wait.
        if why == BUDGET and first.worth > min(index.worths(self._busy), default=Worth.HUMAN):
            return False
        self._drop(first, why)
        return True

    def _drop(self, held: Held, why: str) -> None:
        path, worth = held.path, held.worth
        drop = Drop(episode_id=path.stem, worth=worth, size=held.size, at=time.time(), why=why)
        try:
            self._losses.add(drop)
            self._spool.remove(path)
        except OSError as error:
            if error.errno not in FULL:
                raise
            # Not even the journal's line fits: the file makes room for it. A crash right here would go uncounted.
            self._spool.remove(path)
            self._losses.add(drop)
        log.warning(
            "episode_dropped episode=%s class=%s bytes=%d why=%r",
            *(drop.episode_id, worth.name.lower(), drop.size, why),
        )
