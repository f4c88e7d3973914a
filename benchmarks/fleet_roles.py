"""The processes of a benchmark's fleet: `python -m benchmarks.fleet_roles ROLE FOLDER`. They run lwd's own parts."""

from __future__ import annotations

import heapq
import io
import json
import logging
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.episodes import random_episode
from lwd.episode import Episode, Source
from lwd.fleet.coordinator import COMMIT_EVERY_S
from lwd.fleet.credential import load_credential
from lwd.fleet.robot_policy import PolicyFollower, SnapshotCache
from lwd.fleet.telemetry import Telemetry
from lwd.instruction import InstructionEncoder
from lwd.log.calls import NatsCalls
from lwd.log.catalogue import Catalogue
from lwd.log.coordinator import Coordinator
from lwd.log.granted_objects import GrantedObjects
from lwd.log.grants import Grants
from lwd.log.nats_bus import NatsBus
from lwd.log.objects import ObjectStore
from lwd.log.writer import EdgeClient
from lwd.replay import Replay, ReplayConfig
from lwd.replay.reader import Reader
from lwd.snapshot.nats_channel import NatsChannel
from lwd.spec import CameraSpec, RobotSpec, TaskSpec

CAMERA = CameraSpec(name="wrist", height=96, width=128)
SMALL = RobotSpec(name="bench", proprio_dim=6, action_dim=3, control_hz=10.0, chunk_steps=5)
SEEING = RobotSpec(
    name="bench-seeing", proprio_dim=6, action_dim=3, control_hz=10.0, chunk_steps=5, cameras=(CAMERA,)
)
TASK = TaskSpec(
    name="drawer", instruction="open the drawer", milestones=("open",), time_limit_steps=400, horizon="short"
)
POLL_S = 0.02
SMALL_STEPS = 10
DRAIN_S = 600.0
LOOK_S = 0.002
"""Between two looks at the spools of a process, for each of its clients."""

Config = Mapping[str, Any]


def episode(robot: str, size: int) -> Episode:
    """An episode of about `size` bytes: small ones without pictures, large ones with a camera."""
    rng = np.random.default_rng()
    if size < 100_000:
        return random_episode(SMALL, TASK, SMALL_STEPS, rng, source=Source.ONLINE, robot=robot)
    picture = _noise()
    steps = max(1, round(size / (len(picture) + 250)) - 1)
    images = {CAMERA.name: [picture] * (steps + 1)}
    return random_episode(SEEING, TASK, steps, rng, source=Source.ONLINE, robot=robot, images=images)


def _noise(kept: list[bytes] = []) -> bytes:  # noqa: B006 - made once
    if not kept:
        pixels = np.random.default_rng(0).integers(0, 256, (CAMERA.height, CAMERA.width, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=75)
        kept.append(buffer.getvalue())
    return kept[0]


def coordinator(config: Config, stop: threading.Event, ready: Callable[[], None]) -> dict[str, Any]:
    """The coordinator with its grants, as `lwd coordinator` runs it, without statuses."""
    with (
        Catalogue(config["catalogue"]) as catalogue,
        load_credential(Path(config["credential"])).link() as link,
    ):
        objects, bus = ObjectStore(config["objects"]), NatsBus(link)
        specs = {spec.name: spec for spec in (SMALL, SEEING)}
        worker = Coordinator(catalogue, bus, objects, specs, {TASK.name: TASK})
        grants = Grants(catalogue, objects).serve(NatsCalls(link))
        bus.prepare()
        ready()
        before = _cpu_s()
        worker.run(stop, commit_every_s=COMMIT_EVERY_S)
        grants.close()
        return {"cpu_s": _cpu_s() - before, "memory_mib": _peak_mib()}


def reader(config: Config, stop: threading.Event, ready: Callable[[], None]) -> dict[str, Any]:
    """A learner's host without the learner: follows the manifests, notes when each episode can be sampled."""
    found: list[dict[str, Any]] = []
    with Catalogue(config["catalogue"]) as catalogue:
        folder = Path(config["folder"]) / "replay"
        replay = Replay(folder, SEEING, [TASK], InstructionEncoder(), ReplayConfig())
        follower = Reader(catalogue, ObjectStore(config["objects"]), replay)
        seen = 0
        ready()
        while True:
            last = stop.is_set()
            follower.refresh()
            if replay.last_number > seen:
                assert replay.view().episodes[-1]["number"] == replay.last_number
                now = time.time()
                for row in catalogue.episodes(after_seq=seen, upto_seq=replay.last_number):
                    times = {
                        name: getattr(row, name) for name in ("ended_at", "received_at", "catalogued_at")
                    }
                    found.append({**times, "sampleable_at": now, "size": row.size})
                seen = replay.last_number
            if last:
                replay.close()
                return {"episodes": found}
            stop.wait(POLL_S)


def robots(config: Config, stop: threading.Event, ready: Callable[[], None]) -> dict[str, Any]:
    """Edge clients that finish `episodes` episodes each: one every `every_s` on average, 0 for as fast as they deliver."""
    with ExitStack() as stack:
        clients: list[EdgeClient] = []
        for name in config["robots"]:
            link = stack.enter_context(load_credential(Path(config["credentials"]) / f"{name}.json").link())
            objects = GrantedObjects(NatsCalls(link), name, files=config["shared_folder"])
            stack.callback(objects.close)
            spool = Path(config["folder"]) / "spool" / name
            client = stack.enter_context(EdgeClient(spool, objects, NatsBus(link), name))
            client.start()
            clients.append(client)
        episode("warm", config["size"])
        ready()
        _wait_go(config)
        cpu, began = _cpu_s(), time.time()
        (_steadily if config["every_s"] else _flat_out)(clients, config, stop)
        submitted = time.time()
        deadline = time.monotonic() + DRAIN_S
        while any(client.pending()[0] for client in clients) and time.monotonic() < deadline:
            time.sleep(0.1)
        left = sum(client.pending()[0] for client in clients)
        times = {"began_at": began, "submitted_at": submitted, "delivered_at": time.time()}
        return {**times, "undelivered": left, "cpu_s": _cpu_s() - cpu, "memory_mib": _peak_mib()}


def _steadily(clients: list[EdgeClient], config: Config, stop: threading.Event) -> None:
    """Episodes at random times, `every_s` apart for each client on average."""
    rng, every = random.Random(config["seed"]), config["every_s"]
    due = [(rng.uniform(0, every), index, 1) for index in range(len(clients))]
    heapq.heapify(due)
    began = time.monotonic()
    while due and not stop.is_set():
        at, index, count = heapq.heappop(due)
        waiting = episode(clients[index].robot, config["size"])
        stop.wait(max(0.0, began + at - time.monotonic()))
        clients[index].submit(waiting)
        if count < config["episodes"]:
            heapq.heappush(due, (at + rng.uniform(0.5, 1.5) * every, index, count + 1))


def _flat_out(clients: list[EdgeClient], config: Config, stop: threading.Event) -> None:
    """Each client has the next episode finished when it has delivered the one before."""
    left = {index: config["episodes"] for index in range(len(clients))}
    while left and not stop.is_set():
        idle = [index for index in left if clients[index].pending()[0] < 2]
        for index in idle:
            clients[index].submit(episode(clients[index].robot, config["size"]))
            left[index] -= 1
            if not left[index]:
                del left[index]
        # Looking at a spool reads its folder; clients that share a process would do little else.
        time.sleep(LOOK_S * len(left))


def followers(config: Config, stop: threading.Event, ready: Callable[[], None]) -> dict[str, Any]:
    """Robots that follow the snapshots up to number `count`; notes when each was verified and loaded."""
    loaded: dict[str, dict[int, float]] = {name: {} for name in config["robots"]}
    with ExitStack() as stack:
        following: dict[str, PolicyFollower] = {}
        for name in config["robots"]:
            credential = load_credential(Path(config["credentials"]) / f"{name}.json")
            link, key = stack.enter_context(credential.link()), credential.snapshot_public_key()
            objects = GrantedObjects(NatsCalls(link), name, files=config["shared_folder"])
            channel = NatsChannel(link, key)
            cache = SnapshotCache(Path(config["folder"]) / name, objects, key, SMALL.name)
            made = PolicyFollower(channel.snapshot, cache, key, SMALL, InstructionEncoder(), Telemetry({}))
            stack.callback(objects.close)
            stack.callback(channel.close)
            stack.callback(made.close)
            following[name] = made
        ready()
        behind = set(following)
        while behind and not stop.wait(0.002):
            for name in list(behind):
                newest = following[name].newest()
                if newest is not None:
                    loaded[name].setdefault(newest.snapshot.number, time.time())
                    if newest.snapshot.number >= config["count"]:
                        behind.discard(name)
    return {"loaded": loaded, "memory_mib": _peak_mib()}


def policy_arrays(size: int, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A state policy of about `size` bytes, as the learner publishes one, and its metadata."""
    rng, depth, encoder = np.random.default_rng(seed), 4, InstructionEncoder()
    flat = SMALL.chunk_steps * SMALL.action_dim
    width = round((size / 4 / (depth - 1)) ** 0.5)
    shapes = {"observe": (SMALL.proprio_dim + encoder.dim, width), "act": (flat + 1, width)}
    shapes |= {f"hidden.{i}": (width, width) for i in range(depth - 1)}
    shapes["out"] = (width, flat)
    arrays = {"normalizer.mean": np.zeros(SMALL.proprio_dim, np.float32)}
    arrays["normalizer.scale"] = np.ones(SMALL.proprio_dim, np.float32)
    for name, shape in shapes.items():
        arrays[f"{name}.weight"] = rng.standard_normal(shape, np.float32)
        arrays[f"{name}.bias"] = np.zeros(shape[1], np.float32)
    meta = {"robot_spec": SMALL.name, "model": "mlp", "acting": "MlpPolicy", "depth": depth, "flow_steps": 10}
    meta |= {"chunk_steps": SMALL.chunk_steps, "instruction_encoder": encoder.version}
    return arrays, meta


def _wait_go(config: Config) -> None:
    while not (Path(config["folder"]) / "go").exists():
        time.sleep(0.01)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


ROLES = {"coordinator": coordinator, "reader": reader, "robots": robots, "followers": followers}


def main(role: str, folder: Path) -> None:
    """Run one role until it is done or told to end, and write what it measured."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    config = json.loads((folder / "config.json").read_text())
    result = ROLES[role](config, stop, (folder / "ready").touch)
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
