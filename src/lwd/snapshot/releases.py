"""The releases of a fleet: one row per edition and kind of robot in the catalogue. The newest one is all that holds."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from lwd.errors import ConfigError, SnapshotError, StoreError
from lwd.log import tables
from lwd.log.bus import MAX_PAYLOAD_BYTES
from lwd.log.catalogue import Catalogue
from lwd.snapshot.promotion import Notice, Release, notice_message, read_release, sign, verify_release
from lwd.snapshot.store import PUBLISHED, REJECTED, REMOVED, SnapshotStore

log = logging.getLogger(__name__)


class OvertakenError(StoreError):
    """Somebody else made a release meanwhile: look at that one, and decide again."""


class ReleaseStore:
    """Releases of one fleet.

    Args:
        catalogue: where the rows are.
        snapshots: what they name.
        key: the private key that signs snapshots, where releases are made; the public key elsewhere.
    """

    def __init__(
        self, catalogue: Catalogue, snapshots: SnapshotStore, key: Ed25519PrivateKey | Ed25519PublicKey
    ) -> None:
        self._catalogue, self._snapshots = catalogue, snapshots
        self._private = key if isinstance(key, Ed25519PrivateKey) else None
        self._public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key

    def newest(self, kind: str) -> Release | None:
        """The release that holds for a kind of robot, None before the first.

        Raises:
            SnapshotError: it is not signed by this fleet: nothing may be built on it.
        """
        found = newest_release(self._catalogue, kind)
        if found is not None:
            verify_release(found, self._public)
        return found

    def notice(self, release: Release) -> Notice:
        """The release with the rows that it names; SnapshotError if one does not exist."""
        return Notice(release, {number: self._snapshots.read(number) for number in release.named})

    def issue(
        self,
        release: Release,
        *,
        after: Release | None,
        above: int | None = None,
        rejected: Mapping[int, str] | None = None,
    ) -> Release:
        """Sign a release and make it the one that holds, with the next edition; when this returns it is stored, once.

        Args:
            release: what is to hold; edition, time and signature are set here.
            after: the one that held when this was decided, None for the first: nobody's release is overwritten unseen.
            above: an edition that robots know, which a catalogue restored from an older backup has forgotten.
            rejected: snapshots that are marked so in the same transaction, with the reason.

        Raises:
            OvertakenError: another one holds by now; nothing was stored.
            ConfigError: it is too large for a message; nothing was stored.
            SnapshotError: not signable here, or a snapshot that it names does not exist or has lost its bytes.
            StoreError: the catalogue refused.
        """
        if self._private is None:
            raise SnapshotError(
                "a release needs the private key that signs snapshots; here is the public one."
            )
        held = after.edition if after else 0
        made = replace(release, edition=max(held, above or 0) + 1, created_at=time.time())
        made = sign(made, self._private)
        _check_size(self.notice(made))
        with self._catalogue.write() as connection:
            now = _newest(connection, made.kind)
            if (now.edition if now else 0) != held:
                raise OvertakenError(
                    f"release {now.edition if now else 0} of {made.kind!r:.80} was made meanwhile; nothing was done."
                )
            _check_bytes(connection, made.numbers)
            connection.execute(
                sa.insert(tables.releases).values(
                    kind=made.kind, edition=made.edition, body=made.body(), signature=made.signature
                )
            )
            for number, why in (rejected or {}).items():
                _reject(connection, number, why)
        log.info(
            "release_issued edition=%d kind=%s stable=%d candidate=%s canaries=%s pins=%s reason=%r",
            *(made.edition, made.kind, made.stable, made.candidate, ",".join(made.canaries) or None),
            *(
                ",".join(f"{robot}:{number}" for robot, number in sorted(made.pins.items())) or None,
                made.reason,
            ),
        )
        return made

    def reject(self, number: int, why: str) -> None:
        """Mark a snapshot that no robot of a release runs as rejected."""
        with self._catalogue.write() as connection:
            _reject(connection, number, why)


def newest_release(catalogue: Catalogue, kind: str) -> Release | None:
    """The release that holds for a kind of robot, not verified; None before the first. One indexed read."""
    with catalogue.read() as connection:
        return _newest(connection, kind)


def releases(catalogue: Catalogue, kind: str | None = None, *, limit: int | None = None) -> list[Release]:
    """The newest releases of a kind, of all kinds for None, oldest first by kind and edition, not verified."""
    column = tables.releases.c
    query = sa.select(tables.releases).order_by(column.kind.desc(), column.edition.desc()).limit(limit)
    if kind is not None:
        query = query.where(column.kind == kind)
    with catalogue.read() as connection:
        return [_release(row) for row in connection.execute(query).mappings()][::-1]


def holding(catalogue: Catalogue) -> list[Release]:
    """The release that holds for each kind of robot, not verified."""
    with catalogue.read() as connection:
        return _holding(connection)


def _holding(connection: sa.Connection) -> list[Release]:
    column = tables.releases.c
    newest = sa.select(column.kind, sa.func.max(column.edition).label("edition")).group_by(column.kind)
    found = newest.subquery()
    both = sa.and_(column.kind == found.c.kind, column.edition == found.c.edition)
    query = sa.select(tables.releases).join(found, both).order_by(column.kind)
    return [_release(row) for row in connection.execute(query).mappings()]


def needed(connection: sa.Connection) -> dict[int, str]:
    """Snapshots that a release needs, and why: what the newest of each kind names, and the stable one before."""
    found: dict[int, str] = {}
    for release in _holding(connection):
        where = f"of release {release.edition} for robots of kind {release.kind}"
        before = _stable_before(connection, release)
        if before is not None:
            found[before] = f"the stable one before that {where}"
        if release.previous is not None:
            found[release.previous] = f"the stable one before that {where}"
        found |= {number: f"pinned for {robot}" for robot, number in release.pins.items()}
        if release.candidate is not None:
            found[release.candidate] = f"the candidate {where}"
        found[release.stable] = f"the stable one {where}"
    return found


def _stable_before(connection: sa.Connection, release: Release) -> int | None:
    column = tables.releases.c
    query = sa.select(tables.releases).where(column.kind == release.kind).order_by(column.edition.desc())
    with connection.execute(query) as rows:
        older = (_release(row).stable for row in rows.mappings())
        return next((number for number in older if number != release.stable), None)


def _newest(connection: sa.Connection, kind: str) -> Release | None:
    column = tables.releases.c
    query = sa.select(tables.releases).where(column.kind == kind).order_by(column.edition.desc()).limit(1)
    row = connection.execute(query).mappings().first()
    return None if row is None else _release(row)


def _release(row: Mapping[Any, Any]) -> Release:
    try:
        return replace(read_release(json.loads(row["body"])), signature=row["signature"])
    except ValueError as error:
        raise SnapshotError(f"release {row['edition']}: its row is not JSON: {error}.") from error


def _check_size(notice: Notice) -> None:
    size = len(json.dumps(notice_message(notice)))
    if size > MAX_PAYLOAD_BYTES:
        raise ConfigError(
            f"the release would have {size} bytes, a message has at most {MAX_PAYLOAD_BYTES}: it names "
            f"{len(notice.snapshots)} snapshots and {len(notice.release.pins)} pins. Unpin robots, or pin them to fewer "
            "snapshots; nothing was done."
        )


def _check_bytes(connection: sa.Connection, numbers: Collection[int]) -> None:
    """SnapshotError if a snapshot's bytes are gone; inside the transaction, since a retention may run."""
    column = tables.snapshots.c
    gone = sa.select(column.number).where(column.number.in_(numbers), column.status == REMOVED)
    if (number := connection.execute(gone).scalars().first()) is not None:
        raise SnapshotError(f"snapshot {number} was removed: no robot could load it. Nothing was done.")


def _reject(connection: sa.Connection, number: int, why: str) -> None:
    column = tables.snapshots.c
    change = sa.update(tables.snapshots).where(column.number == number, column.status == PUBLISHED)
    connection.execute(change.values(status=REJECTED, reason=why))
    log.info("snapshot_rejected snapshot=%d reason=%r", number, why)
