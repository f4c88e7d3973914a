"""What each process of a fleet last said of itself: for people and pages, never a source of truth."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from lwd.log import tables
from lwd.log.catalogue import Catalogue
from lwd.log.checks import LAST_TIME, number_in
from lwd.log.layout import NAME

ALL_STATUSES = "status.*"
MAX_STATUS_BYTES = 8 * 1024


@dataclass(frozen=True, kw_only=True)
class StatusRow:
    """The last word of one process.

    Attributes:
        name, role: who, such as "robot7" and "robot".
        sent_at: by its own clock; received_at: by the coordinator's. Seconds since the epoch.
        payload: what it said: numbers, and under `waits_for` what it waits for (None if for nothing).
    """

    name: str
    role: str
    sent_at: float
    received_at: float
    payload: Mapping[str, Any]

    @property
    def clock_skew_s(self) -> float:
        """How far its clock is ahead of the coordinator's, including the message's way (so slightly negative)."""
        return self.sent_at - self.received_at


def status_message(role: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    """What a process sends on `status.<name>`."""
    return {"role": role, "sent_at": time.time(), "status": dict(payload)}


def read_status(name: str, message: Mapping[str, Any]) -> StatusRow | None:
    """What arrived on `status.<name>`, trusting nothing in it; None if it does not fit."""
    role, payload = message.get("role"), message.get("status")
    sent_at = number_in(message.get("sent_at"), 0, LAST_TIME)
    fits = (
        NAME.fullmatch(name) is not None
        and isinstance(role, str)
        and NAME.fullmatch(role) is not None
        and isinstance(payload, dict)
        and len(json.dumps(payload)) <= MAX_STATUS_BYTES
    )
    if not fits or not isinstance(payload, dict) or sent_at is None:
        return None
    return StatusRow(name=name, role=str(role), sent_at=sent_at, received_at=time.time(), payload=payload)


def record_statuses(catalogue: Catalogue, rows: Sequence[StatusRow]) -> None:
    """Replace what these processes said before, in one transaction."""
    if not rows:
        return
    with catalogue.write() as connection:
        names = [row.name for row in rows]
        connection.execute(sa.delete(tables.statuses).where(tables.statuses.c.name.in_(names)))
        values = [{**vars(row), "payload": json.dumps(row.payload, sort_keys=True)} for row in rows]
        connection.execute(sa.insert(tables.statuses), values)


def statuses(catalogue: Catalogue) -> list[StatusRow]:
    """What everybody last said, by name."""
    with catalogue.read() as connection:
        rows = connection.execute(sa.select(tables.statuses).order_by(tables.statuses.c.name)).mappings()
        return [StatusRow(**{**row, "payload": json.loads(row["payload"])}) for row in rows]
