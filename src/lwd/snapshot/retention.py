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

import logging
from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa

from lwd.errors import ConfigError
from lwd.log import tables
from lwd.log.catalogue import Catalogue
from lwd.log.checks import integer_in
from lwd.log.objects import ObjectStore
from lwd.log.status import statuses
from lwd.snapshot.releases import needed
from lwd.snapshot.store import REMOVED, Snapshot, snapshots

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SnapshotPlan:
    """What `apply` is to do.

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
    shared = {
        snapshot.number: "its bytes are those of one that stays" for snapshot in held if snapshot.key in keys
    }
    why = shared | why
    remove = tuple(snapshot for snapshot in held if snapshot.number not in why)
    return SnapshotPlan(
        stay=tuple((snapshot, why[snapshot.number]) for snapshot in held if snapshot.number in why),
        remove=remove,
        freed=sum({snapshot.key: snapshot.size for snapshot in remove}.values()),
    )


def apply(catalogue: Catalogue, objects: ObjectStore, found: SnapshotPlan) -> None:
    """Remove what was planned. Safe to repeat with a new plan: what a failure left is found again.

    Raises:
        StoreError: catalogue or store failed; what was removed until then stays so.
    """
    number = tables.snapshots.c.number
    for snapshot in found.remove:
        # Before the row says so: else a crash would leave bytes that nobody looks for.
        objects.delete(snapshot.key)
        with catalogue.write() as connection:
            change = sa.update(tables.snapshots).where(number == snapshot.number)
            connection.execute(change.values(status=REMOVED))
    log.info("snapshots_removed snapshots=%d bytes=%d", len(found.remove), found.freed)


def _needed(held: list[Snapshot], catalogue: Catalogue) -> dict[int, str]:
    """Why these numbers stay, however old they are."""
    used: dict[int, str] = {}
    for row in statuses(catalogue):
        number = integer_in(row.payload.get("snapshot"), 0)
        if number is not None:
            used[number] = f"{row.name} uses it"
    used |= needed(catalogue)
    ends: dict[tuple[object, object], int] = {}
    for snapshot in held:
        ends[str(snapshot.meta.get("stage")), str(snapshot.meta.get("robot_spec"))] = snapshot.number
    return used | {
        number: f"the newest of stage {stage} for robots of kind {kind}"
        for (stage, kind), number in ends.items()
    }
