"""The fleet's register: which robots were invited, and which were revoked."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import sqlalchemy as sa

from lwd.errors import StoreError
from lwd.log import tables
from lwd.log.catalogue import Catalogue
from lwd.log.layout import NAME

log = logging.getLogger(__name__)


class NotAllowedError(StoreError):
    """A robot may not do this; asking again will not help."""


class RobotNotActiveError(NotAllowedError):
    """The robot may do nothing at all: it was not invited, or was revoked. Says nothing about what it asked for."""


@dataclass(frozen=True, kw_only=True)
class RobotRow:
    """One robot of the fleet.

    Attributes:
        name: as in its subjects and episodes; spec: name of its `RobotSpec`.
        public_key: the public half of its credential for the broker, None where the broker keeps it.
        invited_at, revoked_at: seconds since the epoch; revoked_at is None while it may take part.
    """

    name: str
    spec: str
    public_key: str | None
    invited_at: float
    revoked_at: float | None


def invite(catalogue: Catalogue, name: str, spec: str, public_key: str | None = None) -> RobotRow:
    """Add a robot; StoreError if the name was ever used: a revoked one must not come back under it."""
    if not NAME.fullmatch(name):
        raise StoreError(f"robot name {name!r:.80} must be 1 to 64 of the characters [A-Za-z0-9_-].")
    row = RobotRow(name=name, spec=spec, public_key=public_key, invited_at=time.time(), revoked_at=None)
    with catalogue.write() as connection:
        found = _find(connection, name)
        if found is not None:
            state = "invited already" if found.revoked_at is None else "revoked"
            raise StoreError(f"robot {name!r} is {state}; choose another name.")
        connection.execute(sa.insert(tables.robots).values(vars(row)))
    log.info("robot_invited robot=%s spec=%s", name, spec)
    return row


def revoke(catalogue: Catalogue, name: str) -> RobotRow:
    """Take a robot's permission away, for good; what it delivered stays, its status goes. StoreError if there is none."""
    with catalogue.write() as connection:
        found = _find(connection, name)
        if found is None:
            raise StoreError(f"robot {name!r:.80} was never invited; nothing to revoke.")
        if found.revoked_at is None:
            change = sa.update(tables.robots).where(tables.robots.c.name == name)
            connection.execute(change.values(revoked_at=time.time()))
            log.warning("robot_revoked robot=%s", name)
        connection.execute(sa.delete(tables.statuses).where(tables.statuses.c.name == name))
        return _find(connection, name) or found


def change_spec(catalogue: Catalogue, name: str, spec: str) -> None:
    """Say that a robot is of another kind; StoreError once something of it is in the log, which says what it was."""
    with catalogue.write() as connection:
        for table in (tables.episodes, tables.quarantine):
            query = sa.select(table.c.robot).where(table.c.robot == name).limit(1)
            if connection.execute(query).first() is not None:
                raise StoreError(
                    f"robot {name!r} has delivered already and stays what it was invited as; choose another name for a "
                    f"{spec!r}."
                )
        connection.execute(sa.update(tables.robots).where(tables.robots.c.name == name).values(spec=spec))
    log.info("robot_changed robot=%s spec=%s", name, spec)


def robots(catalogue: Catalogue) -> list[RobotRow]:
    """All robots, by name."""
    with catalogue.read() as connection:
        rows = connection.execute(sa.select(tables.robots).order_by(tables.robots.c.name)).mappings()
        return [RobotRow(**row) for row in rows]


def check_active(connection: sa.Connection, name: str) -> RobotRow:
    """The robot's row; RobotNotActiveError unless the robot was invited and not revoked; inside a transaction."""
    found = _find(connection, name)
    if found is None:
        raise RobotNotActiveError(f"robot {name!r:.80} was not invited; run: lwd fleet invite {name:.80}")
    if found.revoked_at is not None:
        raise RobotNotActiveError(f"robot {name!r} was revoked; invite its computer under another name.")
    return found


_FIND = sa.select(tables.robots).where(tables.robots.c.name == sa.bindparam("name"))


def _find(connection: sa.Connection, name: str) -> RobotRow | None:
    row = connection.execute(_FIND, {"name": name}).mappings().first()
    return None if row is None else RobotRow(**row)
