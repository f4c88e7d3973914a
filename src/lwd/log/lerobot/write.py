"""Episodes of the log as a LeRobot data set of format 3.0, for programs that train on those."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from lwd import image
from lwd.episode import Episode
from lwd.errors import ConfigError, EpisodeError, StoreError
from lwd.log import codec
from lwd.log.catalogue import Catalogue, EpisodeRow
from lwd.log.export import ExportReport, chosen, fetch
from lwd.log.lerobot import layout, statistics
from lwd.log.lerobot.statistics import Histogram, Statistics
from lwd.log.objects import ObjectSource
from lwd.log.verify import Problem

FILE_BYTES = 100 * 2**20
"""After so many a file of frames ends and the next begins."""
_FILES_PER_CHUNK = 1000
_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_OURS = ("next.reward", "next.done", layout.SUCCESS, layout.INTERVENTION[0])
_INDICES = ("frame_index", "episode_index", "index", "task_index")


def export_lerobot(
    catalogue: Catalogue,
    objects: ObjectSource,
    folder: Path,
    *,
    kind: str | None = None,
    manifest: int | None = None,
    task: str | None = None,
    source: str | None = None,
    limit: int | None = None,
) -> ExportReport:
    """Write a data set of one kind of robot into a new folder, which appears when it is whole.

    An episode of T control steps has T frames: states, actions in [-1, 1], pictures as recorded, a reward of 1 and
    `next.success` in the last frame of a success, `intervention` where a person commanded. The state after the last action
    has no frame. Id, source, outcome and snapshot are columns of the table of episodes, `lwd/...`.

    Args:
        catalogue: the fleet's.
        objects: holds the episodes.
        folder: must not exist.
        kind: of robots; needed where the log holds several.
        manifest: as in `lwd.log.export.export`; so are task, source and limit.
        task: only this one.
        source: only this one.
        limit: at most so many.

    Raises:
        ConfigError: the folder exists, or no episode or several kinds of robots are asked for.
        StoreError: no such manifest, the store or the catalogue cannot be reached, or the folder cannot be written.
    """
    rows = chosen(catalogue, manifest=manifest, task=task, source=source, limit=limit)
    rows = [row for row in rows if kind is None or row.spec == kind]
    kinds = sorted({row.spec for row in rows})
    if len(kinds) != 1:
        found = (
            f"of the kinds {', '.join(kinds)}; name one with --kind" if kinds else "none; see `lwd log ls`"
        )
        raise ConfigError(f"a LeRobot data set holds episodes of one kind of robot, here they are {found}.")
    if folder.exists():
        raise ConfigError(f"{folder} exists; a LeRobot data set is written as a whole. Name a new folder.")
    part = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)  # of a run that was cut off
        problems = list[Problem]()
        with _Writer(part, kinds[0]) as writer:
            for row in rows:
                if (problem := _add(writer, objects, row)) is not None:
                    problems.append(problem)
            writer.finish()
        os.replace(part, folder)
    except OSError as error:
        raise StoreError(
            f"export: {str(folder)!r} cannot be written: {error.strerror or error}. Make room and run it again."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return ExportReport(episodes=writer.episodes, kept=0, size=size, problems=tuple(problems))


def _add(writer: _Writer, objects: ObjectSource, row: EpisodeRow) -> Problem | None:
    data = fetch(objects, row)
    if isinstance(data, Problem):
        return data
    try:
        writer.add(codec.decode(data), row)
    except EpisodeError as error:
        return Problem(episode_id=row.episode_id, key=row.key, reason=error.reason, detail=error.detail)
    return None


class _Writer:
    """A data set that grows by an episode at a time. Its features are those of the first one."""

    def __init__(self, root: Path, kind: str) -> None:
        self._root, self._kind = root, kind
        self._features, self._fps, self._schema = dict[str, dict[str, Any]](), 0.0, ""
        self._tasks, self._rows, self._frames = dict[str, int](), list[dict[str, Any]](), 0
        self._numbers = dict[str, list[np.ndarray]]()
        self._pictures = dict[str, Histogram]()
        self._file, self._writer, self._number = None, None, -1

    @property
    def episodes(self) -> int:
        """How many it holds."""
        return len(self._rows)

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_file()

    def add(self, episode: Episode, row: EpisodeRow) -> None:
        """Append an episode; EpisodeError if its widths, cameras or rate are not the first one's."""
        features = _features(episode)
        if not self._rows:
            self._features, self._fps = features, episode.header.control_hz
            self._schema = json.dumps(_hugging_face(features))
        if (features, episode.header.control_hz) != (self._features, self._fps):
            raise EpisodeError(
                row.episode_id, "shape", "its widths, cameras or rate are not those of the first episode."
            )
        numbers = self._numbers_of(episode)
        file = self._write_frames(numbers, episode)
        found = {name: statistics.of_numbers(values) for name, values in numbers.items()}
        for name, values in numbers.items():
            self._numbers.setdefault(name, []).append(values)
        for camera, jpegs in episode.images.items():
            histogram = statistics.of_pictures(jpegs[: episode.steps])
            self._pictures.setdefault(layout.PICTURES + camera, Histogram()).add(histogram)
            if histogram.pictures:
                found[layout.PICTURES + camera] = histogram.statistics()
        self._rows.append(self._row(episode, row, file, found))
        self._frames += episode.steps

    def finish(self) -> None:
        """Write what describes the frames; ConfigError if there are none."""
        if not self._rows:
            raise ConfigError("none of the episodes can be read, so there is nothing to export.")
        self._close_file()
        arrow, parquet = layout.pyarrow()
        (self._root / layout.EPISODES / "chunk-000").mkdir(parents=True)
        columns = list(dict.fromkeys(name for row in self._rows for name in row))
        table = arrow.table({name: [row.get(name) for row in self._rows] for name in columns})
        parquet.write_table(
            table, self._root / layout.EPISODES / "chunk-000/file-000.parquet", row_group_size=1000
        )
        parquet.write_table(self._tasks_table(arrow), self._root / layout.TASKS)
        _write_json(self._root / layout.INFO, self._info())
        found = {
            name: statistics.of_numbers(np.concatenate(values)) for name, values in self._numbers.items()
        }
        found |= {
            name: histogram.statistics() for name, histogram in self._pictures.items() if histogram.pictures
        }
        _write_json(self._root / layout.STATS, found)

    def _numbers_of(self, episode: Episode) -> dict[str, np.ndarray]:
        """Every feature that is no picture, [T] or [T, width], in the order of the table."""
        steps, index, header = episode.steps, np.arange(episode.steps, dtype=np.int64), episode.header
        last = index == steps - 1
        task = self._tasks.setdefault(header.instruction, len(self._tasks))
        return {
            layout.STATE: episode.proprio[:-1],
            layout.ACTION: episode.actions,
            "next.reward": (last & episode.success).astype(np.float32),
            "next.done": last,
            layout.SUCCESS: last & episode.success,
            layout.INTERVENTION[0]: episode.interventions,
            "timestamp": (index / header.control_hz).astype(np.float32),
            "frame_index": index,
            "episode_index": np.full(steps, self.episodes, np.int64),
            "index": index + self._frames,
            "task_index": np.full(steps, task, np.int64),
        }

    def _write_frames(self, numbers: Mapping[str, np.ndarray], episode: Episode) -> int:
        """Append a row group; the number of the file that it is in."""
        arrow, parquet = layout.pyarrow()
        columns = {name: _column(arrow, values) for name, values in numbers.items()}
        for camera, jpegs in episode.images.items():
            kind = arrow.struct({"bytes": arrow.binary(), "path": arrow.string()})
            pictures = [{"bytes": jpeg, "path": None} for jpeg in jpegs[: episode.steps]]
            columns[layout.PICTURES + camera] = arrow.array(pictures, kind)
        table = arrow.table(columns).replace_schema_metadata({"huggingface": self._schema})
        if self._file is not None and self._file.tell() >= FILE_BYTES:
            self._close_file()
        if self._writer is None:
            self._number += 1
            path = self._root / _DATA.format(**_place(self._number))
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb")
            self._writer = parquet.ParquetWriter(self._file, table.schema)
        self._writer.write_table(table)
        return self._number

    def _row(
        self, episode: Episode, row: EpisodeRow, file: int, found: Mapping[str, Statistics]
    ) -> dict[str, Any]:
        place = _place(file)
        return {
            "episode_index": self.episodes,
            "tasks": [episode.header.instruction],
            "length": episode.steps,
            "data/chunk_index": place["chunk_index"],
            "data/file_index": place["file_index"],
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + episode.steps,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
            "lwd/episode_id": row.episode_id,
            "lwd/source": row.source,
            "lwd/outcome": row.outcome,
            "lwd/snapshot": row.snapshot,
            **statistics.flat(found),
        }

    def _info(self) -> dict[str, Any]:
        return {
            "codebase_version": "v3.0",
            "robot_type": self._kind,
            "total_episodes": self.episodes,
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": _FILES_PER_CHUNK,
            "data_files_size_in_mb": FILE_BYTES // 2**20,
            "video_files_size_in_mb": 200,
            "fps": int(self._fps) if self._fps == int(self._fps) else self._fps,
            "splits": {"train": f"0:{self.episodes}"},
            "data_path": _DATA,
            "video_path": None,
            "features": self._features,
        }

    def _tasks_table(self, arrow: Any) -> Any:
        """`task_index` by sentence, which pandas takes for the index."""
        described = [
            {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
            for name, kind, numpy in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
        ]
        columns = {
            "name": None,
            "field_name": None,
            "pandas_type": "unicode",
            "numpy_type": "object",
            "metadata": {"encoding": "UTF-8"},
        }
        pandas = {
            "index_columns": ["task"],
            "column_indexes": [columns],
            "columns": described,
            "pandas_version": "2.0.0",
        }
        numbers = np.arange(len(self._tasks), dtype=np.int64)
        table = arrow.table({"task_index": numbers, "task": list(self._tasks)})
        return table.replace_schema_metadata({"pandas": json.dumps(pandas)})

    def _close_file(self) -> None:
        with suppress(OSError):  # of a full disk, which the write has told already
            if self._writer is not None:
                self._writer.close()
        if self._file is not None:
            self._file.close()
        self._file = self._writer = None


def _features(episode: Episode) -> dict[str, dict[str, Any]]:
    """What `info.json` says of each column."""

    def one(dtype: str) -> dict[str, Any]:
        return {"dtype": dtype, "shape": [1], "names": None}

    vectors = {layout.STATE: ("state", episode.proprio), layout.ACTION: ("action", episode.actions)}
    features: dict[str, dict[str, Any]] = {
        name: {
            "dtype": "float32",
            "shape": [array.shape[1]],
            "names": [f"{word}_{i}" for i in range(array.shape[1])],
        }
        for name, (word, array) in vectors.items()
    }
    features |= {name: one("float32" if name == "next.reward" else "bool") for name in _OURS}
    features |= {"timestamp": one("float32")} | {name: one("int64") for name in _INDICES}
    for camera, jpegs in episode.images.items():
        height, width = image.jpeg_size(jpegs[0]) or (0, 0)
        features[layout.PICTURES + camera] = {
            "dtype": "image", "shape": [height, width, 3], "names": ["height", "width", "channels"]
        }  # fmt: skip
    return features


def _hugging_face(features: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the library `datasets` reads of the columns; without it pictures would be plain bytes there."""
    columns: dict[str, Any] = {}
    for name, feature in features.items():
        value: dict[str, Any] = {"dtype": feature["dtype"], "_type": "Value"}
        if feature["dtype"] == "image":
            value = {"_type": "Image"}
        elif name in (layout.STATE, layout.ACTION) and feature["shape"] != [1]:
            value = {"feature": value, "length": feature["shape"][0], "_type": "Sequence"}
        columns[name] = value
    return {"info": {"features": columns}}


def _column(arrow: Any, values: np.ndarray) -> Any:
    if values.ndim == 1 or values.shape[1] == 1:
        return arrow.array(values.ravel())
    return arrow.FixedSizeListArray.from_arrays(
        arrow.array(np.ascontiguousarray(values).ravel()), values.shape[1]
    )


def _place(file: int) -> dict[str, int]:
    chunk, index = divmod(file, _FILES_PER_CHUNK)
    return {"chunk_index": chunk, "file_index": index}


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=4, ensure_ascii=False), encoding="utf-8")
