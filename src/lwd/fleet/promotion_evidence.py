"""What the catalogue says about a release: how its policies do, since when it holds, who can be a canary. No JAX."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from lwd.episode import Outcome, Source
from lwd.evaluate.canary import Trial
from lwd.log.catalogue import Catalogue, EpisodeRow
from lwd.log.checks import integer_in
from lwd.log.robots import robots
from lwd.log.status import statuses
from lwd.snapshot.promotion import Release
from lwd.snapshot.releases import releases

GONE_S = 60.0
"""A canary that said nothing for so long is replaced, if another robot can be one."""
BEFORE = 1000
"""How many of the stable policy's episodes from before a candidate's first one it is compared with at most."""


class Evidence:
    """What is known of one kind of robot.

    Args:
        catalogue: the fleet's.
        kind: of robot.
    """

    def __init__(self, catalogue: Catalogue, kind: str) -> None:
        self._catalogue, self._kind = catalogue, kind

    def trials(self, snapshot: int, *, after: float = 0.0, limit: int | None = None) -> list[Trial]:
        """Online episodes under a snapshot, judged or not, in order.

        Args:
            snapshot: its number.
            after: only those that began later, seconds since the epoch, by the robot's clock, and were catalogued later.
            limit: the newest so many.
        """
        rows = self._rows(snapshot, limit=limit)
        return [trial_of(row) for row in rows if min(row.started_at, row.catalogued_at) > after]

    def beside(self, stable: int, candidate: Sequence[Trial]) -> list[Trial]:
        """The stable policy's trials since the candidate's first one, and the newest before that."""
        if not candidate:
            return []
        first = candidate[0].seq
        before = self._rows(stable, upto_seq=first, limit=BEFORE)
        return [trial_of(row) for row in (*before, *self._rows(stable, after_seq=first))]

    def candidate_since(self, held: Release) -> float:
        """When the present candidate became that; seconds since the epoch."""
        return self._since(held, lambda release: release.candidate)

    def stable_since(self, held: Release) -> float:
        """When the present stable snapshot became that; seconds since the epoch."""
        return self._since(held, lambda release: release.stable)

    def _since(self, held: Release, number: Callable[[Release], int | None]) -> float:
        began = held.created_at
        for release in reversed(releases(self._catalogue, self._kind)):
            if number(release) != number(held):
                break
            began = release.created_at
        return began

    def canaries(self, held: Release, count: int, named: Sequence[str]) -> tuple[str, ...]:
        """Who is to run a candidate: canaries that are at work stay, further robots follow in turn.

        Args:
            held: the release that holds; another one begins with another robot.
            count: how many; at least one of several robots goes on under the stable policy.
            named: the robots that may be canaries, all for none.
        """
        here = self._here(held)
        count = min(count, max(len(here) - 1, 1))
        stay = [name for name in held.canaries if name in here][:count]
        able = [name for name in here if not named or name in named]
        first = held.edition % max(len(able), 1)
        others = [name for name in (*able[first:], *able[:first]) if name not in stay]
        return tuple(sorted((*stay, *others[: count - len(stay)])))

    def _here(self, held: Release) -> list[str]:
        """Robots at work that follow releases and are not pinned."""
        since = time.time() - GONE_S
        following = {
            row.name
            for row in statuses(self._catalogue)
            if row.role == "robot"
            and row.received_at > since
            and not row.payload.get("stopping")
            and integer_in(row.payload.get("edition"), 1) is not None
        }
        mine = [robot for robot in robots(self._catalogue) if robot.spec == self._kind]
        names = [robot.name for robot in mine if robot.revoked_at is None and robot.name not in held.pins]
        return [name for name in names if name in following]

    def _rows(
        self, snapshot: int, *, after_seq: int = 0, upto_seq: int | None = None, limit: int | None = None
    ) -> list[EpisodeRow]:
        rows = self._catalogue.episodes(
            snapshot=snapshot,
            source=Source.ONLINE.value,
            after_seq=after_seq,
            upto_seq=upto_seq,
            limit=limit,
            newest=limit is not None,
        )
        return [row for row in rows if row.spec == self._kind]


def trial_of(row: EpisodeRow) -> Trial:
    """What a catalogued episode says of the policy that drove it."""
    return Trial(
        seq=row.seq,
        task=row.task,
        success=row.outcome == Outcome.SUCCESS.value,
        takeover=row.intervention_steps > 0,
        judged=row.outcome != Outcome.UNJUDGED.value,
    )
