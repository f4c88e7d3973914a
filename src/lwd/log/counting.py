"""Counting: judged episodes become rows, each id and each content once, in one transaction."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from lwd.log import tables
from lwd.log.admission import Accepted, Judgement, Refused
from lwd.log.catalogue import Catalogue
from lwd.log.events import DROPPED

log = logging.getLogger(__name__)


def record(catalogue: Catalogue, judgements: Sequence[Judgement]) -> tuple[int, int]:
    """Write rows in one transaction, each id and each content once; how many were catalogued, quarantined."""
    accepted = [item.row for item in judgements if isinstance(item, Accepted)]
    refused = [item.row for item in judgements if isinstance(item, Refused)]
    if not accepted and not refused:
        return 0, 0
    catalogued: list[Mapping[str, Any]] = []
    with catalogue.write() as connection:
        for row in accepted:
            if _has(connection, tables.deletions, row["episode_id"]):
                continue
            held = connection.execute(
                sa.select(tables.episodes.c.sha256).where(tables.episodes.c.episode_id == row["episode_id"])
            ).scalar_one_or_none()
            if held is None:
                connection.execute(sa.insert(tables.episodes).values(row))
                catalogued.append(row)
                _settle(connection, row)
            elif held != row["sha256"]:
                refused.append(_duplicate_row(row, held))
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
    """Put a row into quarantine; False if there is nothing to list, or it is listed already."""
    if row["reason"] == DROPPED and _held(connection, row["episode_id"]):
        return False  # the robot could not know that it had been delivered: nothing was lost
    same = tables.quarantine.c
    query = sa.select(same.id).where(same.episode_id == row["episode_id"], same.sha256 == row["sha256"])
    if connection.execute(query).first() is not None:
        return False
    connection.execute(sa.insert(tables.quarantine).values(row))
    return True


def _settle(connection: sa.Connection, row: Mapping[str, Any]) -> None:
    """What an episode's row makes obsolete: whose the id is, and its own robot's report that it had been dropped."""
    claims, listed = tables.claims.c, tables.quarantine.c
    connection.execute(sa.delete(tables.claims).where(claims.episode_id == row["episode_id"]))
    report = sa.and_(listed.episode_id == row["episode_id"], listed.reason == DROPPED)
    connection.execute(sa.delete(tables.quarantine).where(report, listed.robot == row["robot"]))


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
