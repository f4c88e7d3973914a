"""Releases over the broker: it keeps the newest one of each kind of robot, robots hear theirs live and late."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from lwd.log.nats_link import NatsLink
from lwd.snapshot.newest import NewestChannel, Topic
from lwd.snapshot.promotion import Notice, notice_message, parse_notice, verify_notice
from lwd.spec import NAME

RELEASE_STREAM = "RELEASE"
RELEASE_SUBJECTS = "release.*"
RELEASE_GET = f"$JS.API.DIRECT.GET.{RELEASE_STREAM}.{RELEASE_SUBJECTS}"
"""What may be asked for: the newest release of a kind of robot, and nothing else."""


def release_topic(kind: str) -> Topic:
    """Where the releases of a kind of robot are announced. A kind that cannot be part of a subject goes by its hash."""
    word = kind if NAME.fullmatch(kind) else hashlib.sha256(kind.encode()).hexdigest()[:32]
    return Topic(
        what="release",
        stream=RELEASE_STREAM,
        subjects=RELEASE_SUBJECTS,
        limits={"max_msgs_per_subject": 1},
        subject=f"release.{word}",
    )


class NatsReleases(NewestChannel[Notice]):
    """The newest release of one kind of robot. Thread-safe; close it, or its link.

    Args:
        link: the connection.
        key: the fleet's public key.
        kind: of robot; what is signed for another kind is passed over.
        told: the one that this robot holds already, verified like an announcement; a lower edition is refused then.
        first_wait_s: the first look waits so long for the broker's first answer, later ones never wait.
    """

    def __init__(
        self,
        link: NatsLink,
        key: Ed25519PublicKey,
        kind: str,
        *,
        told: Notice | None = None,
        first_wait_s: float = 1.0,
    ) -> None:
        self._key, self._kind = key, kind
        super().__init__(link, release_topic(kind), floor=0, told=told, first_wait_s=first_wait_s)

    def _number(self, item: Notice) -> int:
        return item.release.edition

    def _mark(self, item: Notice) -> str:
        return item.release.signature

    def _message(self, item: Notice) -> Mapping[str, Any]:
        return notice_message(item)

    def _parse(self, payload: Mapping[str, Any]) -> Notice:
        return parse_notice(payload)

    def _verify(self, item: Notice) -> None:
        verify_notice(item, self._key)

    def _concerns(self, item: Notice) -> bool:
        return item.release.kind == self._kind
