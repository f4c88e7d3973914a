"""Counting: judged episodes become rows, each id and each content once, in one transaction."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from lwd.log import tables
from lwd.log.admission import ANOTHERS, MISSING, Accepted, Judgement, Refused
from lwd.log.catalogue import Catalogue
from lwd.log.deletion import reopen
from lwd.log.events import DROPPED

log = logging.getLogger(__name__)


def record(catalogue: Catalogue, judgements: Sequence[Judgement]) -> tuple[int, int]:
    """Write rows in one transaction, each id and each content once; how many were catalogued, quarantined."""
    accepted = [item.row for item in judgements if isinstance(item, Accepted)]
    refused = [item.row for item in judgements if isinstance(item, Refused)]
    if not accepted and not refused:
        return 0, 0
    with catalogue.write() as connection:
        catalogued, twice = _insert(connection, accepted)
        refused += twice
        quarantined = [row for row in refused if _list(connection, row)]
    for row in catalogued:
        log.info(
            "episode_catalogued episode=%s task=%s source=%s snapshot=%s outcome=%s steps=%d",
            *(row[name] for name in ("episode_id", "task", "source", "snapshot", "outcome", "steps")),
        )
    for row in quarantined:
        log.warning(
            "episode_quarantined episode=%s reason=%s detail=%r",
            row["episode_id"],
            row["reason"],
            row["detail"],
        )
    return len(catalogued), len(quarantined)


def _list(connection: sa.Connection, row: Mapping[str, Any]) -> bool:
    """Put a row into quarantine; False if there is nothing to list, or it is listed already.

    What was listed when its bytes were missing, or when a robot that does not own it announced it, makes way for what is
    known now: it would hide the owner's refusal, which an operator can mend.
    """
    if row["reason"] == DROPPED and _held(connection, row["episode_id"]):
        return False  # the robot could not know that it had been delivered: nothing was lost
    same = tables.quarantine.c
    query = sa.select(same.id, same.reason, same.robot)
    query = query.where(same.episode_id == row["episode_id"], same.sha256 == row["sha256"])
    held = connection.execute(query).first()
    if held is None:
        connection.execute(sa.insert(tables.quarantine).values(row))
        return True
    found_since = held.reason == MISSING and row["reason"] != MISSING
    if not found_since and (held.reason != ANOTHERS or held.robot == row["robot"]):
        return False
    values = {name: row[name] for name in ("robot", "reason", "detail", "quarantined_at")}
    connection.execute(sa.update(tables.quarantine).where(same.id == held.id).values(values))
    return True


def _insert(
    connection: sa.Connection, rows: Sequence[Mapping[str, Any]]
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Catalogue what is new, each id once: the rows that were, and the quarantine's rows of ids with other bytes.

    A few statements for all rows: one by one they would be most of what an episode costs here.
    """
    new: list[Mapping[str, Any]] = []
    twice: list[Mapping[str, Any]] = []
    ids = sorted({row["episode_id"] for row in rows})
    episodes, gone = tables.episodes.c, tables.deletions.c.episode_id
    deleted = set(connection.execute(sa.select(gone).where(gone.in_(ids))).scalars())
    if deleted:  # while they were judged
        reopen(connection, deleted)
    query = sa.select(episodes.episode_id, episodes.sha256).where(episodes.episode_id.in_(ids))
    held: dict[str, str] = {row[0]: row[1] for row in connection.execute(query)}
    for row in rows:
        episode_id = row["episode_id"]
        if episode_id not in held and episode_id not in deleted:
            held[episode_id] = row["sha256"]
            new.append(row)
        elif episode_id not in deleted and held[episode_id] != row["sha256"]:
            twice.append(_duplicate_row(row, held[episode_id]))
    if new:
        connection.execute(sa.insert(tables.episodes), [dict(row) for row in new])
        _settle(connection, {row["episode_id"]: row for row in new})
    return new, twice


def _settle(connection: sa.Connection, new: Mapping[str, Mapping[str, Any]]) -> None:
    """What new episodes' rows, by id, make obsolete: whose the ids are, and that they were listed as dropped or missing."""
    connection.execute(sa.delete(tables.claims).where(tables.claims.c.episode_id.in_(new)))
    listed = tables.quarantine.c
    query = sa.select(listed.id, listed.episode_id, listed.reason, listed.robot, listed.sha256).where(
        listed.reason.in_((DROPPED, MISSING)), listed.episode_id.in_(new)
    )
    obsolete: list[int] = []
    for row in connection.execute(query):
        counted = new[row.episode_id]
        if row.sha256 == counted["sha256"] if row.reason == MISSING else row.robot == counted["robot"]:
            obsolete.append(row.id)
    if obsolete:
        connection.execute(sa.delete(tables.quarantine).where(listed.id.in_(obsolete)))


def _held(connection: sa.Connection, episode_id: str) -> bool:
    return any(_has(connection, table, episode_id) for table in (tables.episodes, tables.deletions))


def _has(connection: sa.Connection, table: sa.Table, episode_id: str) -> bool:
    query = sa.select(table.c.episode_id).where(table.c.episode_id == episode_id)
    return connection.execute(query).first() is not None


def _duplicate_row(row: Mapping[str, Any], held: str) -> dict[str, Any]:
    return {
        "episode_id": row["episode_id"],
        "reason": "duplicate",
        "detail": f"this id is catalogued with other bytes (sha256 {held}); the first one stays.",
        "key": row["key"],
        "sha256": row["sha256"],
        "robot": row["robot"],
        "quarantined_at": row["catalogued_at"],
    }
