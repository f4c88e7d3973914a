"""Back to an earlier policy (`lwd snapshot rollback`): it is published once more, as the newest one.

Numbers only grow, and robots refuse one that is not above their own, so that nobody who can write the catalogue can hand out
an old policy as the newest. A way back needs no exception from that: the same bytes get the next number and a signature.
"""

from __future__ import annotations

import logging
import time

from lwd.errors import ConfigError, StoreError
from lwd.fleet.folder import RunFolder, Services
from lwd.fleet.status import SILENT_S
from lwd.log.status import statuses
from lwd.snapshot.nats_channel import NatsChannel
from lwd.snapshot.releases import newest_release
from lwd.snapshot.store import KIND, Snapshot

log = logging.getLogger(__name__)

ANNOUNCED_S = 15.0
"""How long the broker has to take the announcement."""


def check_key(folder: RunFolder) -> None:
    """ConfigError if this is not the learner's folder: opening its services would make a key that no robot knows."""
    if not folder.snapshot_key.exists():
        raise ConfigError(
            f"there is no {folder.snapshot_key}, the key that signs snapshots. Run this on the learner's machine, with its "
            "--out."
        )


def earlier(services: Services, number: int, *, newest_followed: bool = False) -> tuple[Snapshot, Snapshot]:
    """The snapshot of this number, and the one that drives its kind of robot now.

    Args:
        services: catalogue and snapshots.
        number: of the snapshot to go back to.
        newest_followed: there are releases for this kind of robot, but its robots follow the newest snapshot all the same.

    Raises:
        SnapshotError: there is none of this number.
        ConfigError: robots of its kind follow releases, where no number helps; it is the newest of its kind, so that there is
            nothing to go back from; or a learner is at work, which would publish over it with its next snapshot.
    """
    wanted = services.snapshots.read(number)
    kind = str(wanted.meta.get(KIND))
    release = newest_release(services.catalogue, kind)
    if release is not None and not newest_followed:
        raise ConfigError(
            f"robots of kind {kind!r:.80} follow releases (edition {release.edition}), where the newest number means nothing. "
            f"Go back with: lwd snapshot promote {number}. Or add --newest if the coordinator has them follow the newest "
            "snapshot again."
        )
    newest = services.snapshots.latest(kind)
    if newest is None or newest.sha256 == wanted.sha256:
        raise ConfigError(f"snapshot {number} is what the robots of its kind load already; nothing was done.")
    since = time.time() - SILENT_S
    learners = [
        row.name for row in statuses(services.catalogue) if row.role == "learner" and row.received_at > since
    ]
    if learners:
        raise ConfigError(
            f"{', '.join(learners)} is at work and would publish over it with its next snapshot. Stop the learner, wait "
            f"{SILENT_S:.0f} s, and run this again; robots go on meanwhile."
        )
    return wanted, newest


def roll_back(services: Services, number: int, *, newest_followed: bool = False) -> Snapshot:
    """Publish a snapshot's bytes as the newest one and announce it; robots load it at their next episode. See `earlier`.

    Raises:
        SnapshotError: it was removed, is not intact, or this machine has not the learner's key; nothing was published.
        ConfigError: as in `earlier`.
        StoreError: store or catalogue refused; or the broker did not take the announcement in time, in which case the snapshot
            is published and the learner announces it when it starts.
    """
    _, newest = earlier(services, number, newest_followed=newest_followed)
    arrays, old = services.snapshots.load(number)
    known = services.channel.newest()  # more than the catalogue knows after a restore
    snapshot = services.snapshots.publish(arrays, old.learner_step, old.manifest, old.meta, above=known)
    services.channel.announce(snapshot)
    if isinstance(services.channel, NatsChannel) and not services.channel.flush(ANNOUNCED_S):
        raise StoreError(
            f"snapshot {snapshot.number} is published, but the broker did not take its announcement within "
            f"{ANNOUNCED_S:.0f} s. It is announced when the learner starts; or mend the broker and roll back once more."
        )
    log.info("snapshot_rolled_back snapshot=%d to=%d from=%d", snapshot.number, number, newest.number)
    return snapshot
