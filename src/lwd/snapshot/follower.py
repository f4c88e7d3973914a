"""A robot's policy: at an episode's boundary it takes the newest snapshot, skips all between, and never goes back."""

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

    Attributes:
        number: of the snapshot that was loaded last, None before the first.
        skipped: how many numbers were never downloaded because a newer one was there.
    """

    def __init__(
        self, newest: Newest, objects: ObjectSource, key: Ed25519PublicKey, at_least: int | None = None
    ) -> None:
        self._newest, self._objects, self._key = newest, objects, key
        self.number = at_least
        self.skipped = 0

    def poll(self) -> tuple[dict[str, NDArray[Any]], Snapshot] | None:
        """The newest snapshot's arrays (read-only) and row if it is newer than what is held, else None.

        Never raises for what a network, a store or a stranger can do: the robot goes on with what it has, and the log says
        why. A row that is not signed by the fleet is not even downloaded.
        """
        try:
            row = self._newest()
            if row is None or (self.number is not None and row.number <= self.number):
                return None
            verify(row, self._key)
            arrays, snapshot = fetch(self._objects, row, self._key)
        except (SnapshotError, StoreError) as error:
            log.warning("snapshot_not_loaded holds=%s cause=%r", self.number, str(error))
            return None
        if self.number is not None:
            self.skipped += snapshot.number - self.number - 1
        self.number = snapshot.number
        log.info("snapshot_loaded snapshot=%d bytes=%d", snapshot.number, snapshot.size)
        return arrays, snapshot
