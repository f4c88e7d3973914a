"""A thousand light edge clients on one machine: what an episode costs the coordinator, and how that grows with the fleet.

Each client has its own name, certificate, connection (TLS), subject and spool. Objects go into a folder that all share, so
that no S3 server written in Python is measured. Clients finish an episode whenever the one before is delivered: the rate is
what this machine carries with clients, broker, database and coordinator together on its cores.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from benchmarks.fleet_parts import Fleet, Part, fleet, parts, register
from lwd.fleet.telemetry import Telemetry
from lwd.log.bus import decode_payload, encode_payload
from lwd.log.catalogue import Catalogue
from lwd.log.status import status_message

CLIENTS = (10, 100, 1000)
SHARE = {10: 0.02, 100: 0.1, 1000: 1.0}
"""The runs with fewer clients need fewer episodes for their rate."""
CLIENTS_PER_PROCESS = 125
EPISODE_BYTES = 5_000


def main(episodes: int = 100_000, clients: int = 1000, sqlite: int = 1) -> Mapping[str, Any]:
    """Figures per number of clients, and the slope between the smallest and the largest.

    Args:
        episodes: of the run with the most clients.
        clients: the most clients.
        sqlite: whether to repeat the run of 100 clients with SQLite in place of Postgres.
    """
    numbers: dict[str, float] = {"clients": float(clients), "episodes_asked_for": float(episodes)}
    numbers["status_cpu_ms"] = _status_cost()
    sizes = [size for size in CLIENTS if size < clients] + [clients]
    with fleet(clients) as made:
        for size in sizes:
            wanted = max(size, episodes if size == clients else round(episodes * SHARE[size]))
            numbers |= _named(f"clients_{size}", _run(made, size, wanted, made.database(f"scale_{size}")))
        if sqlite and clients >= 100:
            url = str(made.folder / "scale.db")
            register(url, made.robots[:100])
            numbers |= _named("sqlite_clients_100", _run(made, 100, round(episodes * SHARE[100]), url))
    few, many = f"clients_{sizes[0]}", f"clients_{sizes[-1]}"
    for what in ("coordinator_cpu_ms", "episodes_per_s"):
        numbers[f"{what}_ratio_{sizes[0]}_to_{sizes[-1]}"] = (
            numbers[f"{many}_{what}"] / numbers[f"{few}_{what}"]
        )
    return {"numbers": numbers, "facts": {"episode": "state only, 10 control steps; catalogue on Postgres"}}


def _run(made: Fleet, size: int, episodes: int, url: str) -> dict[str, float]:
    """So many clients deliver so many episodes as fast as it goes."""
    name = f"scale-{size}-{'postgres' if '://' in url else 'sqlite'}"
    folder, names = made.folder / name, made.robots[:size]
    each = -(-episodes // size)
    service = {
        "catalogue": url,
        "objects": folder / "objects",
        "credential": made.credentials["coordinator"],
    }
    worker = Part("coordinator", folder / "coordinator", service)
    groups = [names[i : i + CLIENTS_PER_PROCESS] for i in range(0, size, CLIENTS_PER_PROCESS)]
    common = {
        "credentials": made.folder,
        "shared_folder": True,
        "size": EPISODE_BYTES,
        "every_s": 0,
        "episodes": each,
        "seed": 0,
    }
    hosts = [
        Part("robots", folder / f"clients-{i}", {**common, "robots": group}) for i, group in enumerate(groups)
    ]
    with Catalogue(url) as catalogue:
        before = _bytes(catalogue)
        with parts([worker, *hosts]):
            for host in hosts:
                host.go()
            sent = [host.result(24 * 3600.0) for host in hosts]
            _until_counted(catalogue, each * size)
            used = worker.stop()
        counted = catalogue.newest_seq()
        with catalogue.read() as connection:
            query = sa.text("SELECT COUNT(*), MAX(catalogued_at), AVG(size) FROM episodes")
            rows, last, mean = connection.execute(query).one()
        grown = _bytes(catalogue) - before
    took = last - min(part["began_at"] for part in sent)
    return {
        "episodes": float(rows),
        "episodes_lost": float(each * size - counted),
        "episode_bytes": float(mean),
        "episodes_per_s": rows / took,
        "coordinator_cpu_s": used["cpu_s"],
        "coordinator_cpu_ms": 1000 * used["cpu_s"] / rows,
        "coordinator_memory_mib": used["memory_mib"],
        "clients_cpu_ms": 1000 * sum(part["cpu_s"] for part in sent) / rows,
        "client_memory_mib": sum(part["memory_mib"] for part in sent) / size,
        "catalogue_bytes_per_episode": grown / rows,
    }


def _status_cost(count: int = 1000) -> float:
    """What a robot's status costs the coordinator, from its bytes to the catalogue, in milliseconds of CPU."""
    from lwd.fleet.folder import RunFolder, open_services
    from lwd.fleet.registry import StatusDesk

    status = {"state": "runs", "snapshot": 3, "behind": 0, "link": True, "undelivered": 0, "numbers": {}}
    data = encode_payload("status.robot", status_message("robot", status)).encode()
    with tempfile.TemporaryDirectory() as folder, open_services(RunFolder(Path(folder))) as services:
        desk = StatusDesk(services, Telemetry({}))
        began = time.process_time()
        for i in range(count):
            subject = f"status.robot-{i}"
            desk.heard(subject, decode_payload(subject, data))
        desk.flush()
        return 1000 * (time.process_time() - began) / count


def _until_counted(catalogue: Catalogue, count: int, still_s: float = 120.0) -> None:
    """Until so many episodes are catalogued, or nothing has come for a while: what is missing is counted as lost."""
    seen, since = -1, time.monotonic()
    while seen < count and time.monotonic() - since < still_s:
        newest = catalogue.newest_seq()
        if newest != seen:
            seen, since = newest, time.monotonic()
        time.sleep(0.5)
    time.sleep(1.0)  # the last manifest


def _bytes(catalogue: Catalogue) -> float:
    """Size of the database on its disk, once it has put away its log."""
    sizes = {
        "sqlite": "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()",
        "postgresql": "SELECT pg_database_size(current_database())",
    }
    with catalogue.read() as connection:
        return float(connection.execute(sa.text(sizes[connection.dialect.name])).scalar_one())


def _named(prefix: str, figures: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in figures.items()}
