"""Snapshots within bounds: all but those that somebody needs lose their bytes. Their rows stay, and with them the lineage.

What stays, for the first reason that holds:

- the newest `keep`;
- the newest of each stage and kind of robot: stages, `lwd evaluate` and the evaluator begin there, and the SFT policy is the
  learner's reference for as long as it learns;
- what a release names: the stable one, the one before it, the candidate, pins;
- what a process last said that it drives, serves or evaluates, also one that is silent now;
- what is named.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from lwd.errors import ConfigError
from lwd.log import tables
from lwd.log.catalogue import Catalogue
from lwd.log.checks import integer_in
from lwd.log.objects import ObjectStore
from lwd.snapshot.releases import needed
from lwd.snapshot.store import REMOVED, Snapshot, snapshots

log = logging.getLogger(__name__)

SHARED = "its bytes are those of one that stays"


@dataclass(frozen=True, kw_only=True)
class SnapshotPlan:
    """What `apply` is to do, or has done.

    Attributes:
        stay: what keeps its bytes, and why, oldest first.
        remove: what loses them, oldest first; freed: how many bytes that is.
    """

    stay: tuple[tuple[Snapshot, str], ...]
    remove: tuple[Snapshot, ...]
    freed: int


def plan(catalogue: Catalogue, keep: int, also: Collection[int] = ()) -> SnapshotPlan:
    """What would go; removes nothing.

    Args:
        catalogue: the fleet's.
        keep: how many of the newest stay.
        also: further numbers that stay.

    Raises:
        ConfigError: none of the newest is to stay, or a number is no snapshot that has its bytes.
    """
    if keep < 1:
        raise ConfigError(f"{keep} snapshots to keep; expected 1 or more, since robots load the newest.")
    held = [snapshot for snapshot in snapshots(catalogue) if snapshot.status != REMOVED]
    if unknown := set(also) - {snapshot.number for snapshot in held}:
        raise ConfigError(
            f"no snapshot {min(unknown)} has its bytes here; `lwd snapshot ls` lists what there is. Nothing was removed."
        )
    why = _needed(held, catalogue) | dict.fromkeys(also, "named")
    why |= {snapshot.number: f"one of the newest {keep}" for snapshot in held[-keep:]}
    keys = {snapshot.key for snapshot in held if snapshot.number in why}
    # The same bytes may have been published under several numbers.
    shared = {snapshot.number: SHARED for snapshot in held if snapshot.key in keys}
    why = shared | why
    remove = tuple(snapshot for snapshot in held if snapshot.number not in why)
    return _plan(((snapshot, why[snapshot.number]) for snapshot in held if snapshot.number in why), remove)


def apply(catalogue: Catalogue, objects: ObjectStore, found: SnapshotPlan) -> SnapshotPlan:
    """Remove what was planned, and first what a removal that was cut off left. What is needed since the plan stays.

    Returns:
        What was done.

    Raises:
        StoreError: catalogue or store failed; what was removed until then stays so. Safe to repeat with a new plan.
    """
    _finish(catalogue, objects)
    going = {snapshot.number for snapshot in found.remove}
    stay, removed = list(found.stay), list[Snapshot]()
    for snapshot in found.remove:
        # The row before the bytes: once it says so no release can name it. `_finish` looks for bytes that a crash leaves.
        with catalogue.write() as connection:
            sharing = _sharing(connection, snapshot)
            why = _used(connection).get(snapshot.number)
            if why is None and sharing - going:
                why = SHARED
            if why is None:
                change = sa.update(tables.snapshots).where(tables.snapshots.c.number == snapshot.number)
                connection.execute(change.values(status=REMOVED))
        if why is not None:
            log.info("snapshot_needed_since snapshot=%d why=%r", snapshot.number, why)
            stay.append((snapshot, why))
            continue
        removed.append(snapshot)
        if not sharing:
            objects.delete(snapshot.key)
    done = _plan(sorted(stay, key=lambda one: one[0].number), removed)
    log.info("snapshots_removed snapshots=%d bytes=%d", len(done.remove), done.freed)
    return done


def _finish(catalogue: Catalogue, objects: ObjectStore) -> None:
    """Remove objects of which all rows say that they are gone. One without a row is about to get it."""
    rows = snapshots(catalogue)
    stay = {snapshot.key for snapshot in rows if snapshot.status != REMOVED}
    gone = {snapshot.key for snapshot in rows} - stay
    for key in [key for key in objects.list("snapshots") if key in gone]:
        objects.delete(key)


def _plan(stay: Iterable[tuple[Snapshot, str]], remove: Iterable[Snapshot]) -> SnapshotPlan:
    stays, goes = tuple(stay), tuple(remove)
    kept = {snapshot.key for snapshot, _ in stays}
    freed = sum({snapshot.key: snapshot.size for snapshot in goes if snapshot.key not in kept}.values())
    return SnapshotPlan(stay=stays, remove=goes, freed=freed)


def _sharing(connection: sa.Connection, snapshot: Snapshot) -> set[int]:
    """Other snapshots with the same bytes that are not removed."""
    column = tables.snapshots.c
    query = sa.select(column.number).where(
        column.key == snapshot.key, column.number != snapshot.number, column.status != REMOVED
    )
    return set(connection.execute(query).scalars())


def _used(connection: sa.Connection) -> dict[int, str]:
    """Snapshots that a process or a release uses, and why."""
    used: dict[int, str] = {}
    for row in connection.execute(sa.select(tables.statuses.c.name, tables.statuses.c.payload)):
        number = integer_in(json.loads(row.payload).get("snapshot"), 0)
        if number is not None:
            used[number] = f"{row.name} uses it"
    return used | needed(connection)


def _needed(held: list[Snapshot], catalogue: Catalogue) -> dict[int, str]:
    """Why these numbers stay, however old they are."""
    with catalogue.read() as connection:
        used = _used(connection)
    ends: dict[tuple[object, object], int] = {}
    for snapshot in held:
        ends[str(snapshot.meta.get("stage")), str(snapshot.meta.get("robot_spec"))] = snapshot.number
    return used | {
        number: f"the newest of stage {stage} for robots of kind {kind}"
        for (stage, kind), number in ends.items()
    }
