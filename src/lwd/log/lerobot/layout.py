"""Where a LeRobot data set keeps what: `meta/info.json`, the tasks, the episodes, and their files."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from lwd.errors import ConfigError

INFO, STATS = "meta/info.json", "meta/stats.json"
TASKS, TASKS_2 = "meta/tasks.parquet", "meta/tasks.jsonl"
EPISODES, EPISODES_2 = "meta/episodes", "meta/episodes.jsonl"

STATE, ACTION, SUCCESS = "observation.state", "action", "next.success"
PICTURES = "observation.images."
INTERVENTION = ("intervention", "is_intervention", "complementary_info.is_intervention")
"""Where data sets with corrections flag a person's frames: ours, and two that LeRobot's own tools have used."""

_READABLE = ("v2.0", "v2.1", "v3.0")
_MAX_JSON_BYTES = 64 * 2**20
_FIELD = re.compile(r"\{(\w+)(?::0(\d)d)?\}")
"""What stands for a number or a name in a file's pattern, such as {file_index:03d}."""


@dataclass(frozen=True, kw_only=True)
class Video:
    """Where an episode's pictures of one camera are: a file, and the second at which they begin in it."""

    path: Path
    from_s: float


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One episode of a data set: its number, its sentences, how many frames, and the file with its rows."""

    index: int
    tasks: tuple[str, ...]
    length: int
    data: Path
    videos: Mapping[str, Video] = field(default_factory=dict[str, Video])


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What the files under `meta/` say.

    Attributes:
        root: the data set's folder.
        version: "v2.0", "v2.1" or "v3.0".
        fps: frames per second.
        features: by name, what `info.json` says of each: `dtype`, `shape`, `names`.
        entries: the episodes in their order.
    """

    root: Path
    version: str
    fps: float
    features: Mapping[str, Mapping[str, Any]]
    entries: tuple[Entry, ...]

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the features that are pictures, as files of their own or in the tables."""
        return tuple(name for name, f in self.features.items() if f.get("dtype") in ("image", "video"))


def open_dataset(root: Path) -> Dataset:
    """Read what a folder says of itself; the frames stay where they are.

    Raises:
        ConfigError: it is no LeRobot data set, one of a version that is not read, or its files contradict each other.
    """
    if not (root / INFO).is_file():
        raise ConfigError(
            f"{root} is no LeRobot data set: it has no {INFO}. Name the folder that holds data/ and meta/."
        )
    info = _object(root / INFO)
    version = info.get("codebase_version")
    if version not in _READABLE:
        raise ConfigError(
            f"{root / INFO}: codebase_version is {version!r:.40}; {', '.join(_READABLE)} can be read, and LeRobot has "
            "converters for older ones."
        )
    fps, features = info.get("fps"), info.get("features")
    if not isinstance(fps, int | float) or not math.isfinite(fps) or fps <= 0:
        raise ConfigError(f"{root / INFO}: fps is {fps!r:.40}, expected frames per second.")
    if not isinstance(features, dict) or not all(isinstance(f, dict) for f in features.values()):
        raise ConfigError(f"{root / INFO}: features is no table of names.")
    read = _entries_3 if version == "v3.0" else _entries_2
    entries = read(root, info, [name for name, f in features.items() if f.get("dtype") == "video"])
    return Dataset(root=root, version=version, fps=float(fps), features=features, entries=tuple(entries))


def table(path: Path, columns: Sequence[str] | None = None) -> Any:
    """A parquet file as a `pyarrow.Table`; ConfigError if it cannot be read or lacks a column."""
    arrow, parquet = pyarrow()
    try:
        with parquet.ParquetFile(path) as file:
            missing = sorted(set(columns or ()) - set(file.schema_arrow.names))
            if missing:
                raise ConfigError(
                    f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(file.schema_arrow.names)[:300]}."
                )
            return file.read(None if columns is None else list(columns))
    except (OSError, arrow.ArrowException) as error:
        raise ConfigError(f"{path} cannot be read: {str(error)[:200]}") from error


def _entries_3(root: Path, info: Mapping[str, Any], cameras: Sequence[str]) -> list[Entry]:
    paths = sorted((root / EPISODES).glob("*/*.parquet"))
    places = ["data/chunk_index", "data/file_index"]
    for camera in cameras:
        places += [f"videos/{camera}/{what}" for what in ("chunk_index", "file_index", "from_timestamp")]
    entries: list[Entry] = []
    for path in paths:
        for row in table(path, ["episode_index", "tasks", "length", *places]).to_pylist():
            try:
                entries.append(_entry_3(root, info, cameras, row))
            except (TypeError, ValueError) as error:
                raise ConfigError(f"{path}: an episode's row does not fit: {error}") from error
    return sorted(entries, key=lambda entry: entry.index)


def _entry_3(root: Path, info: Mapping[str, Any], cameras: Sequence[str], row: Mapping[str, Any]) -> Entry:
    def place(template: str, prefix: str, **names: str) -> Path:
        chunk, file = int(row[f"{prefix}/chunk_index"]), int(row[f"{prefix}/file_index"])
        return _path(root, info, template, chunk_index=chunk, file_index=file, **names)

    return Entry(
        index=int(row["episode_index"]),
        tasks=tuple(str(task) for task in row["tasks"]),
        length=int(row["length"]),
        data=place("data_path", "data"),
        videos={
            camera: Video(
                path=place("video_path", f"videos/{camera}", video_key=camera),
                from_s=float(row[f"videos/{camera}/from_timestamp"]),
            )
            for camera in cameras
        },
    )


def _entries_2(root: Path, info: Mapping[str, Any], cameras: Sequence[str]) -> list[Entry]:
    size = info.get("chunks_size", 1000)
    if not isinstance(size, int) or size < 1:
        raise ConfigError(f"{root / INFO}: chunks_size is {size!r:.40}, expected a positive integer.")
    entries: list[Entry] = []
    for row in _objects(root / EPISODES_2):
        try:
            index, length, tasks = int(row["episode_index"]), int(row["length"]), row["tasks"]
            if not isinstance(tasks, list):
                raise ValueError(f"tasks is {tasks!r:.80}, expected a list of sentences")
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{root / EPISODES_2}: a row does not fit: {error}") from error
        where = {"episode_index": index, "episode_chunk": index // size}
        entries.append(
            Entry(
                index=index,
                tasks=tuple(map(str, cast(list[object], tasks))),
                length=length,
                data=_path(root, info, "data_path", **where),
                videos={
                    camera: Video(path=_path(root, info, "video_path", video_key=camera, **where), from_s=0.0)
                    for camera in cameras
                },
            )
        )
    return sorted(entries, key=lambda entry: entry.index)


def _path(root: Path, info: Mapping[str, Any], template: str, **names: int | str) -> Path:
    """A file of the data set. What `info.json` says of it is somebody else's text, and must not lead out of the folder."""
    said, where = info.get(template), f"{root / INFO}: {template}"
    if not isinstance(said, str):
        raise ConfigError(f"{where} is {said!r:.80}, expected a pattern of a file's name.")

    def filled(found: re.Match[str]) -> str:
        name, digits = found.groups()
        if name not in names:
            raise ConfigError(f"{where} is {said!r:.200}; known in it: {', '.join(names)}.")
        return str(names[name]).zfill(int(digits or 0))

    path = (root / _FIELD.sub(filled, said)).resolve()
    if not path.is_relative_to(root.resolve()):
        raise ConfigError(f"{where} is {said!r:.200}, which leads out of the data set.")
    return path


def _object(path: Path) -> dict[str, Any]:
    found = _json(path, _text(path))
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is no JSON object.")
    return cast(dict[str, Any], found)


def _objects(path: Path) -> list[dict[str, Any]]:
    rows = [_json(path, line) for line in _text(path).splitlines() if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"{path} has a line that is no JSON object.")
    return cast(list[dict[str, Any]], rows)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ConfigError(f"{path} has more than {_MAX_JSON_BYTES} bytes.")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def _json(path: Path, text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {str(error)[:80]}") from error


def pyarrow() -> tuple[Any, Any]:
    """The modules `pyarrow` and `pyarrow.parquet`; ConfigError where they are not installed."""
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ConfigError('LeRobot data sets need pyarrow and PyAV: pip install "lwd[lerobot]".') from error
    return arrow, parquet
