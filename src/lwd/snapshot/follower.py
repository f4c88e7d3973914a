"""A robot's policy: at an episode's boundary it takes the newest snapshot, skips all between, and never goes back.

Under releases it takes the one that it is allowed, which may have a lower number: what only grows there is the edition.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from numpy.typing import NDArray

from lwd.errors import SnapshotError, StoreError
from lwd.log.objects import ObjectSource
from lwd.snapshot.store import Snapshot, fetch, verify

log = logging.getLogger(__name__)

Newest = Callable[[], Snapshot | None]
"""The newest row that is known, None before the first: `SnapshotStore.latest` or `NatsChannel.snapshot`."""


class SnapshotFollower:
    """Loads only what is newer than what it holds and signed by the fleet. One thread.

    A robot that was away downloads one snapshot, the newest, however many were published meanwhile.

    Args:
        newest: asked at each `poll`.
        objects: where files come from: the store, grants, or the site's cache.
        key: the fleet's public key.
        at_least: the number that this robot holds already; older ones are refused.
        goes_back: load whatever other number `newest` names; who asks has seen to it that it is no old word.

    Attributes:
        number: of the snapshot that was loaded last, None before the first.
        skipped: how many numbers were never downloaded because a newer one was there.
    """

    def __init__(
        self,
        newest: Newest,
        objects: ObjectSource,
        key: Ed25519PublicKey,
        at_least: int | None = None,
        *,
        goes_back: bool = False,
    ) -> None:
        self._newest, self._objects, self._key = newest, objects, key
        self.number = at_least
        self.skipped = 0
        self._goes_back = goes_back

    def holds(self, number: int) -> bool:
        """Whether there is nothing to load under this number."""
        if self.number is None:
            return False
        return number == self.number if self._goes_back else number <= self.number

    def poll(self) -> tuple[dict[str, NDArray[Any]], Snapshot] | None:
        """The newest snapshot's arrays (read-only) and row if it is newer than what is held, else None.

        Never raises for what a network, a store or a stranger can do: the robot goes on with what it has, and the log says
        why. A row that is not signed by the fleet is not even downloaded.
        """
        try:
            row = self._newest()
            if row is None or self.holds(row.number):
                return None
            verify(row, self._key)
            arrays, snapshot = fetch(self._objects, row, self._key)
        except (SnapshotError, StoreError) as error:
            log.warning("snapshot_not_loaded holds=%s cause=%r", self.number, str(error))
            return None
        if self.number is not None:
            self.skipped += max(snapshot.number - self.number - 1, 0)
        self.number = snapshot.number
        log.info("snapshot_loaded snapshot=%d bytes=%d", snapshot.number, snapshot.size)
        return arrays, snapshot
