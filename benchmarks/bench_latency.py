"""Latency of the loop with 16 robots: episode end -> sampleable, snapshot announced -> verified.

Real parts on loopback, each a process: nats-server with TLS and a disk synced at each message, Postgres, coordinator with
grants, a reader, 16 edge clients. Objects go into a folder that the robots share, and in a second run through signed URLs to
moto, an S3 server in Python; what it takes by itself is `moto_plain_put_2mb_p50_s`, from plain PUTs of the same size. Then,
where this machine can make such lines, robots behind 50 ms round trip, 1 % loss and 100 Mbit/s.

Targets: 2 MB episodes P50 0.5 s, P99 2 s; snapshots of 1 MB P50 0.3 s, 600 MB from local storage 5 s; behind the lossy line
P99 10 s and nothing lost. The paper measured 41 s and 148 s, and 38 s and 55 s for snapshots.
"""

from __future__ import annotations

import os
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import lossy_line
from benchmarks.fleet_parts import Fleet, Part, fleet, parts, quantile
from benchmarks.fleet_roles import policy_arrays
from lwd.log.catalogue import Catalogue
from lwd.log.objects import ObjectStore
from lwd.snapshot.nats_channel import NatsChannel
from lwd.snapshot.store import SnapshotStore

ROBOTS, PROCESSES = 16, 4
EPISODE_BYTES = 2_000_000
PER_SECOND = 2.0
SNAPSHOT_BYTES, LARGE_SNAPSHOT_BYTES = 1_000_000, 600_000_000
TARGETS = {
    "folder_episode_p50_s": 0.5,
    "folder_episode_p99_s": 2.0,
    "s3_episode_p50_s": 0.5,
    "s3_episode_p99_s": 2.0,
    "folder_snapshot_1mb_p50_s": 0.3,
    "s3_snapshot_1mb_p50_s": 0.3,
    "folder_snapshot_600mb_worst_s": 5.0,
    "lossy_line_episode_p99_s": 10.0,
    "lossy_line_episodes_lost": 0.0,
}


def main(
    episodes: int = 480, snapshots: int = 20, large: int = 3, lossy_episodes: int = 160
) -> Mapping[str, Any]:
    """Figures, and which targets they meet.

    Args:
        episodes: 2 MB episodes of each run with the robots on loopback.
        snapshots: 1 MB snapshots of each run; each is taken by 16 robots.
        large: 600 MB snapshots, taken by one robot.
        lossy_episodes: 2 MB episodes behind the lossy line.
    """
    numbers: dict[str, float] = {"robots": ROBOTS}
    for store in ("folder", "s3"):
        with fleet(ROBOTS, s3=True) as made:  # a new one, since a broker remembers the newest announcement
            numbers |= _named(store, _episodes(made, store, episodes, PER_SECOND))
            numbers |= _named(store, _snapshots(made, store, SNAPSHOT_BYTES, snapshots, "snapshot_1mb"))
            if store == "s3":
                numbers["moto_plain_put_2mb_p50_s"] = _plain_put(made)
    if large:
        with fleet(1) as made:
            figures = _snapshots(made, "folder", LARGE_SNAPSHOT_BYTES, large, "snapshot_600mb")
            numbers |= _named("folder", figures)
    facts: dict[str, Any] = {}
    missing = lossy_line.missing()
    if missing is None and lossy_episodes:
        numbers |= _named("lossy_line", _behind_lossy_line(lossy_episodes))
        facts["lossy_line"] = lossy_line.DESCRIPTION
    else:
        facts["lossy_line"] = f"skipped: {missing or 'no episodes asked for'}"
    facts["targets"] = {
        name: {"at_most": limit, "measured": numbers[name], "met": numbers[name] <= limit}
        for name, limit in TARGETS.items()
        if name in numbers
    }
    return {"numbers": numbers, "facts": facts}


def _episodes(
    made: Fleet, store: str, count: int, per_second: float, prefixes: Sequence[Sequence[str]] = ()
) -> dict[str, float]:
    """Episodes at a steady rate from all robots: from their end until they can be sampled."""
    folder = made.folder / f"episodes-{store}"
    shared = {"catalogue": made.database(f"episodes_{store}"), "objects": _objects(made, store, folder)}
    service = {**shared, "credential": made.credentials["coordinator"]}
    groups = [made.robots[i::PROCESSES] for i in range(PROCESSES)] if not prefixes else made.robots
    fixed = [
        Part("coordinator", folder / "coordinator", service),
        Part("reader", folder / "reader", shared),
    ]
    moving = [
        Part(
            "robots",
            folder / f"robots-{i}",
            {
                "robots": [names] if isinstance(names, str) else names,
                "credentials": made.folder,
                "shared_folder": store == "folder",
                "size": EPISODE_BYTES,
                "every_s": len(made.robots) / per_second,
                "episodes": max(1, count // len(made.robots)),
                "seed": i,
            },
            prefixes[i] if prefixes else (),
        )
        for i, names in enumerate(groups)
    ]
    expected = len(made.robots) * max(1, count // len(made.robots))
    with parts([*fixed, *moving]):
        for part in moving:
            part.go()
        sent = [part.result(3600.0) for part in moving]
        _until_catalogued(shared["catalogue"], expected)
        fixed[0].stop()
        found = fixed[1].stop()["episodes"]
    return _episode_figures(found, expected, sent)


def _episode_figures(
    found: Sequence[Mapping[str, float]], expected: int, sent: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    def between(first: str, last: str) -> list[float]:
        return [max(row[last] - row[first], 0.0) for row in found]

    whole = between("ended_at", "sampleable_at")
    wall = max(part["submitted_at"] for part in sent) - min(part["began_at"] for part in sent)
    figures = {
        "episode_p50_s": quantile(whole, 0.5),
        "episode_p99_s": quantile(whole, 0.99),
        "episode_worst_s": max(whole),
        "episodes": float(len(found)),
        "episodes_lost": float(expected - len(found)),
        "episode_bytes": quantile([row["size"] for row in found], 0.5),
        "episodes_each_second": len(found) / wall,
    }
    for name, ends in {
        "end_to_bus": ("ended_at", "received_at"),
        "bus_to_catalogue": ("received_at", "catalogued_at"),
        "catalogue_to_sampleable": ("catalogued_at", "sampleable_at"),
    }.items():
        figures[f"{name}_p50_s"] = quantile(between(*ends), 0.5)
        figures[f"{name}_p99_s"] = quantile(between(*ends), 0.99)
    return figures


def _snapshots(made: Fleet, store: str, size: int, count: int, name: str) -> dict[str, float]:
    """Snapshots published one after another: from the announcement until each robot has verified and loaded it."""
    folder = made.folder / f"{name}-{store}"
    url, objects = made.database(f"{name}_{store}"), _objects(made, store, folder)
    service = {"catalogue": url, "objects": objects, "credential": made.credentials["coordinator"]}
    served = Part("coordinator", folder / "coordinator", service)
    following = {"credentials": made.folder, "shared_folder": store == "folder", "count": count}
    groups = [made.robots[i::PROCESSES] for i in range(min(PROCESSES, len(made.robots)))]
    taking = [
        Part("followers", folder / f"followers-{i}", {**following, "robots": names})
        for i, names in enumerate(groups)
    ]
    announced: dict[str, float] = {}
    with parts([served, *taking]), Catalogue(url) as catalogue, made.credential("learner").link() as link:
        channel = NatsChannel(link, made.key.public_key())
        snapshots = SnapshotStore(ObjectStore(objects), catalogue, made.key)
        for i in range(count):
            arrays, meta = policy_arrays(size, i)
            snapshot = snapshots.publish(arrays, i, None, meta)
            del arrays
            announced[str(snapshot.number)] = time.time()
            channel.announce(snapshot)
            time.sleep(1.0 if size < 10_000_000 else 20.0)
        channel.close()
        loaded = [times for part in taking for times in part.result(600.0)["loaded"].values()]
    took = [times[number] - at for times in loaded for number, at in announced.items() if number in times]
    return {
        f"{name}_p50_s": quantile(took, 0.5),
        f"{name}_p99_s": quantile(took, 0.99),
        f"{name}_worst_s": max(took),
        f"{name}_loads": float(len(took)),
        f"{name}_skipped": float(len(announced) * len(loaded) - len(took)),
    }


def _behind_lossy_line(count: int) -> dict[str, float]:
    """As `_episodes` through S3, each robot in a network namespace of its own behind an emulated line."""
    with lossy_line.lines(ROBOTS // 2) as lines, fleet(len(lines.prefixes), s3=True, host=lines.host) as made:
        figures = _episodes(made, "s3", count, PER_SECOND / 2, lines.prefixes)
        return {
            **figures,
            "robots": float(len(lines.prefixes)),
            "packets_dropped": float(lines.dropped()),
            "round_trip_s": lines.round_trip_s(),
        }


def _plain_put(made: Fleet, count: int = 20) -> float:
    """What moto alone takes for the same bytes: P50 of a plain PUT, one after another."""
    bucket = made.bucket("plain").partition("?")[0].removeprefix("s3://")
    assert made.s3 is not None
    took: list[float] = []
    for i in range(count):
        data = os.urandom(EPISODE_BYTES)
        url = f"{made.s3.url}/{bucket}/{i}"
        began = time.perf_counter()
        # Without a type it is sent, and parsed there, as a form.
        headers = {"content-type": "application/octet-stream"}
        request = urllib.request.Request(url, data=data, headers=headers, method="PUT")
        urllib.request.urlopen(request, timeout=600).close()
        took.append(time.perf_counter() - began)
    return quantile(took, 0.5)


def _objects(made: Fleet, store: str, folder: Path) -> str:
    return str(folder / "objects") if store == "folder" else made.bucket(folder.name.replace("_", "-"))


def _until_catalogued(url: str, count: int, timeout_s: float = 900.0) -> None:
    """Until so many episodes are catalogued and have a manifest, or time is over: what is missing is counted as lost."""
    deadline = time.monotonic() + timeout_s
    with Catalogue(url) as catalogue:
        while catalogue.newest_seq() < count and time.monotonic() < deadline:
            time.sleep(0.2)
    time.sleep(1.0)


def _named(prefix: str, figures: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in figures.items()}
