"""Append-only array files: written with plain writes, read through a memory map.

Writing through a map would kill the process with a bus error on a full disk; `pwrite` raises instead. Both go
through the same page cache, so a map sees what was written. Rows below a committed count never change, so a
map stays true for ever.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwd.errors import StoreError


class ArrayFile:
    """A growing array [rows, *shape] of one dtype in one file without a header."""

    def __init__(self, path: Path, dtype: str, shape: tuple[int, ...] = ()) -> None:
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)
        self.row_bytes = self.dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    @property
    def rows(self) -> int:
        """Whole rows that the file holds now, committed or not."""
        return os.fstat(self._fd).st_size // max(self.row_bytes, 1)

    def write(self, row: int, values: NDArray[Any]) -> None:
        """Write rows from `row` on, over anything that a torn append left there; StoreError if the disk
        refuses.
        """
        if values.size:
            data = np.ascontiguousarray(values, self.dtype).data.cast("B")
            write_all(self._fd, data, row * self.row_bytes, self.path)

    def map(self, rows: int) -> NDArray[Any]:
        """The first `rows` rows, read-only, loaded by the operating system as they are touched."""
        if rows == 0 or self.row_bytes == 0:
            return np.empty((rows, *self.shape), self.dtype)
        if self.rows < rows:
            raise StoreError(
                f"{self.path} is shorter than its table says: delete the folder; it is rebuilt from the log."
            )
        # A plain array over the map: np.memmap's own indexing costs several microseconds a call.
        return np.asarray(np.memmap(self.path, self.dtype, "r", shape=(rows, *self.shape)))

    def flush(self) -> None:
        """Force what was written to the disk."""
        os.fsync(self._fd)

    def close(self) -> None:
        """Close the file; maps that were handed out stay valid."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Sentences:
    """A growing list of different sentences, one JSON string per line; a torn last line is dropped and
    overwritten.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        data = path.read_bytes() if path.exists() else b""
        self._bytes = data.rfind(b"\n") + 1
        self.items: list[str] = [json.loads(line) for line in data[: self._bytes].splitlines()]
        self._index = {sentence: index for index, sentence in enumerate(self.items)}

    def index(self, sentence: str) -> int:
        """Where the sentence stands in the list, appended if it is new."""
        if sentence not in self._index:
            line = json.dumps(sentence).encode() + b"\n"
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                write_all(fd, memoryview(line), self._bytes, self.path)
            finally:
                os.close(fd)
            self._bytes += len(line)
            self._index[sentence] = len(self.items)
            self.items.append(sentence)
        return self._index[sentence]


def write_all(fd: int, data: memoryview, offset: int, path: Path) -> None:
    """Write all bytes at an offset; StoreError in a sentence if the disk is full or fails."""
    try:
        while data:
            written = os.pwrite(fd, data, offset)
            data, offset = data[written:], offset + written
    except OSError as error:
        raise StoreError(
            f"cannot append to {path}: {error.strerror}. Free some space; the episode was not added."
        ) from error
