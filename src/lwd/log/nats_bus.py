"""The fleet's bus: JetStream, which keeps each message on disk until one consumer has acknowledged it.

How the contract of `Bus` is met:

- A message is stored under `<subject>.<message id>`, and the stream holds one message per such subject and refuses the next.
  So an id that still waits is dropped and one that was acknowledged is not, however long ago it was: a window of time,
  as `Nats-Msg-Id` has, would also drop the second kind. A robot's permission is `episodes.<robot>.*`.
- The stream is a work queue: acknowledged messages go, others never do. A full one refuses new messages.
- A claim is JetStream's ack wait. Where a call asks for another time, the claim is a "not yet" that tells the server when to
  deliver again; the consumer may acknowledge until then and after. The server's clock counts, not ours.
- Acknowledgements are themselves acknowledged.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from lwd.errors import StoreError
from lwd.log.bus import MAX_PAYLOAD_BYTES, Message, check_consumed, decode_message, encode_payload
from lwd.log.nats_link import NatsLink

log = logging.getLogger(__name__)

EPISODES_STREAM = "EPISODES"
EPISODES_SUBJECT = "episodes.*"

ACK_WAIT_S = 30.0
"""How long a claim of a consumer that died before it could set another time lasts."""
MAX_CLAIM = 1000
"""Most messages of one pull; more are claimed by pulling again."""

_HEADROOM_BYTES = 1024
_SETTLE_S = 0.1
"""Added to the timeout for each message of a batch: the server syncs its disk for each."""
_DUPLICATE = "maximum messages per subject"
_WORD = re.compile(r"[A-Za-z0-9_-]{1,128}")
_NO_MESSAGES = ("404", "408")


class NatsBus:
    """A bus on a NATS server. Thread-safe.

    Args:
        link: the connection.
        stream: JetStream's name for the queue.
        subjects: what may be published; ".*" at the end stands for one word. Only who consumes makes the stream.
        timeout_s: for each exchange with the server.
    """

    def __init__(
        self,
        link: NatsLink,
        stream: str = EPISODES_STREAM,
        subjects: Sequence[str] = (EPISODES_SUBJECT,),
        timeout_s: float = 10.0,
    ) -> None:
        self._link, self._stream, self._timeout_s = link, stream, timeout_s
        self._subjects = [f"{subject}.*" for subject in subjects]
        self._ready: set[str] = set()

    def prepare(self, subject: str = EPISODES_SUBJECT) -> None:
        """Make the stream and the consumer of `subject` if they are missing. `consume` does it too."""
        check_consumed(subject)
        stream = {
            "name": self._stream,
            "subjects": self._subjects,
            "storage": "file",
            "retention": "workqueue",
            "discard": "new",
            "max_msgs_per_subject": 1,
            "discard_new_per_subject": True,
            "max_msg_size": MAX_PAYLOAD_BYTES + _HEADROOM_BYTES,
            "num_replicas": 1,
        }
        consumer = {
            "durable_name": _durable(subject),
            "filter_subject": f"{subject}.*",
            "ack_policy": "explicit",
            "ack_wait": round(ACK_WAIT_S * 1e9),
            "max_deliver": -1,
            "max_ack_pending": -1,  # episodes whose objects are late must not keep the others waiting
        }
        self._api(f"STREAM.CREATE.{self._stream}", stream)
        wanted = {"stream_name": self._stream, "config": consumer}
        self._api(f"CONSUMER.DURABLE.CREATE.{self._stream}.{_durable(subject)}", wanted)
        self._ready.add(subject)

    def publish(self, subject: str, payload: Mapping[str, Any], message_id: str | None = None) -> None:
        """See `Bus.publish`."""
        data = encode_payload(subject, payload).encode()
        stored = f"{subject}.{_word(message_id or uuid.uuid4().hex)}"
        reply = _reply(self._link.request(stored, data, self._timeout_s))
        error = reply.get("error")
        if error is not None and _DUPLICATE not in str(error):
            raise _refused(f"publish to {subject!r}", error)
        if error is None and "seq" not in reply:
            raise _refused(f"publish to {subject!r}", reply)

    def consume(
        self, subject: str, limit: int = 64, visibility_s: float = 30.0, wait_s: float = 0.0
    ) -> list[Message]:
        """See `Bus.consume`."""
        check_consumed(subject)
        if subject not in self._ready:
            self.prepare(subject)

        async def claim(client: Client) -> list[Msg]:
            found = await self._pull(client, subject, limit, 0.0)
            if not found and wait_s > 0:
                # One only: a pull that still waits for more would claim messages after we have gone.
                found = await self._pull(client, subject, 1, wait_s)
                if found and limit > 1:
                    found += await self._pull(client, subject, limit - 1, 0.0)
            if found and visibility_s != ACK_WAIT_S:
                await self._tell(client, [message.reply for message in found], _not_yet(visibility_s))
            return found

        try:
            time_s = wait_s + self._timeout_s + min(limit, MAX_CLAIM) * _SETTLE_S
            found = self._link.run(f"consume {subject!r}", claim, time_s)
        except StoreError:
            self._ready.discard(subject)  # if it was deleted, it is made again next time
            raise
        return [_message(message) for message in found]

    def ack(self, messages: Sequence[Message]) -> None:
        """See `Bus.ack`."""
        self._settle("acknowledge", messages, b"+ACK")

    def nack(self, messages: Sequence[Message], delay_s: float = 0.0) -> None:
        """See `Bus.nack`."""
        self._settle("give back", messages, _not_yet(delay_s))

    def waiting(self, subject: str = EPISODES_SUBJECT) -> int:
        """How many messages are not acknowledged yet (for status pages)."""
        check_consumed(subject)
        if subject not in self._ready:
            self.prepare(subject)
        found = self._api(f"CONSUMER.INFO.{self._stream}.{_durable(subject)}", {})
        return int(found["num_pending"]) + int(found["num_ack_pending"])

    async def _pull(self, client: Client, subject: str, limit: int, wait_s: float) -> list[Msg]:
        """Claim what is there, at most `limit`; with `wait_s` wait so long for the first."""
        batch = min(limit, MAX_CLAIM)
        asked: dict[str, Any] = {"batch": batch}
        if wait_s > 0:
            asked["expires"] = round(wait_s * 1e9)
        else:
            asked["no_wait"] = True
        api = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{_durable(subject)}"
        found: list[Msg] = []
        answers = await client.subscribe(client.new_inbox())
        try:
            await client.publish(api, json.dumps(asked).encode(), reply=answers.subject)
            while len(found) < batch:
                message = await answers.next_msg(timeout=wait_s + self._timeout_s)
                status = (message.headers or {}).get("Status")
                if status is None or message.reply:
                    found.append(message)
                elif status in _NO_MESSAGES:
                    break
                elif status != "100":
                    raise _refused(f"consume {subject!r}", message.headers)
        finally:
            await answers.unsubscribe()
        return found

    async def _tell(self, client: Client, receipts: Sequence[str], word: bytes) -> None:
        """Say the same about each delivery, and wait until the server has taken it in."""
        time_s = self._timeout_s + len(receipts) * _SETTLE_S
        answers = [self._link.ask(client, receipt, word, time_s) for receipt in receipts]
        results = await asyncio.gather(*answers, return_exceptions=True)
        for result in results:
            # Without a consumer behind it there is nothing left to settle: somebody deleted the queue.
            if isinstance(result, BaseException) and not isinstance(result, nats.errors.NoRespondersError):
                raise result

    def _settle(self, action: str, messages: Sequence[Message], word: bytes) -> None:
        receipts = [message.receipt for message in messages]

        async def settle(client: Client) -> None:
            await self._tell(client, receipts, word)

        if receipts:
            time_s = self._timeout_s + len(receipts) * _SETTLE_S
            self._link.run(f"{action} {len(receipts)} messages", settle, time_s)

    def _api(self, call: str, body: Mapping[str, Any]) -> dict[str, Any]:
        data = json.dumps(body).encode() if body else b""
        reply = _reply(self._link.request(f"$JS.API.{call}", data, self._timeout_s))
        if "error" in reply:
            raise _refused(call, reply["error"])
        return reply


def _message(message: Msg) -> Message:
    subject = message.subject.rpartition(".")[0]
    metadata = message.metadata
    return Message(
        subject=subject,
        payload=decode_message(subject, message.data),
        receipt=message.reply,
        deliveries=metadata.num_delivered,
        published_at=metadata.timestamp.timestamp(),
    )


def _reply(message: Msg) -> dict[str, Any]:
    try:
        reply = json.loads(message.data)
    except ValueError:
        reply = None
    return reply if isinstance(reply, dict) else {"error": f"not an answer: {message.data[:100]!r}"}


def _refused(action: str, why: object) -> StoreError:
    return StoreError(
        f"bus: {action} was refused by JetStream: {why!s:.300}. Check the server's disk and its log; it can be repeated."
    )


def _not_yet(delay_s: float) -> bytes:
    """Deliver again after `delay_s`; until then a claim or a pause."""
    if delay_s <= 0:
        return b"-NAK"  # at once; a delay of 0 would wait for the server's next look at its timers
    return b'-NAK {"delay": %d}' % round(delay_s * 1e9)


def _word(message_id: str) -> str:
    """An id as one word of a subject."""
    return message_id if _WORD.fullmatch(message_id) else hashlib.sha256(message_id.encode()).hexdigest()


def _durable(subject: str) -> str:
    """A consumer's name: dots and stars are not allowed in it, and two subjects must never share one."""
    shown = subject.replace(".*", "-each").replace(".", "-")
    return f"{shown[:80]}-{hashlib.sha256(subject.encode()).hexdigest()[:8]}"
