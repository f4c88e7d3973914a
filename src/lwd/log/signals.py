"""Signals: messages that nobody stores and nobody confirms, such as a status. Whoever is away misses them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from lwd.errors import LwdError
from lwd.log.bus import decode_payload, encode_payload

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from lwd.log.calls import Closeable
    from lwd.log.nats_link import NatsLink

log = logging.getLogger(__name__)

Heard = Callable[[str, Mapping[str, Any]], None]
"""Takes (subject, payload) of a signal; runs on the link's thread, so it must not block."""


class NatsSignals:
    """Signals over a NATS server."""

    def __init__(self, link: NatsLink) -> None:
        self._link = link

    def send(self, subject: str, payload: Mapping[str, Any], timeout_s: float = 1.0) -> bool:
        """Send one if there is a link within `timeout_s`; whether it went out."""
        if not self._link.connected:
            return False
        try:
            self._link.publish(subject, encode_payload(subject, payload).encode(), timeout_s)
        except LwdError as error:
            log.debug("signal_not_sent subject=%s cause=%r", subject, str(error))
            return False
        return True

    def listen(self, subject: str, heard: Heard) -> Closeable:
        """Hear signals from now on, over all reconnects, until the result is closed. "*" stands for one word."""
        return self._link.keep(_Listener(subject, heard))


class _Listener:
    """What `listen` keeps subscribed."""

    def __init__(self, subject: str, heard: Heard) -> None:
        self._subject, self._heard = subject, heard

    async def connected(self, client: Client) -> Subscription:
        """Subscribe on a new connection."""
        return await client.subscribe(self._subject, cb=self._take)

    def close(self) -> None:
        """Nothing is held."""

    async def _take(self, message: Msg) -> None:
        try:
            self._heard(message.subject, decode_payload(message.subject, message.data))
        except LwdError as error:
            log.debug("signal_unreadable subject=%s cause=%r", message.subject, str(error))
