"""Pictures of the replay: JPEG bytes in one append-only file per camera, decoded only when a batch asks for
them.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwd.errors import ConfigError, StoreError
from lwd.replay.files import ArrayFile, write_all
from lwd.spec import CameraSpec


class CameraFile:
    """The pictures of one camera; `spans` holds byte offset and length, int64 [rows, 2], one row per stored
    state.
    """

    def __init__(self, folder: Path, camera: CameraSpec) -> None:
        self.camera = camera
        self.path = folder / f"{camera.name}.jpegs"
        self.spans = ArrayFile(folder / f"{camera.name}.spans.i64", "<i8", (2,))
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)

    def write(self, row: int, pictures: Sequence[bytes]) -> None:
        """Append an episode's pictures for the states from `row` on; the bytes first, then where they lie."""
        begin = 0
        if row:
            offset, length = self.spans.map(row)[row - 1].tolist()
            begin = offset + length
        lengths = np.array([len(picture) for picture in pictures], np.int64)
        offsets = begin + np.concatenate(([0], np.cumsum(lengths)[:-1]))
        write_all(self._fd, memoryview(b"".join(pictures)), begin, self.path)
        self.spans.write(row, np.stack([offsets, lengths], axis=1))

    def read(self, spans: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Decode the pictures at spans [..., 2]; uint8 [..., h, w, 3]."""
        shape = (*spans.shape[:-1], self.camera.height, self.camera.width, 3)
        out = np.empty((int(np.prod(shape[:-3])), *shape[-3:]), np.uint8)
        for index, (offset, length) in enumerate(spans.reshape(-1, 2).tolist()):
            out[index] = decode(os.pread(self._fd, length, offset), self.camera)
        return out.reshape(shape)

    def flush(self) -> None:
        """Force what was written to the disk."""
        os.fsync(self._fd)
        self.spans.flush()

    def close(self) -> None:
        """Close the files."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self.spans.close()


def decode(jpeg: bytes, camera: CameraSpec) -> NDArray[np.uint8]:
    """One picture, uint8 [h, w, 3]; StoreError if it is no picture of the camera's size."""
    try:
        from PIL import Image  # only a fleet with cameras needs Pillow
    except ImportError as error:
        raise ConfigError(
            f"Camera {camera.name!r} needs Pillow to decode its pictures: pip install pillow."
        ) from error
    try:
        picture: NDArray[Any] = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))
    except OSError as error:
        raise StoreError(f"A picture of camera {camera.name!r} cannot be decoded: {error}.") from error
    if picture.shape != (camera.height, camera.width, 3):
        raise StoreError(
            f"A picture of camera {camera.name!r} is {picture.shape[0]} x {picture.shape[1]}, "
            f"its spec says {camera.height} x {camera.width}."
        )
    return picture
