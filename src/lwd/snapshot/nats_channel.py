"""The fleet's announcements: the broker keeps the newest one, robots hear it live and ask for it when they (re)connect.

An announcement carries the snapshot's whole row with its signature, so a robot needs no catalogue. What a robot believes is
the signature and that numbers only grow, never the broker: an announcement that fails either is refused, and said once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from lwd.log.nats_link import NatsLink
from lwd.snapshot.announcement import announcement, parse_announcement
from lwd.snapshot.newest import NewestChannel, Topic
from lwd.snapshot.store import Snapshot, verify

SNAPSHOT_STREAM = "SNAPSHOT"
SNAPSHOT_SUBJECT = "snapshot.newest"
_TOPIC = Topic(
    what="snapshot",
    stream=SNAPSHOT_STREAM,
    subjects=SNAPSHOT_SUBJECT,
    limits={"max_msgs": 1},
    subject=SNAPSHOT_SUBJECT,
)
SNAPSHOT_GET = _TOPIC.get
"""The one JetStream subject that a robot needs besides its own: the newest announcement, and nothing else."""


class NatsChannel(NewestChannel[Snapshot]):
    """Implements `SnapshotChannel` over a NATS server. Thread-safe; close it, or its link.

    Args:
        link: the connection.
        key: the fleet's public key.
        at_least: the number that this robot holds already; what is older is refused.
        kind: of robot; announcements for another kind are passed over. None for all.
        told: a row that came another way, believed like an announcement.
        first_wait_s: the first `newest` waits so long for the broker's first answer, later ones never wait.
    """

    def __init__(
        self,
        link: NatsLink,
        key: Ed25519PublicKey,
        *,
        at_least: int | None = None,
        kind: str | None = None,
        told: Snapshot | None = None,
        first_wait_s: float = 1.0,
    ) -> None:
        self._key, self._kind = key, kind
        super().__init__(link, _TOPIC, floor=at_least or 0, told=told, first_wait_s=first_wait_s)

    def snapshot(self) -> Snapshot | None:
        """The newest verified row, for `fetch`. Its metadata is not signed; that in the file is."""
        return self.held()

    def _number(self, item: Snapshot) -> int:
        return item.number

    def _mark(self, item: Snapshot) -> str:
        return item.sha256

    def _message(self, item: Snapshot) -> Mapping[str, Any]:
        return announcement(item)

    def _parse(self, payload: Mapping[str, Any]) -> Snapshot:
        return parse_announcement(payload)

    def _verify(self, item: Snapshot) -> None:
        verify(item, self._key)

    def _concerns(self, item: Snapshot) -> bool:
        return self._kind is None or item.may_drive(self._kind)
