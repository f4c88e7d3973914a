r"""The snapshot store: the learner publishes policies into it, robots and evaluators load them out of it.

A snapshot is an object named by its hash, a row with its number, and a signature over

    lwd-snapshot-1 \n {"learner_step", "manifest", "number", "parent", "sha256", "size"} as JSON with sorted keys

The hash covers all arrays and the metadata. Number and parent are signed too, so that nobody who can only write the
catalogue can hand out an old policy as the newest one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from numpy.typing import NDArray

from lwd.errors import SnapshotError
from lwd.log import tables
from lwd.log.catalogue import Catalogue, first_rows, move_head, read_head
from lwd.log.objects import MissingObjectError, ObjectSink, ObjectSource, TooLargeError
from lwd.snapshot.file import pack, unpack
from lwd.snapshot.keys import is_signed

log = logging.getLogger(__name__)

HEAD = "snapshot"
PUBLISHED, REJECTED, REMOVED = "published", "rejected", "removed"
KIND = "robot_spec"
"""Where a snapshot's metadata names the kind of robot that it drives."""


@runtime_checkable
class Objects(ObjectSink, ObjectSource, Protocol):
    """Where snapshot files are written and read."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One published policy.

    Attributes:
        number: 1, 2, 3, ..., growing; parent: the number that was newest when it was published, None for the first.
        learner_step: of the learner that published it; manifest: the replay's number that it had learned from.
        sha256, size, key: hex digest, bytes and object key of the file.
        signature: Ed25519, in hex.
        created_at: seconds since the epoch.
        status: "published"; "rejected" if the promoter, or who went back from it, judged it so; "removed" once its bytes are
            gone (`lwd.snapshot.retention`).
        meta: what the learner said about it, such as network sizes, text encoder, robot spec, statistics.
        reason: why it was rejected; never announced.
    """

    number: int
    parent: int | None
    learner_step: int
    manifest: int | None
    sha256: str
    size: int
    key: str
    signature: str
    created_at: float
    status: str
    meta: Mapping[str, Any]
    reason: str = ""

    def signed_bytes(self) -> bytes:
        """What the signature covers."""
        fields = ("learner_step", "manifest", "number", "parent", "sha256", "size")
        values = {field: getattr(self, field) for field in fields}
        return b"lwd-snapshot-1\n" + json.dumps(values, sort_keys=True).encode()

    def may_drive(self, kind: str) -> bool:
        """Whether it is for this kind of robot, as far as the row says: where its metadata is left out the file knows."""
        return self.meta.get(KIND, kind) == kind


class SnapshotStore:
    """Snapshots of one fleet.

    Args:
        objects: where the files are.
        catalogue: where the rows and the head are.
        key: the private key in the learner; the public key elsewhere, which can load but not publish.
    """

    def __init__(
        self, objects: Objects, catalogue: Catalogue, key: Ed25519PrivateKey | Ed25519PublicKey
    ) -> None:
        self._objects, self._catalogue = objects, catalogue
        self._private = key if isinstance(key, Ed25519PrivateKey) else None
        self._public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
        self._found: dict[str, tuple[int, int | None]] = {}

    @property
    def public_key(self) -> Ed25519PublicKey:
        """What the fleet's signatures are checked with."""
        return self._public

    def publish(
        self,
        arrays: Mapping[str, NDArray[Any]],
        learner_step: int,
        manifest: int | None,
        meta: Mapping[str, Any],
        *,
        above: int | None = None,
    ) -> Snapshot:
        """Publish a policy as the newest snapshot; when this returns, robots can see it.

        Args:
            arrays: parameters and statistics by name.
            learner_step: the learner step that produced them.
            manifest: number of the manifest that had been learned from, None without one.
            meta: JSON values that a robot needs to rebuild the policy.
            above: a number that robots know. A catalogue restored from an older backup has forgotten it, and they would refuse
                a number that is not above it.

        Raises:
            SnapshotError: not signable here, values that are not finite, metadata that is not JSON.
            StoreError: objects or catalogue refused; nothing was published.
        """
        private = self._private
        if private is None:
            raise SnapshotError(
                "publishing needs the private key; this store was opened with the public one."
            )
        data = pack(arrays, meta)
        sha256 = hashlib.sha256(data).hexdigest()
        key = _object_key(sha256)
        self._objects.put_once(key, data)  # before the row: what the head points at is always there
        with self._catalogue.write() as connection:
            parent = read_head(connection, HEAD)
            unsigned = Snapshot(
                number=max(parent or 0, above or 0) + 1,
                parent=parent,
                learner_step=int(learner_step),
                manifest=None if manifest is None else int(manifest),  # NumPy's integers are no JSON
                sha256=sha256,
                size=len(data),
                key=key,
                signature="",
                created_at=time.time(),
                status=PUBLISHED,
                meta=dict(meta),
            )
            snapshot = replace(unsigned, signature=private.sign(unsigned.signed_bytes()).hex())
            row = {**vars(snapshot), "meta": json.dumps(snapshot.meta, sort_keys=True)}
            connection.execute(sa.insert(tables.snapshots).values(row))
            move_head(connection, HEAD, snapshot.number)
        log.info(
            "snapshot_published snapshot=%d learner_step=%d manifest=%s bytes=%d",
            *(snapshot.number, snapshot.learner_step, snapshot.manifest, snapshot.size),
        )
        return snapshot

    def holds(self, snapshot: Snapshot, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> bool:
        """Whether a snapshot is this policy with this metadata. If so its file is there, put again if it was missing or torn.

        Raises:
            SnapshotError: as from `publish`.
            StoreError: the store refused.
        """
        data = pack(arrays, meta)
        if hashlib.sha256(data).hexdigest() != snapshot.sha256:
            return False
        try:
            verify(snapshot, self._public)
        except SnapshotError:  # robots could not load it, whatever its file holds
            return False
        self._objects.put_once(_object_key(snapshot.sha256), data)
        return True

    def newest(self) -> int | None:
        """The newest number, None before the first; one indexed read."""
        return self._catalogue.head(HEAD)

    def latest(self, kind: str | None = None) -> Snapshot | None:
        """The newest snapshot's row, of one kind of robot if it is named; None before the first. Cheap; loads nothing."""
        return latest(self._catalogue, kind)

    def newest_of(self, kind: str, head: int) -> int | None:
        """The newest number of one kind of robot, None before its first; looked up once for each `head`, the newest of all."""
        if self._found.get(kind, (0, None))[0] != head:
            row = self.latest(kind)
            self._found[kind] = head, None if row is None else row.number
        return self._found[kind][1]

    def read(self, number: int) -> Snapshot:
        """One snapshot's row; SnapshotError if there is none of this number."""
        with self._catalogue.read() as connection:
            query = sa.select(tables.snapshots).where(tables.snapshots.c.number == number)
            row = connection.execute(query).mappings().first()
        if row is None:
            raise SnapshotError(f"snapshot {number} does not exist; the newest is {self.newest()}.")
        return _snapshot(row)

    def list(self) -> list[Snapshot]:
        """All snapshots' rows, oldest first."""
        return snapshots(self._catalogue)

    def load(self, number: int) -> tuple[dict[str, NDArray[Any]], Snapshot]:
        """A verified policy: its arrays (read-only) and its row, with the metadata that is inside the file.

        Raises:
            SnapshotError: removed or missing, or hash, size, signature or format do not fit; nothing was loaded.
            StoreError: the store cannot be reached.
        """
        snapshot = self.read(number)
        if snapshot.status == REMOVED:
            raise SnapshotError(
                f"snapshot {number} was removed by `lwd snapshot retain`: its row is kept, its bytes are gone. "
                "`lwd snapshot ls` lists those that are still published."
            )
        arrays, verified = fetch(self._objects, snapshot, self._public)
        log.info(
            "snapshot_loaded snapshot=%d learner_step=%d bytes=%d",
            number,
            verified.learner_step,
            verified.size,
        )
        return arrays, verified


def snapshots(catalogue: Catalogue, *, limit: int | None = None) -> list[Snapshot]:
    """The rows of the newest `limit` snapshots, of all for None, oldest first, not verified."""
    query = sa.select(tables.snapshots)
    with catalogue.read() as connection:
        rows = first_rows(connection, query, tables.snapshots.c.number, limit, newest=True)
        return [_snapshot(row) for row in rows]


def latest(catalogue: Catalogue, kind: str | None = None) -> Snapshot | None:
    """The newest row, not verified. See `SnapshotStore.latest`."""
    query = sa.select(tables.snapshots).order_by(tables.snapshots.c.number.desc()).limit(1)
    if kind is not None:  # as `publish` writes it; a kind's newest is among the last few rows
        named = json.dumps({KIND: kind})[1:-1]
        query = query.where(tables.snapshots.c.meta.contains(named, autoescape=True))
    with catalogue.read() as connection:
        row = connection.execute(query).mappings().first()
    return None if row is None else _snapshot(row)


def verify(snapshot: Snapshot, key: Ed25519PublicKey) -> None:
    """Check a row's signature; SnapshotError if it is not this fleet's."""
    if not is_signed(snapshot.signature, snapshot.signed_bytes(), key):
        raise SnapshotError(
            f"snapshot {snapshot.number}: its signature does not fit this fleet's public key; it was not loaded. Either "
            "catalogue or broker was tampered with, or this robot holds another fleet's key."
        )


def fetch(
    objects: ObjectSource, snapshot: Snapshot, key: Ed25519PublicKey
) -> tuple[dict[str, NDArray[Any]], Snapshot]:
    """Download and verify what a row describes, trusting neither the row nor the object. See `load`.

    The row may come from the catalogue or from an announcement; of it only what is signed is used.
    """
    where = f"snapshot {snapshot.number}"
    verify(snapshot, key)
    try:
        data = objects.get(_object_key(snapshot.sha256), snapshot.size)
    except (MissingObjectError, TooLargeError) as error:
        raise SnapshotError(f"{where}: {error} It was not loaded.") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != snapshot.sha256 or len(data) != snapshot.size:
        raise SnapshotError(
            f"{where}: the file has {len(data)} bytes and sha256 {digest}, expected {snapshot.size} and "
            f"{snapshot.sha256}; it was not loaded."
        )
    arrays, meta = unpack(data, where)
    return arrays, replace(snapshot, meta=meta)


def _object_key(sha256: str) -> str:
    return f"snapshots/{sha256}.safetensors"


def _snapshot(row: Mapping[Any, Any]) -> Snapshot:
    fields: dict[str, Any] = dict(row)
    try:
        fields["meta"] = json.loads(row["meta"])
    except ValueError as error:
        raise SnapshotError(f"snapshot {row['number']}: its row's metadata is not JSON: {error}.") from error
    return Snapshot(**fields)
