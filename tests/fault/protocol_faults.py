"""A bus and an object store that fail on purpose, around the real ones, for the protocol's state machine."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from lwd.errors import StoreError
from lwd.log.bus import CatalogueBus, Message
from lwd.log.objects import ObjectStore


class DiedError(BaseException):
    """The process dies here, as SIGKILL does: no handler of lwd may catch it."""


@dataclasses.dataclass
class Plan:
    """The faults to come, one for each operation on the bus and on the store: "" for none. Then all is well."""

    bus: list[str] = dataclasses.field(default_factory=list)
    store: list[str] = dataclasses.field(default_factory=list)


def _take(faults: list[str]) -> str:
    return faults.pop(0) if faults else ""


BUS_FAULTS = ("", "refused", "answer lost", "dies before", "dies after", "twice", "late", "late and twice")
STORE_FAULTS = ("", "refused", "answer lost", "dies before", "dies after", "torn", "torn and dies")
COORDINATOR_FAULTS = ("", "refused", "dies before", "dies after")


class FaultyBus:
    """Publishing through it fails, dies, doubles or comes late; consuming and acknowledging fail or die."""

    def __init__(self, inner: CatalogueBus, plan: Plan, late: list[tuple[Any, ...]]) -> None:
        self.inner, self.plan, self.late = inner, plan, late
        self.count = 0

    def publish(self, subject: str, payload: Mapping[str, Any], message_id: str | None = None) -> None:
        fault = _take(self.plan.bus)
        if fault == "refused":
            raise StoreError("bus: refused")
        if fault == "dies before":
            raise DiedError
        if fault.startswith("late"):  # the broker has it, and hands it out later than what comes after it
            self.late.append((subject, payload, message_id))
        else:
            self.inner.publish(subject, payload, message_id)
        if fault.endswith("twice"):  # a retry that the broker's memory of ids does not catch
            self.count += 1
            self.inner.publish(subject, payload, f"{message_id}.{self.count}")
        if fault == "answer lost":
            raise StoreError("bus: no answer")
        if fault == "dies after":
            raise DiedError

    def consume(
        self, subject: str, limit: int = 64, visibility_s: float = 30.0, wait_s: float = 0.0
    ) -> list[Message]:
        # A claim ends at once: whatever is not acknowledged is delivered again to the next that asks.
        return self.inner.consume(subject, limit, 0.0, 0.0)

    def ack(self, messages: Sequence[Message]) -> None:
        fault = _take(self.plan.bus)
        if fault == "refused":
            raise StoreError("bus: refused")
        if fault == "dies before":
            raise DiedError
        self.inner.ack(messages)
        if fault == "dies after":
            raise DiedError

    def nack(self, messages: Sequence[Message], delay_s: float = 0.0) -> None:
        self.inner.nack(messages, 0.0)


class FaultyStore:
    """Writing through it fails, dies or tears; reading fails while `blind`."""

    def __init__(self, inner: ObjectStore, plan: Plan) -> None:
        self.inner, self.plan = inner, plan
        self.blind = False

    def put_once(self, key: str, data: bytes) -> bool:
        fault = _take(self.plan.store)
        if fault == "refused":
            raise StoreError("store: refused")
        if fault == "dies before":
            raise DiedError
        if fault.startswith("torn") and not self.inner.exists(
            key
        ):  # a server that lost power under the upload
            assert self.inner.root is not None
            path = self.inner.root / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data[: len(data) // 2])
            if fault == "torn and dies":
                raise DiedError
            raise StoreError("store: the upload broke")
        created = self.inner.put_once(key, data)
        assert hashlib.sha256(data).hexdigest() in key
        if fault == "answer lost":
            raise StoreError("store: no answer")
        if fault == "dies after":
            raise DiedError
        return created

    def get(self, key: str, max_bytes: int | None = None) -> bytes:
        if self.blind:
            raise StoreError("store: down")
        return self.inner.get(key, max_bytes)
