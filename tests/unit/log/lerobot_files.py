"""LeRobot data sets for tests, written from the format's description with pyarrow and PyAV; nothing of lwd is used."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FPS = 10


@dataclass
class Recorded:
    """One episode: L frames."""

    task: str
    state: np.ndarray
    action: np.ndarray
    colours: list[tuple[int, int, int]] = field(default_factory=list)
    more: dict[str, np.ndarray] = field(default_factory=dict)


def recorded(frames: int, seed: int = 0, task: str = "open the drawer", **more: np.ndarray) -> Recorded:
    rng = np.random.default_rng(seed)
    return Recorded(
        task=task,
        state=rng.normal(size=(frames, 6)).astype(np.float32),
        action=rng.uniform(-1, 1, (frames, 3)).astype(np.float32),
        colours=[(20 * seed + 30, 200 - 9 * t, 8 * t) for t in range(frames)],
        more=more,
    )


def write_3(root: Path, episodes: list[Recorded], camera: str | None = None, codec: str = "libx264") -> Path:
    """Format 3.0: all episodes in one file of frames and, with a camera, in one video."""
    tasks = list(dict.fromkeys(episode.task for episode in episodes))
    rows, at = [], 0
    for index, episode in enumerate(episodes):
        length = len(episode.state)
        rows.append(
            {
                "episode_index": index,
                "tasks": [episode.task],
                "length": length,
                "data/chunk_index": 0,
                "data/file_index": 0,
                "dataset_from_index": at,
                "dataset_to_index": at + length,
                **({} if camera is None else place_of_video(camera, at, length)),
            }
        )
        at += length
    (root / "data/chunk-000").mkdir(parents=True)
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    frames = [table_of(index, episode, tasks) for index, episode in enumerate(episodes)]
    pq.write_table(pa.concat_tables(frames), root / "data/chunk-000/file-000.parquet")
    pq.write_table(pa.Table.from_pylist(rows), root / "meta/episodes/chunk-000/file-000.parquet")
    table = pa.table({"task_index": list(range(len(tasks))), "__index_level_0__": tasks})
    pq.write_table(table, root / "meta/tasks.parquet")
    if camera is not None:
        path = root / f"videos/{camera}/chunk-000/file-000.mp4"
        write_video(path, [colour for episode in episodes for colour in episode.colours], codec)
    info = {
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    write_info(root, "v3.0", episodes, camera, **info)
    return root


def write_2(root: Path, episodes: list[Recorded], camera: str | None = None) -> Path:
    """Format 2.1: a file of frames and a video per episode, and lists of JSON objects."""
    tasks = list(dict.fromkeys(episode.task for episode in episodes))
    (root / "data/chunk-000").mkdir(parents=True)
    (root / "meta").mkdir()
    lines = []
    for index, episode in enumerate(episodes):
        pq.write_table(table_of(index, episode, tasks), root / f"data/chunk-000/episode_{index:06d}.parquet")
        lines.append({"episode_index": index, "tasks": [episode.task], "length": len(episode.state)})
        if camera is not None:
            write_video(root / f"videos/chunk-000/{camera}/episode_{index:06d}.mp4", episode.colours)
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    numbered = [{"task_index": i, "task": task} for i, task in enumerate(tasks)]
    (root / "meta/tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in numbered))
    info = {
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    write_info(root, "v2.1", episodes, camera, **info)
    return root


def place_of_video(camera: str, at: int, length: int) -> dict[str, Any]:
    return {
        f"videos/{camera}/chunk_index": 0,
        f"videos/{camera}/file_index": 0,
        f"videos/{camera}/from_timestamp": at / FPS,
        f"videos/{camera}/to_timestamp": (at + length) / FPS,
    }


def table_of(index: int, episode: Recorded, tasks: list[str]) -> pa.Table:
    length = len(episode.state)
    columns: dict[str, Any] = {
        "observation.state": pa.array(list(episode.state), pa.list_(pa.float32(), 6)),
        "action": pa.array(list(episode.action), pa.list_(pa.float32())),
        "timestamp": pa.array(np.arange(length) / FPS, pa.float32()),
        "frame_index": np.arange(length),
        "episode_index": np.full(length, index),
        "task_index": np.full(length, tasks.index(episode.task)),
    }
    return pa.table(columns | {name: pa.array(list(values)) for name, values in episode.more.items()})


def write_video(path: Path, colours: list[tuple[int, int, int]], codec: str = "libx264") -> None:
    """One frame of 48 x 64 pixels per colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options={"g": "2"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for colour in colours:
            pixels = np.broadcast_to(np.array(colour, np.uint8), (48, 64, 3))
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24"))
            )
        container.mux(stream.encode())


def write_info(root: Path, version: str, episodes: list[Recorded], camera: str | None, **paths: str) -> None:
    features: dict[str, Any] = {
        "observation.state": {"dtype": "float32", "shape": [6], "names": None},
        "action": {"dtype": "float32", "shape": [3], "names": None},
    }
    for name, values in episodes[0].more.items():
        features[name] = {"dtype": str(values.dtype), "shape": list(values.shape[1:]) or [1], "names": None}
    if camera is not None:
        features[camera] = {"dtype": "video", "shape": [48, 64, 3], "names": ["height", "width", "channels"]}
    info = {
        "codebase_version": version,
        "fps": FPS,
        "chunks_size": 1000,
        "total_episodes": len(episodes),
        "features": features,
        **paths,
    }
    (root / "meta/info.json").write_text(json.dumps(info))
