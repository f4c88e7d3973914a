"""The file of a running episode: what is handed to it is kept in order, also while the disk is full."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
"""The errors that say that there is no room."""

Room = Callable[[int, bool], bool]
"""Asked before `size` bytes are written: (size, whether the disk has just refused them) -> whether room was made."""

_PIECE = 1 << 20


class SpoolFile:
    """A new file, written through memory: `write` never fails, `flush` does.

    A disk that takes half of a write and refuses the rest must not leave half a record behind which the rest is missing:
    what it did not take stays here, and the next `flush` goes on at that byte.

    Args:
        path: must not exist yet.
        room: makes room for what is about to be written.

    Raises:
        OSError: it cannot be created.
    """

    def __init__(self, path: Path, room: Room) -> None:
        self._room, self._waiting, self._written = room, bytearray(), 0
        self._handle: int | None = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._handle is None

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        """Take in `data`; returns its length."""
        self._waiting += data
        return len(data)

    def tell(self) -> int:
        """Bytes so far."""
        return self._written + len(self._waiting)

    def flush(self) -> None:
        """Hand everything to the operating system; OSError if it refuses and no room can be made."""
        if self._handle is None or not self._waiting:
            return
        self._room(len(self._waiting), False)
        while self._waiting:
            try:
                taken = os.write(self._handle, bytes(self._waiting[:_PIECE]))
            except OSError as error:
                if error.errno in FULL and self._room(len(self._waiting), True):
                    continue
                raise
            del self._waiting[:taken]
            self._written += taken

    def sync(self) -> None:
        """`flush`, and make it outlive a power cut."""
        self.flush()
        if self._handle is not None:
            os.fsync(self._handle)

    def close(self) -> None:
        """Close it without another `flush`. May be called again."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            os.close(handle)
