"""The replay's arrays on disk: larger than memory, appended episode by episode, readable again after a crash.

A folder holds flat step arrays (T + 1 rows per episode, so that one row number serves states and actions),
the instructions, the episode table, and of a robot with cameras a file of pictures per episode. An append
writes pictures, steps, instruction, then one sealed table row: whatever a crash leaves behind without its row
is invisible and is overwritten by the next append.
The folder is a cache: if it is lost or does not fit, it is rebuilt from the log.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lwd.episode import Episode, Source
from lwd.errors import StoreError
from lwd.replay import table
from lwd.replay.admission import admit
from lwd.replay.files import ArrayFile, Sentences
from lwd.replay.folder import check_meta, folder_lock
from lwd.replay.images import PictureStore
from lwd.replay.returns import chunks_to_takeover
from lwd.spec import RobotSpec, TaskSpec

STEP_HUMAN = np.uint8(1)
"""Bit of `Columns.flags`: a human commanded this step. Folders of older versions have another one, which nothing reads."""


class Columns(NamedTuple):
    """The step arrays, read-only maps; row = the episode's `first` + control step. Row T of an episode is its
    last state.

    Attributes:
        proprio: float32 [rows, P].
        actions: float32 [rows, A]; row T repeats the last action.
        flags: uint8 [rows], STEP_HUMAN.
        takeover: uint16 [rows], `returns.chunks_to_takeover`.
        pictures: per camera int64 [rows, 2], file and record of its picture (`PictureStore`); the cameras of
            a robot share their records, and so the array.
    """

    proprio: NDArray[np.float32]
    actions: NDArray[np.float32]
    flags: NDArray[np.uint8]
    takeover: NDArray[np.uint16]
    pictures: dict[str, NDArray[np.int64]]


class Store:
    """One folder of episodes of one robot kind. One process at a time may hold it; appends come from one
    thread.

    Args:
        folder: created if missing; reopened with everything that was appended completely.
        spec: the robot kind, which fixes P, A, H and the cameras.
        tasks: the fleet's tasks; their order gives `Transition.task`. Tasks may be added at the end, never
            reordered.
        image_side: pictures come out as [side, side, 3], resized with padding; None: as recorded.
        decode_threads: that read and decode pictures, None for one per core.

    Raises:
        StoreError: the folder belongs to another spec, task list or process, or is damaged.
    """

    def __init__(
        self,
        folder: Path | str,
        spec: RobotSpec,
        tasks: Sequence[TaskSpec],
        image_side: int | None = None,
        decode_threads: int | None = None,
    ) -> None:
        self.folder, self.spec, self.tasks = Path(folder), spec, tuple(tasks)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = folder_lock(self.folder)
        try:
            check_meta(self.folder, spec, self.tasks)
            self._table_file = ArrayFile(self.folder / "episodes.table", "u1", (table.ROW.itemsize,))
            self._proprio = ArrayFile(self.folder / "proprio.f32", "<f4", (spec.proprio_dim,))
            self._actions = ArrayFile(self.folder / "actions.f32", "<f4", (spec.action_dim,))
            self._flags = ArrayFile(self.folder / "flags.u8", "u1")
            self._takeover = ArrayFile(self.folder / "takeover.u16", "<u2")
            self._pictures: PictureStore | None = None
            if spec.cameras:
                self._places = ArrayFile(self.folder / "pictures.i64", "<i8", (2,))
                folder = self.folder / "pictures"
                self._pictures = PictureStore(folder, spec.cameras, image_side, decode_threads)
            self._sentences = Sentences(self.folder / "instructions.jsonl")
            self._task_index = {task.name: index for index, task in enumerate(self.tasks)}
            self._load()
        except BaseException:
            self.close()
            raise

    @property
    def count(self) -> int:
        """Number of episodes."""
        return self._count

    @property
    def rows(self) -> int:
        """Rows in use: control steps plus one per episode."""
        last = self._table[self._count - 1] if self._count else None
        return 0 if last is None else int(last["first"]) + int(last["steps"]) + 1

    @property
    def episodes(self) -> table.Table:
        """The table of `table.ROW`, read-only and frozen: appends after this call do not change it."""
        rows = self._table[: self._count]
        rows.flags.writeable = False
        return rows

    @property
    def instructions(self) -> tuple[str, ...]:
        """The sentences that the table's `instruction` points into."""
        return tuple(self._sentences.items)

    def __contains__(self, episode_id: object) -> bool:
        """Whether an episode with this id was appended."""
        return episode_id in self._ids

    def append(self, episode: Episode, number: int, manifest: int, closes: bool = True) -> bool:
        """Add an episode at the end; True if it is new, False if its id is here already.

        Args:
            episode: validated against the spec and the tasks here once more.
            number: its place in the log; must grow.
            manifest: the first manifest that contains it; must not shrink.
            closes: whether it is the last episode of that manifest, which makes the manifest complete.

        Raises:
            EpisodeError: it does not fit (reasons: spec, task, shape, nan, schema).
            StoreError: the numbers go backwards, or the disk refuses.
        """
        if episode.header.episode_id in self._ids:
            return False
        if self._count and (
            number <= self._table[self._count - 1]["number"] or manifest < self.last_manifest
        ):
            raise StoreError(
                f"episode {episode.header.episode_id}: number {number} of manifest {manifest} comes after "
                f"number {self._table[self._count - 1]['number']} of manifest {self.last_manifest}; appends "
                "go forward only."
            )
        pictures = admit(episode, self.spec, self._task_index)
        first = self.rows
        crc = self._write_steps(first, episode)
        if self._pictures is not None:
            self._pictures.write(self._count, pictures)
            records = np.arange(episode.steps + 1)
            self._places.write(first, np.stack([np.full_like(records, self._count), records], axis=1))
        row = np.zeros(1, table.ROW)
        row["first"], row["number"], row["manifest"], row["steps"] = first, number, manifest, episode.steps
        row["instruction"] = self._sentences.index(episode.header.instruction)
        row["task"] = self._task_index[episode.header.task]
        row["snapshot"] = -1 if episode.header.snapshot is None else episode.header.snapshot
        row["closes"], row["human_steps"] = closes, int(np.count_nonzero(episode.interventions))
        row["source"] = table.SOURCES.index(Source(episode.header.source))
        row["outcome"] = table.outcome_code(episode)
        row["stage_score"], row["seconds"] = episode.verdict.stage_score, episode.cycle_time_s
        row["episode_id"], row["data_crc"] = episode.header.episode_id.encode(), crc
        # Last, and in one piece: this row is what makes the episode exist.
        self._table_file.write(self._count, np.frombuffer(table.seal(row).tobytes(), np.uint8))
        self._remember(row[0])
        return True

    @property
    def last_manifest(self) -> int:
        """The manifest of the newest episode, 0 without one."""
        return int(self._table[self._count - 1]["manifest"]) if self._count else 0

    @property
    def complete_manifest(self) -> int:
        """The newest manifest of which all episodes are here: one less while its last one is missing."""
        return self.last_manifest - (0 if not self._count or self._table[self._count - 1]["closes"] else 1)

    def columns(self) -> Columns:
        """Maps of all step arrays as of now."""
        rows = self.rows
        places = None if self._pictures is None else self._places.map(rows)
        return Columns(
            self._proprio.map(rows),
            self._actions.map(rows),
            self._flags.map(rows),
            self._takeover.map(rows),
            {} if places is None else {camera.name: places for camera in self.spec.cameras},
        )

    def pictures(self, camera: str, places: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Decode one camera's pictures at places [..., 2] of `Columns.pictures`; uint8 [..., h, w, 3]."""
        assert self._pictures is not None
        return self._pictures.read(places, [camera])[camera]

    def all_pictures(self, places: NDArray[np.int64]) -> dict[str, NDArray[np.uint8]]:
        """Decode all cameras' pictures at places [..., 2]; uint8 [..., h, w, 3] per camera, empty without cameras."""
        return {} if self._pictures is None else self._pictures.read(places)

    def verify(self, last: int | None = None) -> None:
        """Compare the step arrays and pictures of the last `last` episodes (default: all) with their checksums;
        StoreError if any differs.
        """
        for row in self.episodes[-last:] if last else self.episodes:
            if self._pictures is not None:
                file = int(np.searchsorted(self.episodes["first"], row["first"]))
                self._pictures.verify(file, int(row["steps"]) + 1)
            if not self._intact(row):
                raise StoreError(
                    f"{self.folder}: episode {row['episode_id'].decode()} is damaged on disk. Delete the "
                    "folder; it is rebuilt from the log."
                )

    def flush(self) -> None:
        """Force everything to the disk, the table last; only a power failure needs it."""
        for file in (
            *(() if self._pictures is None else (self._places,)),  # the pictures were synced as they came
            self._proprio,
            self._actions,
            self._flags,
            self._takeover,
            self._table_file,
        ):
            file.flush()

    def close(self) -> None:
        """Close all files and release the folder; maps that were handed out stay valid, pictures do not."""
        for name in ("_pictures", "_places", "_proprio", "_actions", "_flags", "_takeover", "_table_file"):
            if self.__dict__.get(name) is not None:
                self.__dict__[name].close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _write_steps(self, first: int, episode: Episode) -> int:
        """Write the T + 1 rows; their checksum."""
        interventions = np.asarray(episode.interventions, np.bool_)
        flags, takeover = np.zeros(episode.steps + 1, np.uint8), np.zeros(episode.steps + 1, np.uint16)
        flags[:-1] = interventions * STEP_HUMAN
        takeover[:-1] = chunks_to_takeover(interventions, self.spec.chunk_steps)
        proprio = np.ascontiguousarray(episode.proprio, np.float32)
        actions = np.concatenate((episode.actions, episode.actions[-1:])).astype(np.float32)
        self._proprio.write(first, proprio)
        self._actions.write(first, actions)
        self._flags.write(first, flags)
        self._takeover.write(first, takeover)
        return _crc(proprio, actions, flags, takeover)

    def _load(self) -> None:
        """Read the table; episodes at its end whose data did not reach the disk (a power failure) are
        dropped.
        """
        self._table = table.read(self.folder / "episodes.table")
        self._count = len(self._table)
        while self._count and not (
            self._intact(self._table[self._count - 1]) and self._has_pictures(self._count - 1)
        ):
            self._count -= 1
        self._ids = {row.decode() for row in self._table["episode_id"][: self._count].tolist()}

    def _intact(self, row: Any) -> bool:
        """Whether an episode's step arrays are what its row was sealed with."""
        first, stop = int(row["first"]), int(row["first"]) + int(row["steps"]) + 1
        files = (self._proprio, self._actions, self._flags, self._takeover)
        if any(file.rows < stop for file in files) or int(row["instruction"]) >= len(self._sentences.items):
            return False
        return _crc(*(file.map(stop)[first:] for file in files)) == int(row["data_crc"])

    def _has_pictures(self, index: int) -> bool:
        """Whether an episode's pictures, if the robot has cameras, are there in full number."""
        if self._pictures is None:
            return True
        stop = int(self._table[index]["first"]) + int(self._table[index]["steps"]) + 1
        records = int(self._table[index]["steps"]) + 1
        return self._places.rows >= stop and self._pictures.records(index) == records

    def _remember(self, row: Any) -> None:
        """Enter a sealed row into the table in memory, which doubles when full; older slices of it stay as
        they are.
        """
        if self._count == len(self._table):
            grown = np.zeros(max(64, 2 * self._count), table.ROW)
            grown[: self._count] = self._table[: self._count]
            self._table = grown
        self._table[self._count] = row
        self._ids.add(row["episode_id"].decode())
        self._count += 1


def _crc(*arrays: NDArray[Any]) -> int:
    """One checksum over arrays in order."""
    total = 0
    for array in arrays:
        total = zlib.crc32(np.ascontiguousarray(array).data, total)
    return total
