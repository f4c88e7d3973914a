r"""Releases: signed, numbered statements of which robot of a kind may run which snapshot.

A robot that follows releases believes only a higher edition than the one it holds. So it may go back to a lower snapshot,
and still nobody who can only speak to it can hand it an old policy. The signature covers

    lwd-release-1 \n {"candidate", "canaries", "created_at", "edition", "kind", "pins", "previous", "reason", "stable"}

as JSON with sorted keys. An announcement brings the rows of the snapshots that it names, each with the learner's signature.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from lwd.errors import SnapshotError
from lwd.log.checks import LAST_TIME, integer_in, number_in
from lwd.snapshot.announcement import announcement, parse_announcement
from lwd.snapshot.keys import is_signed
from lwd.snapshot.store import Snapshot, verify
from lwd.spec import NAME, is_text

MAX_CANARIES = 64
MAX_PINS = 64
MAX_REASON_CHARS = 500


@dataclass(frozen=True, kw_only=True)
class Release:
    """Which robot of a kind may run what.

    Attributes:
        edition: 1, 2, 3, ... per kind; the largest holds.
        kind: name of the robots' `RobotSpec`.
        stable: number of the snapshot that every robot runs about which nothing else is said.
        previous: the stable one before, to which the promoter goes back if this one does worse; None where nothing is watched.
        candidate: number of the snapshot under test; None without one.
        canaries: names of the robots that run the candidate.
        pins: name of a robot -> the number that it runs, whatever else holds.
        reason: for people: why this release was made.
        created_at: seconds since the epoch.
        signature: Ed25519, in hex; "" before it is signed.
    """

    edition: int
    kind: str
    stable: int
    previous: int | None = None
    candidate: int | None = None
    canaries: tuple[str, ...] = ()
    pins: Mapping[str, int] = field(default_factory=dict[str, int])
    reason: str
    created_at: float
    signature: str = ""

    def allowed(self, robot: str) -> int:
        """The number of the snapshot that this robot runs: its pin, else the candidate for a canary, else the stable one."""
        if robot in self.pins:
            return self.pins[robot]
        return self.candidate if self.candidate is not None and robot in self.canaries else self.stable

    def choices(self, robot: str) -> tuple[int, ...]:
        """What this robot may run, best first: a canary that cannot have the candidate yet runs the stable one."""
        best = self.allowed(robot)
        return (best, self.stable) if robot not in self.pins and best != self.stable else (best,)

    @property
    def in_order(self) -> tuple[int, ...]:
        """All snapshots that some robot may run: the stable one, the candidate, pins."""
        some = () if self.candidate is None else (self.candidate,)
        return tuple(dict.fromkeys((self.stable, *some, *sorted(self.pins.values()))))

    @property
    def numbers(self) -> frozenset[int]:
        """The same as a set."""
        return frozenset(self.in_order)

    @property
    def named(self) -> frozenset[int]:
        """These, and the one that robots would go back to."""
        return self.numbers if self.previous is None else self.numbers | {self.previous}

    def in_words(self) -> str:
        """As a line."""
        test = "" if self.candidate is None else f"; {self.candidate} on {', '.join(self.canaries)}"
        pins = "".join(f"; {number} pinned on {robot}" for robot, number in sorted(self.pins.items()))
        return f"release {self.edition} for robots of kind {self.kind}: snapshot {self.stable}{test}{pins}"

    def body(self) -> str:
        """What the signature covers, as JSON."""
        fields = {name: value for name, value in vars(self).items() if name != "signature"}
        return json.dumps(
            {**fields, "canaries": list(self.canaries), "pins": dict(self.pins)}, sort_keys=True
        )

    def signed_bytes(self) -> bytes:
        """What is signed."""
        return b"lwd-release-1\n" + self.body().encode()


@dataclass(frozen=True)
class Notice:
    """A release as it is announced: with the rows of the snapshots that it names, by number."""

    release: Release
    snapshots: Mapping[int, Snapshot]

    def allowed(self, robot: str) -> Snapshot:
        """The row of what this robot runs."""
        return self.snapshots[self.release.allowed(robot)]


def sign(release: Release, key: Ed25519PrivateKey) -> Release:
    """The release with its signature.

    Raises:
        SnapshotError: no robot would read it: a name, a number or a text is out of bounds.
    """
    read_release(json.loads(release.body()))
    return replace(release, signature=key.sign(release.signed_bytes()).hex())


def verify_release(release: Release, key: Ed25519PublicKey) -> None:
    """Check a release's signature; SnapshotError if it is not this fleet's."""
    if not is_signed(release.signature, release.signed_bytes(), key):
        raise SnapshotError(
            f"release {release.edition} for {release.kind!r:.80}: its signature does not fit this fleet's public key; it is "
            "not followed. Either catalogue or broker was tampered with, or this computer holds another fleet's key."
        )


def verify_notice(notice: Notice, key: Ed25519PublicKey) -> None:
    """Check the signatures of a release and of all rows that it brings; SnapshotError if one is not this fleet's."""
    verify_release(notice.release, key)
    for snapshot in notice.snapshots.values():
        verify(snapshot, key)


def notice_message(notice: Notice) -> dict[str, Any]:
    """The message that announces a release. The rows come without metadata: that in the file counts."""
    rows = [announcement(replace(row, meta={})) for _, row in sorted(notice.snapshots.items())]
    return {
        "release": json.loads(notice.release.body()),
        "signature": notice.release.signature,
        "snapshots": rows,
    }


def parse_notice(payload: Mapping[str, Any]) -> Notice:
    """Read a message, trusting nothing in it; SnapshotError if it does not fit. No signature is checked here."""
    found, rows, signature = payload.get("release"), payload.get("snapshots"), payload.get("signature")
    if not isinstance(found, dict) or not isinstance(rows, list) or not isinstance(signature, str):
        raise SnapshotError(f"a release's message does not fit: {dict(payload)!r:.300}")
    release = replace(read_release(cast(dict[str, Any], found)), signature=signature)
    snapshots: dict[int, Snapshot] = {}
    for row in cast(Sequence[object], rows):
        if isinstance(row, dict):
            snapshot = parse_announcement(cast(dict[str, Any], row))
            snapshots[snapshot.number] = snapshot
    if missing := sorted(release.numbers - snapshots.keys()):
        raise SnapshotError(f"release {release.edition} does not bring the row of snapshot {missing[0]}.")
    # The row of the previous one is of use to a robot that has its file; it can do without, as from older promoters.
    return Notice(release, {number: snapshots[number] for number in release.named & snapshots.keys()})


def read_release(found: Mapping[str, Any]) -> Release:
    """A release from its fields, unsigned; SnapshotError if one is missing or out of bounds."""
    canaries, pins = found.get("canaries"), found.get("pins")
    created_at = number_in(found.get("created_at"), 0, LAST_TIME)
    fits = (
        all(integer_in(found.get(name), 1) for name in ("edition", "stable"))
        and all(_none_or_number(found, name) for name in ("previous", "candidate"))
        and is_text(found.get("kind"))
        and is_text(found.get("reason"))
        and len(found["reason"]) <= MAX_REASON_CHARS
        and isinstance(canaries, list)
        and len(cast(list[object], canaries)) <= MAX_CANARIES
        and all(_is_name(name) for name in cast(list[object], canaries))
        and isinstance(pins, dict)
        and len(cast(dict[object, object], pins)) <= MAX_PINS
        and all(
            _is_name(name) and integer_in(number, 1) for name, number in cast(dict[Any, Any], pins).items()
        )
    )
    if not fits or created_at is None:
        raise SnapshotError(
            f"a release's fields do not fit (at most {MAX_CANARIES} canaries, {MAX_PINS} pins and a reason of "
            f"{MAX_REASON_CHARS} characters): {dict(found)!r:.300}"
        )
    return Release(
        edition=found["edition"],
        kind=found["kind"],
        stable=found["stable"],
        previous=found["previous"],
        candidate=found["candidate"],
        canaries=tuple(found["canaries"]),
        pins=dict(found["pins"]),
        reason=found["reason"],
        created_at=found["created_at"],
    )


def _none_or_number(found: Mapping[str, Any], name: str) -> bool:
    value = found.get(name, "")
    return value is None or integer_in(value, 1) is not None


def _is_name(value: object) -> bool:
    return isinstance(value, str) and NAME.fullmatch(value) is not None
