"""A client of nats-py as `NatsLink` uses it, once and then no more: whom it trusts, what it survives, how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from lwd.errors import ConfigError

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 3.0


@dataclass(frozen=True, kw_only=True)
class TlsIdentity:
    """Whom to trust and who we are, as PEM texts.

    Attributes:
        ca: the certificates that servers must descend from, and no others.
        certificate, key: this client's, for mutual TLS; both or none.
    """

    ca: str
    certificate: str = ""
    key: str = field(default="", repr=False)

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 or newer, the server's name checked; ConfigError if the texts are no certificates."""
        try:
            context = ssl.create_default_context(cadata=self.ca)
            if self.certificate:
                # ssl reads keys from files only
                with tempfile.TemporaryDirectory(prefix="lwd-tls-") as folder:
                    path = Path(folder) / "identity.pem"
                    path.touch(mode=0o600)
                    path.write_text(f"{self.certificate}\n{self.key}")
                    context.load_cert_chain(path)
        except (ssl.SSLError, OSError, ValueError) as error:
            raise ConfigError(
                f"TLS: the credential's certificates cannot be used: {error}. Make a new one with lwd fleet invite."
            ) from error
        return context


class SturdyClient(Client):
    """A client that a hostile message cannot stop: what nats-py fails to read ends its reading loop, and a queue would
    deliver the same message again on the next connection, for ever. Without its headers it can be refused for good.
    """

    async def _process_headers(self, headers: Any) -> dict[str, str] | None:
        try:
            return await super()._process_headers(headers)
        except Exception as error:
            log.warning("nats_headers_dropped cause=%r", str(error))
            return None

    def _build_message(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any) -> Msg:
        return super()._build_message(sid, _readable(subject), _readable(reply), data, headers)


def client_options(
    urls: Sequence[str], identity: TlsIdentity | None, name: str, inbox: str
) -> dict[str, Any]:
    """Keyword arguments of `Client.connect` but for the server's address and the callbacks; ConfigError on a bad address."""
    schemes = {urlsplit(url).scheme for url in urls}
    if not urls or not schemes <= {"nats", "tls"} or not all(map(_has_place, urls)):
        shown = ", ".join(map(without_password, urls)) or "nothing"
        raise ConfigError(f"bus: {shown!r} is no NATS address; expected nats://host:port or tls://host:port.")
    options: dict[str, Any] = {
        "name": name,
        "inbox_prefix": inbox,
        "allow_reconnect": False,
        "max_reconnect_attempts": 1,  # with -1 it would try for ever inside one call
        "reconnect_time_wait": 0,
        "connect_timeout": CONNECT_TIMEOUT_S,
        "ping_interval": 3600,  # `NatsLink` does it, with a bound
    }
    if identity is not None or "tls" in schemes:
        options["tls"] = ssl.create_default_context() if identity is None else identity.context()
        # TLS before the first byte: nobody in between can claim that the server speaks no TLS.
        options["tls_handshake_first"] = True
    return options


def _readable(text: bytes) -> bytes:
    return text.decode(errors="replace").encode()


def _has_place(url: str) -> bool:
    try:
        return bool(urlsplit(url).hostname) and urlsplit(url).port != 0
    except ValueError:  # a port that is no number
        return False


async def end(subscription: Subscription) -> None:
    """Unsubscribe, if its connection is still there."""
    with contextlib.suppress(nats.errors.Error, OSError):
        await subscription.unsubscribe()


async def discard(client: Client) -> None:
    """Close a client in bounded time, whatever state its connection is in."""
    try:
        await asyncio.wait_for(client.close(), CLOSE_TIMEOUT_S)
    except Exception as error:  # it is thrown away in any case
        log.debug("nats_close_failed cause=%r", str(error))
    # A close that hung in sending leaves the socket open, and nats-py has no way to give up on one.
    writer = getattr(getattr(client, "_transport", None), "_io_writer", None)
    if writer is not None:
        try:
            writer.transport.abort()
        except Exception as error:
            log.debug("nats_abort_failed cause=%r", str(error))


def without_password(url: str) -> str:
    """The address as it may be shown in logs and errors."""
    parts = urlsplit(url)
    return url if "@" not in parts.netloc else f"{parts.scheme}://...@{parts.netloc.rpartition('@')[2]}"
