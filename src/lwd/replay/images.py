"""Pictures of the replay: one ArrayRecord file per episode, one record per state with the JPEGs of all cameras as recorded,
read and decoded by threads when a batch asks for them.

A file is written whole beside its place, synced and moved there before the episode's table row, so whatever a crash
leaves behind belongs to no row and is overwritten by the next episode.
"""

from __future__ import annotations

import itertools
import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwd import image
from lwd.errors import ConfigError, PictureError, StoreError
from lwd.spec import CameraSpec

PICTURES_FORMAT = 1
"""Version of the files and their records."""
OPEN_FILES = 128
"""Episode files kept open for reading, each with a small buffer and an index of a few kilobytes."""
MAX_THREADS = 16

_FILES_PER_FOLDER = 1000
_WRITE = "group_size:1,uncompressed"
_READ = "readahead_buffer_size:0,max_parallelism:0"
_BUFFER_BYTES = 65_536
_RECORDS_PER_TASK = 8
_HEAD = struct.Struct("<BB")


class PictureStore:
    """The pictures of one robot kind. Appends come from one thread, reads from any number.

    Args:
        folder: of the files.
        cameras: of the robot, at least one.
        side: pictures come out as uint8 [side, side, 3], resized with padding; None: as recorded.
        threads: that read and decode; None: one per core, at most 16. What is read does not depend on it.
    """

    def __init__(
        self, folder: Path, cameras: Sequence[CameraSpec], side: int | None = None, threads: int | None = None
    ) -> None:
        self.folder, self.cameras, self.side = folder, tuple(cameras), side
        self._library = _array_record()
        self._lengths = struct.Struct(f"<{len(self.cameras)}I")
        self._readers: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()
        self._closed = False
        count = min(os.cpu_count() or 1, MAX_THREADS) if threads is None else threads
        self._pool = ThreadPoolExecutor(count, "lwd-pictures")

    @property
    def open_files(self) -> int:
        """Files that are held open for reading now."""
        return len(self._readers)

    def path(self, file: int) -> Path:
        """Where an episode's file lies."""
        return self.folder / f"{file // _FILES_PER_FOLDER:04d}" / f"{file:07d}.array_record"

    def write(self, file: int, pictures: Mapping[str, Sequence[bytes]]) -> None:
        """Write an episode's file, over whatever a torn append left there.

        Args:
            file: its number.
            pictures: per camera, one JPEG per state.

        Raises:
            StoreError: the disk refuses.
        """
        path = self.path(file)
        scratch = path.with_suffix(".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            writer = self._library.ArrayRecordWriter(str(scratch), _WRITE)
            for jpegs in zip(*(pictures[camera.name] for camera in self.cameras), strict=True):
                writer.write(self._pack(jpegs))
            writer.close()
            _sync(scratch)
            scratch.replace(path)
            _sync(path.parent)
        except (OSError, RuntimeError) as error:
            scratch.unlink(missing_ok=True)
            raise StoreError(
                f"cannot write {path}: {error}. Free some space; the episode was not added."
            ) from error
        with self._lock:
            self._readers.pop(file, None)

    def records(self, file: int) -> int:
        """How many states an episode's file holds; 0 if it is missing or not whole."""
        reader = self._library.ArrayRecordReader(str(self.path(file)), _READ)
        return int(reader.num_records()) if reader.ok() else 0

    def verify(self, file: int, records: int) -> None:
        """Read all of an episode's file, which has a checksum per record; StoreError if anything is missing or damaged."""
        if self.records(file) != records:
            raise self._damaged(file, f"{self.records(file)} records, expected {records}")
        for record in range(records):
            self._unpack(file, self._record(file, record))

    def read(self, where: NDArray[np.int64], names: Sequence[str] | None = None) -> dict[str, image.Pixels]:
        """Decode the pictures at places [..., 2] (file, record); uint8 [..., h, w, 3] per camera, in fresh arrays.

        Args:
            where: any number of places, in any order.
            names: of the cameras wanted, None for all.

        Raises:
            StoreError: a file is missing or damaged, or a picture is not one of its camera's size.
        """
        if self._closed:
            raise StoreError(f"the pictures of {self.folder} are closed; open the replay again.")
        flat = where.reshape(-1, 2)
        wanted = [
            (i, camera) for i, camera in enumerate(self.cameras) if names is None or camera.name in names
        ]
        out = {camera.name: np.empty((len(flat), *self._shape(camera)), np.uint8) for _, camera in wanted}
        order = np.lexsort((flat[:, 1], flat[:, 0]))
        tasks = [order[i : i + _RECORDS_PER_TASK] for i in range(0, len(order), _RECORDS_PER_TASK)]

        def fill(slots: NDArray[Any]) -> None:
            for slot in slots.tolist():
                file, record = flat[slot].tolist()
                jpegs = self._unpack(file, self._record(file, record))
                for index, camera in wanted:
                    self._decode(jpegs[index], camera, out[camera.name][slot])

        for _ in self._pool.map(fill, tasks):
            pass
        return {name: pixels.reshape(*where.shape[:-1], *pixels.shape[1:]) for name, pixels in out.items()}

    def close(self) -> None:
        """Stop the threads and close the files; harmless when called twice."""
        self._closed = True
        self._pool.shutdown()
        with self._lock:
            self._readers.clear()

    def _shape(self, camera: CameraSpec) -> tuple[int, int, int]:
        return (camera.height, camera.width, 3) if self.side is None else (self.side, self.side, 3)

    def _decode(self, jpeg: bytes, camera: CameraSpec, out: image.Pixels) -> None:
        try:
            if self._shape(camera) == (camera.height, camera.width, 3):
                image.decode(jpeg, camera.height, camera.width, out)
            else:
                out[:] = image.prepare(jpeg, camera.height, camera.width, self.side)
        except PictureError as error:
            raise StoreError(f"A picture of camera {camera.name!r} {error}.") from error

    def _pack(self, jpegs: Sequence[bytes]) -> bytes:
        head = _HEAD.pack(PICTURES_FORMAT, len(jpegs))
        return b"".join((head, self._lengths.pack(*map(len, jpegs)), *jpegs))

    def _unpack(self, file: int, record: bytes) -> list[bytes]:
        """The JPEGs of a record, in the order of the cameras."""
        start = _HEAD.size + self._lengths.size
        if len(record) < start or _HEAD.unpack_from(record) != (PICTURES_FORMAT, len(self.cameras)):
            raise self._damaged(file, "a record of another format or number of cameras")
        lengths = self._lengths.unpack_from(record, _HEAD.size)
        if start + sum(lengths) != len(record):
            raise self._damaged(file, "a record of another length than it says")
        ends = np.cumsum((start, *lengths)).tolist()
        return [record[begin:end] for begin, end in itertools.pairwise(ends)]

    def _record(self, file: int, record: int) -> bytes:
        try:
            return self._reader(file).read([record])[0]
        except (RuntimeError, ValueError, IndexError) as error:
            raise self._damaged(file, str(error)) from error

    def _reader(self, file: int) -> Any:
        """An open reader; the least recently used one makes room, and closes when no thread reads from it any more."""
        with self._lock:
            reader = self._readers.get(file)
            if reader is None:
                reader = self._library.ArrayRecordReader(
                    str(self.path(file)), _READ, file_reader_buffer_size=_BUFFER_BYTES
                )
                if not reader.ok():
                    raise self._damaged(file, "it is missing or not whole")
                self._readers[file] = reader
            self._readers.move_to_end(file)
            while len(self._readers) > OPEN_FILES:
                self._readers.popitem(last=False)
            return reader

    def _damaged(self, file: int, what: str) -> StoreError:
        return StoreError(
            f"{self.path(file)}: {what}. Delete the replay's folder; it is rebuilt from the log."
        )


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _array_record() -> Any:
    try:
        from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError as error:
        raise ConfigError('A replay with cameras needs array-record: pip install "lwd[cameras]".') from error
    return array_record_module
