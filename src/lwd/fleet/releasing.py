"""Releases by hand: `lwd snapshot promote`, `pin` and `unpin`. What they make holds like the promoter's own. No JAX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lwd.errors import ConfigError, StoreError
from lwd.fleet.folder import Services
from lwd.fleet.rollback import ANNOUNCED_S, check_key
from lwd.log.robots import check_active
from lwd.snapshot.keys import load_private_key
from lwd.snapshot.nats_releases import NatsReleases
from lwd.snapshot.promotion import Release, verify_release
from lwd.snapshot.releases import ReleaseStore, holding, newest_release
from lwd.snapshot.store import KIND


@dataclass(frozen=True, kw_only=True)
class Change:
    """What would be done.

    Attributes:
        before: the release that holds, None without one.
        after: the one that would, not signed yet.
        rejected: snapshots that would be marked so, and why.
    """

    before: Release | None
    after: Release
    rejected: Mapping[int, str] = field(default_factory=dict[int, str])


def promoted(services: Services, number: int) -> Change:
    """All robots run this snapshot that are not pinned; a test or a watch that goes on ends. It may be an older one.

    What is left for it, the candidate of a test and a stable one of a higher number, is marked as rejected, so that no promoter
    takes it for a candidate again.

    Raises:
        SnapshotError: there is none of this number, or it is not intact.
        ConfigError: it is the stable one already, or it says of no kind of robot that it is for it.
    """
    _, wanted = services.snapshots.load(number)
    kind = wanted.meta.get(KIND)
    if not isinstance(kind, str):
        raise ConfigError(f"snapshot {number} does not say which kind of robot it drives; nothing was done.")
    held = newest_release(services.catalogue, kind)
    if held is None:
        first = Release(
            edition=1, kind=kind, stable=number, reason=f"{number} promoted by hand", created_at=0.0
        )
        return Change(before=None, after=first)
    if held.stable == number and held.candidate is None:
        raise ConfigError(
            f"snapshot {number} is the stable one of release {held.edition} already; nothing was done."
        )
    back = held.stable > number
    why = f"{number} promoted by hand" + f", back from {held.stable}" * back
    after = _next(held, stable=number, previous=None, candidate=None, canaries=(), reason=why)
    left = [held.stable] if back else []
    if held.candidate is not None and held.candidate != number:
        left.append(held.candidate)
    return Change(before=held, after=after, rejected=dict.fromkeys(left, f"left by hand for {number}"))


def pinned(services: Services, robot: str, number: int) -> Change:
    """A robot runs one snapshot, whatever else is released.

    Raises:
        SnapshotError: there is no such snapshot, or it is not intact.
        ConfigError: there is no release that could hold the pin, or the snapshot is for another kind of robot.
        StoreError: the robot was not invited, or was revoked.
    """
    with services.catalogue.read() as connection:
        kind = check_active(connection, robot).spec
    held = newest_release(services.catalogue, kind)
    if held is None:
        raise ConfigError(
            f"there is no release for robots of kind {kind!r:.80} yet. Make the first with lwd snapshot promote NUMBER, or "
            "start lwd promoter."
        )
    _, wanted = services.snapshots.load(number)
    if wanted.meta.get(KIND) != kind:
        raise ConfigError(
            f"snapshot {number} is for robots of kind {wanted.meta.get(KIND)!r:.80}, {robot} is a {kind!r:.80}; nothing was "
            "done."
        )
    after = _next(held, pins={**held.pins, robot: number}, reason=f"{robot} pinned to {number}")
    return Change(before=held, after=after)


def unpinned(services: Services, robot: str) -> Change:
    """A robot, also one that is revoked by now, runs what all others do again; ConfigError if it is not pinned."""
    for held in holding(services.catalogue):
        if robot in held.pins:
            pins = {name: pin for name, pin in held.pins.items() if name != robot}
            return Change(before=held, after=_next(held, pins=pins, reason=f"{robot} unpinned"))
    raise ConfigError(f"{robot} is not pinned; lwd snapshot releases shows who is. Nothing was done.")


def _next(held: Release, **changes: Any) -> Release:
    return replace(held, edition=held.edition + 1, **changes)


def carry_out(services: Services, change: Change) -> Release:
    """Make the release and announce it, where there is a broker; without one, a promoter that runs announces it.

    Raises:
        OvertakenError: another release was made meanwhile; nothing was done.
        ConfigError: the key that signs is not here, or the release would be too large.
        SnapshotError: the release that held is not signed by this fleet.
        StoreError: the catalogue refused; or the broker did not take the announcement in time, in which case the release holds
            and a promoter announces it.
    """
    check_key(services.folder)
    key = load_private_key(services.folder.snapshot_key)
    store = ReleaseStore(services.catalogue, services.snapshots, key)
    if change.before is not None:
        verify_release(change.before, key.public_key())
    if services.link is None:
        return store.issue(change.after, after=change.before, rejected=change.rejected)
    channel = NatsReleases(services.link, key.public_key(), change.after.kind, first_wait_s=ANNOUNCED_S)
    try:
        known = channel.newest()
        made = store.issue(change.after, after=change.before, above=known, rejected=change.rejected)
        channel.announce(store.notice(made))
        if not channel.flush(ANNOUNCED_S):
            raise StoreError(
                f"release {made.edition} holds, but the broker did not take its announcement within {ANNOUNCED_S:.0f} s: is "
                "--credential that of a promoter? lwd promoter announces it when it runs."
            )
    finally:
        channel.close()
    return made
