"""The bus: small messages, delivered at least once. Payloads are references, never data."""

from __future__ import annotations

import hashlib
import json
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import sqlalchemy as sa

from lwd.errors import StoreError
from lwd.log import tables
from lwd.log.catalogue import Catalogue
from lwd.log.checks import MAX_DEPTH, is_deep

MAX_PAYLOAD_BYTES = 16 * 1024
"""Largest payload, as JSON in UTF-8. Whatever is larger belongs into the object store."""

_SUBJECT = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(\.\*)?")
_FIRST_POLL_S, _LAST_POLL_S = 0.02, 0.16
"""Between two looks of a waiting consumer: longer and longer, so that an idle coordinator costs next to nothing."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One delivery of one message.

    Attributes:
        receipt: names this delivery to `ack` and `nack`; opaque.
        deliveries: how often it was delivered, 1 the first time.
        published_at: seconds since the epoch.
    """

    subject: str
    payload: Mapping[str, Any]
    receipt: str
    deliveries: int
    published_at: float


@runtime_checkable
class Bus(Protocol):
    """At-least-once delivery of small JSON messages; order is usual, not promised."""

    def publish(self, subject: str, payload: Mapping[str, Any], message_id: str | None = None) -> None:
        """Store a message; returns once it will survive a crash of the bus.

        Args:
            subject: words joined by dots, such as "episodes.robot7".
            payload: JSON values, at most MAX_PAYLOAD_BYTES.
            message_id: the bus may drop a message whose id is still waiting under the same subject.

        Raises:
            StoreError: not stored, or not known to be; publish it again.
        """
        ...

    def consume(
        self, subject: str, limit: int = 64, visibility_s: float = 30.0, wait_s: float = 0.0
    ) -> list[Message]:
        """Claim up to `limit` messages; ".*" at the end of `subject` stands for one word.

        What is not acknowledged within `visibility_s` seconds is delivered again, to this or another consumer.
        Waits up to `wait_s` seconds for the first message. Several consumers of a subject share its messages.
        """
        ...

    def ack(self, messages: Sequence[Message]) -> None:
        """Acknowledge: these are never delivered again."""
        ...

    def nack(self, messages: Sequence[Message], delay_s: float = 0.0) -> None:
        """Give back: deliver these again after `delay_s` seconds."""
        ...


def encode_payload(subject: str, payload: Mapping[str, Any]) -> str:
    """Check a subject and its payload as every bus does, and return the payload's JSON; StoreError if refused."""
    if not _SUBJECT.fullmatch(subject) or subject.endswith("*") or len(subject) > 200:
        raise StoreError(
            f"bus: subject {subject[:80]!r} is not allowed; expected words of [A-Za-z0-9_-] joined by dots."
        )
    try:
        text = json.dumps(payload, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"bus: the payload for {subject!r} is not JSON: {error}.") from error
    if is_deep(payload):
        raise StoreError(
            f"bus: the payload for {subject!r} is nested more than {MAX_DEPTH} deep; make it flatter."
        )
    if len(text) > MAX_PAYLOAD_BYTES:  # json.dumps writes ASCII, so characters are bytes
        raise StoreError(
            f"bus: the payload for {subject!r} has {len(text)} bytes, at most {MAX_PAYLOAD_BYTES} are allowed; "
            "put the data into the object store and send its key."
        )
    return text


def decode_payload(where: str, data: bytes) -> dict[str, Any]:
    """Read a JSON object that came over a network, trusting nothing in it; StoreError if it is none.

    The limit is twice that of what is sent: answers wrap a payload.
    """
    if len(data) > 2 * MAX_PAYLOAD_BYTES:
        raise StoreError(
            f"bus: {len(data)} bytes arrived for {where!r}, at most {2 * MAX_PAYLOAD_BYTES} are read."
        )
    try:
        found = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise StoreError(f"bus: what arrived for {where!r} is not JSON: {error!s:.200}.") from error
    if not isinstance(found, dict):
        raise StoreError(
            f"bus: what arrived for {where!r} is {type(found).__name__}, expected a JSON object."
        )
    if is_deep(found):
        raise StoreError(
            f"bus: what arrived for {where!r} is nested more than {MAX_DEPTH} deep; it was not read."
        )
    return cast(dict[str, Any], found)


def decode_message(subject: str, data: bytes) -> dict[str, Any]:
    """The payload of a queued message, or, where there is none, one that says so.

    Whoever consumes must see what cannot be read, to refuse it for good: dropped here it would come again for ever.
    """
    try:
        return decode_payload(subject, data)
    except StoreError as error:
        return {"malformed": str(error), "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


def check_consumed(subject: str) -> None:
    """Check a subject that is consumed, where ".*" may stand at the end; StoreError if refused."""
    if not _SUBJECT.fullmatch(subject) or len(subject) > 200:
        raise StoreError(
            f"bus: subject {subject[:80]!r} is not allowed; expected words joined by dots, '.*' at the end."
        )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class CatalogueBus:
    """The embedded bus: a table in the catalogue's database. Thread- and process-safe like the catalogue."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def publish(self, subject: str, payload: Mapping[str, Any], message_id: str | None = None) -> None:
        """See `Bus.publish`."""
        row = {
            "subject": subject,
            "message_id": message_id or uuid.uuid4().hex,
            "payload": encode_payload(subject, payload),
            "published_at": time.time(),
        }
        same = sa.and_(tables.events.c.subject == subject, tables.events.c.message_id == row["message_id"])
        with self._catalogue.write() as connection:
            if connection.execute(sa.select(tables.events.c.id).where(same)).first() is None:
                connection.execute(sa.insert(tables.events).values(row))

    def consume(
        self, subject: str, limit: int = 64, visibility_s: float = 30.0, wait_s: float = 0.0
    ) -> list[Message]:
        """See `Bus.consume`."""
        deadline = time.monotonic() + wait_s
        query = _visible(subject)
        look, claim = query.with_only_columns(tables.events.c.id).limit(1), query.limit(limit)
        pause_s = _FIRST_POLL_S
        while True:
            found = self._claim(look, claim, visibility_s)
            left = deadline - time.monotonic()
            if found or left <= 0:
                return found
            time.sleep(min(pause_s, left))
            pause_s = min(2.0 * pause_s, _LAST_POLL_S)

    def ack(self, messages: Sequence[Message]) -> None:
        """See `Bus.ack`."""
        if not messages:
            return
        column = tables.events.c
        with self._catalogue.write() as connection:
            for message in messages:
                # Whoever acknowledges has the message stored, even if it took longer than the visibility and the
                # message went out again meanwhile: one delivery done is the message done.
                connection.execute(sa.delete(tables.events).where(column.id == int(message.receipt)))

    def nack(self, messages: Sequence[Message], delay_s: float = 0.0) -> None:
        """See `Bus.nack`."""
        if not messages:
            return
        now = time.time()
        ids = [int(message.receipt) for message in messages]
        change = sa.update(tables.events).where(tables.events.c.id.in_(ids))
        with self._catalogue.write() as connection:
            connection.execute(change.values(claimed_at=now, visible_at=now + delay_s))

    def waiting(self, subject: str) -> int:
        """How many messages are not acknowledged yet (for status pages)."""
        query = sa.select(sa.func.count()).select_from(tables.events).where(_matches(subject))
        with self._catalogue.read() as connection:
            return int(connection.execute(query).scalar_one())

    def _claim(self, look: sa.Select[Any], claim: sa.Select[Any], visibility_s: float) -> list[Message]:
        now = time.time()
        column = tables.events.c
        with self._catalogue.read() as connection:  # an idle consumer does not disturb the writers
            if connection.execute(look, {"now": now}).first() is None:
                return []
        with self._catalogue.write() as connection:
            rows = connection.execute(claim, {"now": now}).mappings().all()
            change = sa.update(tables.events).where(column.id.in_([row["id"] for row in rows]))
            connection.execute(
                change.values(claimed_at=now, visible_at=now + visibility_s, deliveries=column.deliveries + 1)
            )
        return [
            Message(
                subject=row["subject"],
                payload=decode_message(row["subject"], row["payload"].encode()),
                receipt=str(row["id"]),
                deliveries=row["deliveries"] + 1,
                published_at=row["published_at"],
            )
            for row in rows
        ]


def _visible(subject: str) -> sa.Select[Any]:
    """Messages of a subject that may be claimed at the time `now`, oldest first."""
    column, now = tables.events.c, sa.bindparam("now", type_=sa.Float)
    # A claim made in the future means that the clock was set back; it must not hide the message until then.
    visible = sa.or_(column.visible_at <= now, column.claimed_at > now + 1.0)
    return sa.select(tables.events).where(_matches(subject), visible).order_by(column.id)


def _matches(subject: str) -> sa.ColumnElement[bool]:
    check_consumed(subject)
    if not subject.endswith("*"):
        return tables.events.c.subject == subject
    prefix = _like(subject[:-1])
    like = tables.events.c.subject.like
    return sa.and_(
        like(f"{prefix}%", escape="/"), sa.not_(like(f"{prefix}%.%", escape="/"))
    )  # "*" is one word


def _like(text: str) -> str:
    """`text` with the wildcards of SQL's LIKE escaped by "/"."""
    return text.replace("/", "//").replace("%", "/%").replace("_", "/_")
