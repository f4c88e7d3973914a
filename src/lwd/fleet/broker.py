"""nats-server's configuration for a fleet: who may say what to whom. Written as JSON, which nats-server reads. No JAX.

| who         | may publish                                              | may hear                                  |
|-------------|----------------------------------------------------------|-------------------------------------------|
| robot       | its episodes, its status, its calls                      | its inbox, newest snapshot and releases   |
| evaluator   | as a robot                                               | as a robot                                |
| coordinator | answers to calls; makes, reads and empties the queue     | calls and status of all                   |
| learner     | the newest snapshot, its status, its calls               | its inbox, the newest snapshot            |
| promoter    | the releases, its status, its calls                      | its inbox, newest snapshot and releases   |
| operator    | questions about streams, its calls                       | status of all, the newest snapshot        |

What is not listed is refused. Nobody may delete or purge a stream, or read another's episodes.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lwd.errors import ConfigError
from lwd.fleet.authority import Authority, Member, identity_uri, server_address
from lwd.fleet.credential import write_private
from lwd.log.nats_bus import EPISODES_STREAM
from lwd.snapshot.nats_channel import SNAPSHOT_GET, SNAPSHOT_STREAM, SNAPSHOT_SUBJECT
from lwd.snapshot.nats_releases import RELEASE_GET, RELEASE_STREAM, RELEASE_SUBJECTS

MAX_PAYLOAD_BYTES = 64 * 1024
TLS_TIMEOUT_S = 10
ASK_TIMEOUT_S = 5.0


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
    ] or [_nobody(authority)]
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


def _nobody(authority: Authority) -> dict[str, Any]:
    """Stands in an empty list, which nats-server takes for "no list": it would let in whoever was ever invited."""
    denied = {"deny": ">"}
    return {
        "user": f"urn:lwd:{authority.info.fleet}:nobody",
        "permissions": {"publish": denied, "subscribe": denied},
    }


def write_configuration(authority: Authority, config: BrokerConfig, path: Path) -> None:
    """Write what `render` returns, readable by this user only, whole or not at all."""
    write_private(path, render(authority, config).encode(), replace=True)


def server_pid(pidfile: Path) -> int | None:
    """The nats-server of this machine that a pid file names; None without one.

    The file outlives a server that was killed, and its number may be another program's by now.
    """
    try:
        pid = int(pidfile.read_text())
    except (OSError, ValueError):
        return None
    return pid if Path(_program(pid)).name == "nats-server" else None


def reload(pidfile: Path) -> None:
    """Tell a running nats-server to read its configuration again; who was revoked is disconnected.

    Raises:
        ConfigError: no nats-server of this machine is named there, or it belongs to another user.
    """
    pid = server_pid(pidfile)
    if pid is None:
        raise ConfigError(
            f"nats-server cannot be told to reload: {str(pidfile)!r} names none that runs on this machine. Check that "
            "it runs; restarting it has the same effect."
        )
    try:
        os.kill(pid, signal.SIGHUP)
    except OSError as error:
        raise ConfigError(
            f"nats-server (process {pid}) was not told of its new configuration: {error}. Restart it, or run "
            f"kill -HUP {pid} as its user."
        ) from error


def lets_in(authority: Authority, member: Member, timeout_s: float = ASK_TIMEOUT_S) -> bool:
    """Ask the running broker itself whether it lets this credential in; False also where none listens.

    It is asked over the network, with a certificate made for the purpose: that is the same for a broker of another user,
    in a container, or on another machine.

    Raises:
        ConfigError: there is no way to it from here, or what listens there is not this fleet's broker.
    """
    context, silent = authority.identity(member).context(), list[str]()
    for url in authority.info.servers:
        host, port = server_address(url)
        try:
            with (
                socket.create_connection((host, port), timeout_s) as plain,
                context.wrap_socket(plain, server_hostname=host) as link,
            ):
                return _welcomes(link)
        except ConnectionRefusedError:
            continue  # no broker there; it reads its list when it starts
        except OSError as error:
            silent.append(f"{url}: {error}")
    if silent:
        raise ConfigError(
            f"the broker cannot be asked from here whom it lets in ({'; '.join(silent)}). If it runs, restart it, so that it "
            "reads its list."
        )
    return False


def _welcomes(link: ssl.SSLSocket) -> bool:
    """What the server answers to a client that introduces itself; OSError if that is neither yes nor no."""
    link.sendall(b'CONNECT {"verbose":true,"pedantic":false,"tls_required":true}\r\n')
    line = b"nothing"
    with link.makefile("rb") as lines:
        for line in lines:
            if line.startswith(b"+OK"):
                return True
            if line.startswith(b"-ERR") and b"Authorization" in line:
                return False
    raise ConnectionError(f"it answered {line!r:.100}")


def _program(pid: int) -> str:
    """The name of a process's program, "" without such a process."""
    try:
        if Path("/proc/self").exists():
            return Path(f"/proc/{pid}/comm").read_text().strip()
        asked = ["ps", "-o", "comm=", "-p", str(pid)]
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def permissions(member: Member) -> dict[str, Any]:
    """What a member may publish and subscribe to."""
    name, api = member.name, "$JS.API"
    inbox = f"_INBOX.{name}.>"
    own = [f"status.{name}", f"calls.{name}.>"]
    if member.role in ("robot", "evaluator"):
        publish = [f"episodes.{name}.*", *own, SNAPSHOT_GET, RELEASE_GET]
        subscribe = [inbox, SNAPSHOT_SUBJECT, RELEASE_SUBJECTS]
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
    elif member.role == "promoter":
        publish = [
            f"{api}.STREAM.CREATE.{RELEASE_STREAM}",
            RELEASE_GET,
            RELEASE_SUBJECTS,
            SNAPSHOT_GET,
            *own,
        ]
        subscribe = [inbox, SNAPSHOT_SUBJECT, RELEASE_SUBJECTS]
    elif member.role == "server":
        publish = [*own, SNAPSHOT_GET]
        subscribe = [inbox, SNAPSHOT_SUBJECT]
    else:
        publish = [f"{api}.STREAM.INFO.*", f"{api}.CONSUMER.INFO.*.*", f"{api}.INFO", SNAPSHOT_GET, *own]
        subscribe = [inbox, "status.>", SNAPSHOT_SUBJECT]
    return {"publish": {"allow": publish}, "subscribe": {"allow": subscribe}}
