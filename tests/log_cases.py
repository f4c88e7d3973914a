"""Episodes, specs and a small fleet for the tests of the log and of snapshots."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mcap.writer import CompressionType, Writer
from PIL import Image

from lwd.episode import Episode, EpisodeHeader, Outcome, Source, Verdict
from lwd.log import codec
from lwd.log.bus import CatalogueBus
from lwd.log.catalogue import Catalogue
from lwd.log.coordinator import Coordinator
from lwd.log.events import EpisodeEvent
from lwd.log.objects import ObjectStore
from lwd.log.writer import EdgeClient
from lwd.spec import CameraSpec, RobotSpec, TaskSpec

SPEC = RobotSpec(name="arm", proprio_dim=6, action_dim=3, control_hz=10.0, chunk_steps=5)
CAMERA = CameraSpec(name="wrist", height=8, width=12)
SEEING = dataclasses.replace(SPEC, name="seeing-arm", cameras=(CAMERA,))
TASK = TaskSpec(
    name="drawer", instruction="open the drawer", milestones=("open",), time_limit_steps=100, horizon="short"
)

IDS = [f"0199aa{i:02d}" + "f" * 24 for i in range(3)]
"""Episodes of `run_folder` in tests/unit/conftest.py."""


def make_header(**changes: Any) -> EpisodeHeader:
    values: dict[str, Any] = {
        "task": TASK.name,
        "instruction": TASK.instruction,
        "source": Source.ONLINE,
        "robot": "robot-1",
        "spec": SPEC.name,
        "control_hz": SPEC.control_hz,
        "snapshot": 3,
        "software": "0.1.0",
        "seed": 7,
    }
    return EpisodeHeader(**{**values, **changes})


def make_episode(
    steps: int = 20,
    *,
    seed: int = 0,
    proprio_dim: int = SPEC.proprio_dim,
    action_dim: int = SPEC.action_dim,
    cameras: dict[str, tuple[int, int]] | None = None,
    **header: Any,
) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        header=make_header(**header),
        verdict=Verdict(outcome=Outcome.SUCCESS, stage_score=1.0),
        proprio=rng.normal(size=(steps + 1, proprio_dim)).astype(np.float32),
        actions=rng.uniform(-1, 1, (steps, action_dim)).astype(np.float32),
        interventions=rng.random(steps) < 0.3,
        times_s=np.arange(steps + 1, dtype=np.float64) / SPEC.control_hz,
        images={
            name: [jpeg(*size, shade=i) for i in range(steps + 1)] for name, size in (cameras or {}).items()
        },
    )


def jpeg(height: int, width: int, shade: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (shade * 9 % 256, 40, 90)).save(buffer, "JPEG")
    return buffer.getvalue()


def change(episode: Episode, **changes: Any) -> Episode:
    return dataclasses.replace(episode, **changes)


def record(client: EdgeClient, episode: Episode) -> None:
    """Feed an episode to a client as a robot would."""
    recording = client.begin(episode.header)
    for t in range(episode.steps):
        pictures = {name: episode.images[name][t] for name in episode.images}
        recording.step(
            episode.proprio[t],
            episode.actions[t],
            bool(episode.interventions[t]),
            float(episode.times_s[t]),
            pictures,
        )
    last = {name: episode.images[name][-1] for name in episode.images}
    recording.finish(episode.proprio[-1], float(episode.times_s[-1]), last, episode.verdict)


def forge(
    messages: list[tuple[str, bytes, int]], compression: CompressionType = CompressionType.NONE
) -> bytes:
    """A file with valid framing and CRCs and whatever messages: topic, payload, sequence."""
    buffer = io.BytesIO()
    writer = Writer(buffer, compression=compression, enable_data_crcs=True)
    writer.start()
    channels: dict[str, int] = {}
    for topic, payload, sequence in messages:
        if topic not in channels:
            channels[topic] = writer.register_channel(topic, "cdr", 0)
        writer.add_message(channels[topic], 0, payload, 0, sequence)
    writer.finish()
    return buffer.getvalue()


def forge_parts(messages: dict[str, list[bytes]]) -> bytes:
    return forge(
        [(topic, data, i) for topic, payloads in messages.items() for i, data in enumerate(payloads)]
    )


def assert_equal(left: Episode, right: Episode) -> None:
    """Bit for bit."""
    assert left.header == right.header
    assert left.verdict == right.verdict
    for name in ("proprio", "actions", "interventions", "times_s"):
        a, b = getattr(left, name), getattr(right, name)
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes(), name
    assert {k: list(v) for k, v in left.images.items()} == {k: list(v) for k, v in right.images.items()}


@dataclass
class Fleet:
    """Everything of the log in one folder."""

    folder: Path
    catalogue: Catalogue
    objects: ObjectStore
    bus: CatalogueBus
    coordinator: Coordinator

    def client(self, robot: str = "robot-1", **options: Any) -> EdgeClient:
        return EdgeClient(self.folder / "spool" / robot, self.objects, self.bus, robot, **options)

    def send(self, data: bytes, episode_id: str, robot: str = "robot-1", **changes: Any) -> EpisodeEvent:
        """Deliver raw bytes as if a robot had; the event can be made to lie with `changes`."""
        event = EpisodeEvent(
            episode_id=episode_id, robot=robot, sha256=hashlib.sha256(data).hexdigest(), size=len(data)
        )
        event = dataclasses.replace(event, **changes)
        self.objects.put_once(event.key, data)
        self.bus.publish(event.subject, event.payload())
        return event

    def send_episode(self, episode: Episode) -> EpisodeEvent:
        return self.send(codec.encode(episode), episode.header.episode_id, episode.header.robot)

    def drain(self) -> None:
        while self.coordinator.step().handled:
            pass


@contextmanager
def open_fleet(folder: Path, url: str | None = None) -> Iterator[Fleet]:
    with Catalogue(url or folder / "catalogue.db") as catalogue:
        objects, bus = ObjectStore(folder / "objects"), CatalogueBus(catalogue)
        specs = {spec.name: spec for spec in (SPEC, SEEING)}
        coordinator = Coordinator(catalogue, bus, objects, specs, {TASK.name: TASK})
        yield Fleet(folder, catalogue, objects, bus, coordinator)
