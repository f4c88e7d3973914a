"""nats-server's configuration for a fleet: who may say what to whom. Written as JSON, which nats-server reads. No JAX.

| who         | may publish                                              | may hear                                  |
|-------------|----------------------------------------------------------|-------------------------------------------|
| robot       | its episodes, its status, its calls                      | its inbox, the newest snapshot            |
| evaluator   | as a robot                                               | as a robot                                |
| coordinator | answers to calls; makes, reads and empties the queue     | calls and status of all                   |
| learner     | the newest snapshot, its status, its calls               | its inbox, the newest snapshot            |
| operator    | questions about streams, its calls                       | status of all, the newest snapshot        |

What is not listed is refused. Nobody may delete or purge a stream, or read another's episodes.
"""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lwd.errors import ConfigError
from lwd.fleet.authority import Authority, Member, identity_uri
from lwd.fleet.credential import write_private
from lwd.log.nats_bus import EPISODES_STREAM
from lwd.snapshot.nats_channel import SNAPSHOT_GET, SNAPSHOT_STREAM, SNAPSHOT_SUBJECT

MAX_PAYLOAD_BYTES = 64 * 1024
TLS_TIMEOUT_S = 10


@dataclass(frozen=True, kw_only=True)
class BrokerConfig:
    """Where nats-server listens and what it may use.

    Attributes:
        host, port: the address that robots connect to.
        store: folder of the streams.
        pidfile: written by nats-server; `reload` reads it.
        max_store_bytes: a full store refuses new episodes, which then wait on the robots; nothing is dropped.
        sync_interval: "always" syncs the disk at each message, so that what was acknowledged outlives a power cut and not
            only a crash: the robot deletes its copy then. A time such as "10s" is faster and risks that long.
    """

    host: str = "0.0.0.0"
    port: int = 4222
    store: Path
    pidfile: Path
    max_store_bytes: int = 10 * 2**30
    sync_interval: str = "always"


def render(authority: Authority, config: BrokerConfig) -> str:
    """The configuration for the members that are valid now. Needs nats-server 2.11 or newer."""
    folder = authority.folder.absolute()
    users = [
        {"user": identity_uri(authority.info.fleet, member), "permissions": permissions(member)}
        for member in authority.valid_members()
    ]
    document: dict[str, Any] = {
        "listen": f"{config.host}:{config.port}",
        "server_name": authority.info.fleet,
        "pid_file": str(config.pidfile.absolute()),
        "max_payload": MAX_PAYLOAD_BYTES,
        "tls": {
            "cert_file": str(folder / "server.pem"),
            "key_file": str(folder / "server.key"),
            "ca_file": str(folder / "ca.pem"),
            "verify_and_map": True,
            "handshake_first": True,
            "timeout": TLS_TIMEOUT_S,
        },
        "authorization": {"timeout": TLS_TIMEOUT_S, "users": users},
        "jetstream": {
            "store_dir": str(config.store.absolute()),
            "max_file_store": config.max_store_bytes,
            "max_memory_store": 64 * 2**20,
            "sync_interval": config.sync_interval,
            # Refuses requests with fields that do not belong there. A client may name any subject for the server's answer
            # to its publish; read strictly, such an answer is never taken for a request.
            "strict": True,
        },
    }
    return json.dumps(document, indent=1)


def write_configuration(authority: Authority, config: BrokerConfig, path: Path) -> None:
    """Write what `render` returns, readable by this user only, whole or not at all."""
    write_private(path, render(authority, config).encode(), replace=True)


def reload(pidfile: Path) -> None:
    """Tell a running nats-server to read its configuration again; who was revoked is disconnected."""
    try:
        os.kill(int(pidfile.read_text()), signal.SIGHUP)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"nats-server cannot be told to reload: {error}. Check that it runs and that {str(pidfile)!r} is its pid "
            "file; restarting it has the same effect."
        ) from error


def permissions(member: Member) -> dict[str, Any]:
    """What a member may publish and subscribe to."""
    name, api = member.name, "$JS.API"
    inbox = f"_INBOX.{name}.>"
    own = [f"status.{name}", f"calls.{name}.>"]
    if member.role in ("robot", "evaluator"):
        publish = [f"episodes.{name}.*", *own, SNAPSHOT_GET]
        subscribe = [inbox, SNAPSHOT_SUBJECT]
    elif member.role == "coordinator":
        queue = EPISODES_STREAM
        publish = [
            f"{api}.STREAM.CREATE.{queue}",
            f"{api}.STREAM.INFO.{queue}",
            f"{api}.CONSUMER.DURABLE.CREATE.{queue}.*",
            f"{api}.CONSUMER.INFO.{queue}.*",
            f"{api}.CONSUMER.MSG.NEXT.{queue}.*",
            f"$JS.ACK.{queue}.>",
            "_INBOX.>",  # answers to calls
            SNAPSHOT_GET,
            *own,
        ]
        subscribe = [inbox, "calls.>", "status.>", SNAPSHOT_SUBJECT]
    elif member.role == "learner":
        publish = [f"{api}.STREAM.CREATE.{SNAPSHOT_STREAM}", SNAPSHOT_GET, SNAPSHOT_SUBJECT, *own]
        subscribe = [inbox, SNAPSHOT_SUBJECT]
    elif member.role == "server":
        publish = [*own, SNAPSHOT_GET]
        subscribe = [inbox, SNAPSHOT_SUBJECT]
    else:
        publish = [f"{api}.STREAM.INFO.*", f"{api}.CONSUMER.INFO.*.*", f"{api}.INFO", SNAPSHOT_GET, *own]
        subscribe = [inbox, "status.>", SNAPSHOT_SUBJECT]
    return {"publish": {"allow": publish}, "subscribe": {"allow": subscribe}}
