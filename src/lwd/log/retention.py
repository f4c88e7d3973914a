"""Retention: the log within disk budgets per source and task. What goes, goes through `deletion`, with its lineage.

Order: autonomous and unjudged, then autonomous successes, then failures, then what a human commanded (`worth`), and the
oldest first within a class: it is from the oldest policy. A failure or an intervention never goes while its task has an
autonomous success left, even if the budget is missed then; `RetentionPlan.missing` says by how much.

A manifest holds everything up to its number, so "the episodes of the newest manifest" are all that are catalogued. Kept back
are those that the newest manifest added and those that no manifest has yet: a learner may be fetching them right now.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from lwd.episode import Outcome, Source
from lwd.errors import ConfigError
from lwd.log import manifest
from lwd.log.catalogue import Catalogue, EpisodeRow
from lwd.log.deletion import Deletion, delete, finish
from lwd.log.objects import ObjectStore
from lwd.log.worth import About, Worth

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """At most `size` bytes of the episodes of a source, of a task, of both, or (neither) of all.

    Raises:
        ConfigError: a negative size or an unknown source.
    """

    size: int
    source: str | None = None
    task: str | None = None

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ConfigError(f"a retention budget of {self.size} bytes; expected 0 or more.")
        if self.source is not None and self.source not in {source.value for source in Source}:
            known = ", ".join(source.value for source in Source)
            raise ConfigError(f"a retention budget for source {self.source!r:.40}; known: {known}.")

    def covers(self, row: EpisodeRow) -> bool:
        """Whether an episode counts in it."""
        return self.source in (None, row.source) and self.task in (None, row.task)


@dataclass(frozen=True, kw_only=True)
class RetentionPlan:
    """What one budget asks for.

    Attributes:
        budget: which; used: bytes that it covers now, without what the plans before it delete.
        delete: the episodes that go, in order; freed: their bytes.
        missing: bytes over the budget that stay, because nothing else may go.
    """

    budget: Budget
    used: int
    delete: tuple[EpisodeRow, ...]
    freed: int
    missing: int


def plan(catalogue: Catalogue, budgets: Sequence[Budget], *, newest_too: bool = False) -> list[RetentionPlan]:
    """What would go; deletes nothing.

    Args:
        catalogue: the fleet's.
        budgets: each is met in turn, by what those before it left.
        newest_too: also what the newest manifest added, and what no manifest has yet.
    """
    rows = {row.episode_id: row for row in catalogue.episodes()}
    limit = None if newest_too else _protected_after(catalogue)
    plans: list[RetentionPlan] = []
    for budget in budgets:
        found = _plan(rows, budget, limit)
        plans.append(found)
        for row in found.delete:
            del rows[row.episode_id]
    return plans


def apply(
    catalogue: Catalogue, objects: ObjectStore, plans: Sequence[RetentionPlan], *, deleted_by: str
) -> list[Deletion]:
    """Delete what was planned, and first what a deletion that was cut off left. After a crash make a new plan.

    Raises:
        StoreError: catalogue or store failed, or an episode is gone already; what was deleted until then stays so.
    """
    finish(catalogue, objects)
    done: list[Deletion] = []
    for found in plans:
        for row in found.delete:
            reason = f"retention: {_shown(found.budget)}"
            done.append(delete(catalogue, objects, row.episode_id, reason=reason, deleted_by=deleted_by))
    log.info("retention_applied episodes=%d bytes=%d", len(done), sum(row.size for row in done))
    return done


def worth(row: EpisodeRow) -> Worth:
    """What a catalogued episode is worth."""
    known = About(
        source=Source(row.source), outcome=Outcome(row.outcome), intervention_steps=row.intervention_steps
    )
    return known.worth


def _plan(rows: dict[str, EpisodeRow], budget: Budget, limit: int | None) -> RetentionPlan:
    successes: dict[str, int] = {}
    for row in rows.values():
        successes[row.task] = successes.get(row.task, 0) + (worth(row) == Worth.SUCCESS)
    covered = [row for row in rows.values() if budget.covers(row)]
    used = sum(row.size for row in covered)
    chosen: list[EpisodeRow] = []
    over = used - budget.size
    for row in sorted(covered, key=lambda row: (worth(row), row.seq)):
        if over <= 0:
            break
        if limit is not None and row.seq > limit:
            continue
        if worth(row) > Worth.SUCCESS and successes[row.task] > 0:
            continue
        successes[row.task] -= worth(row) == Worth.SUCCESS
        chosen.append(row)
        over -= row.size
    freed = sum(row.size for row in chosen)
    return RetentionPlan(budget=budget, used=used, delete=tuple(chosen), freed=freed, missing=max(0, over))


def _protected_after(catalogue: Catalogue) -> int:
    """The seq after which episodes are kept back."""
    newest = manifest.latest(catalogue)
    if newest is None or newest.parent is None:
        return 0
    return manifest.read(catalogue, newest.parent).upto_seq


def _shown(budget: Budget) -> str:
    parts = [f"source {budget.source}" if budget.source else "", f"task {budget.task}" if budget.task else ""]
    return f"at most {budget.size} bytes of {' and '.join(part for part in parts if part) or 'all'}"
