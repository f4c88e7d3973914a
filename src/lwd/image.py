"""Pictures: JPEG to pixels and back, and pixels to the square that a network sees. NumPy only, so that a robot and the
learner share it and see the same pixels; simplejpeg and Pillow are imported where there is a camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lwd.errors import ConfigError, PictureError
from lwd.spec import CameraSpec

Pixels = NDArray[np.uint8]
"""uint8 [h, w, 3], red, green, blue."""

QUALITY = 90
"""Of the JPEGs that simulated robots record; the colour planes have half the resolution, as cameras do it."""

_SPARE_BYTES = 65_536
_SEQUENTIAL = frozenset({0xC0, 0xC1})
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class _Frame(NamedTuple):
    marker: int
    height: int
    width: int


def jpeg_size(jpeg: bytes) -> tuple[int, int] | None:
    """(height, width) in pixels from a JPEG's header, None if there is none. Reads no picture data."""
    frame = _frame(jpeg)
    return None if frame is None else (frame.height, frame.width)


def check(jpeg: bytes, height: int, width: int) -> None:
    """Decode a picture that a stranger sent, at an eighth of its size and without colour: whole or not at all.

    The header is read before anything is decoded, so neither time nor memory depends on what the sender claims: the size
    must be the camera's, the coding sequential (a progressive picture may hold thousands of scans), the bytes no more than
    the raw pixels' and 64 KiB.

    Raises:
        PictureError: it is not such a picture.
    """
    _check_header(jpeg, height, width)
    limit = height * width * 3 + _SPARE_BYTES
    if len(jpeg) > limit:
        raise PictureError(f"has {len(jpeg)} bytes, expected at most {limit} for {height} x {width}")
    try:
        _codec().decode_jpeg(jpeg, "GRAY", min_height=max(1, height // 8), min_width=max(1, width // 8))
    except ValueError as error:
        raise PictureError(f"cannot be decoded: {error}") from error


def decode(jpeg: bytes, height: int, width: int, out: Pixels | None = None) -> Pixels:
    """One picture, uint8 [height, width, 3].

    Args:
        jpeg: as recorded.
        height: what its camera's spec says.
        width: the same.
        out: contiguous array of that shape to decode into.

    Raises:
        PictureError: no picture of that size.
    """
    _check_header(jpeg, height, width)
    try:
        decoded: Pixels = _codec().decode_jpeg(jpeg, "RGB", buffer=out)
    except ValueError as error:
        raise PictureError(f"cannot be decoded: {error}") from error
    return decoded if out is None else out


def encode(pixels: Pixels, quality: int = QUALITY) -> bytes:
    """A JPEG of pixels [h, w, 3]; equal pixels give equal bytes."""
    return _codec().encode_jpeg(np.ascontiguousarray(pixels), quality, "RGB", "420")


def resize_with_pad(pixels: Pixels, height: int, width: int) -> Pixels:
    """Scale bilinearly until it fits, keep the proportions, centre on black; uint8 [height, width, 3].

    The size is rounded down and the odd row of padding goes below and to the right. Shrinking averages (Pillow's bilinear
    filter widens with the factor), as openpi's client does it.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    try:
        from PIL import Image
    except ImportError as error:
        raise ConfigError(
            "Pictures of another size than the network's need Pillow: pip install pillow."
        ) from error
    ratio = max(pixels.shape[0] / height, pixels.shape[1] / width)
    inner = (max(1, int(pixels.shape[0] / ratio)), max(1, int(pixels.shape[1] / ratio)))
    scaled = Image.fromarray(pixels).resize((inner[1], inner[0]), Image.Resampling.BILINEAR)
    out = np.zeros((height, width, 3), np.uint8)
    above, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    out[above : above + inner[0], left : left + inner[1]] = np.asarray(scaled)
    return out


def prepare(jpeg: bytes, height: int, width: int, side: int | None) -> Pixels:
    """A recorded picture as a network sees it: decoded, and `resize_with_pad` to [side, side, 3] unless side is None.

    Raises:
        PictureError: no picture of height x width.
    """
    pixels = decode(jpeg, height, width)
    return pixels if side is None else resize_with_pad(pixels, side, side)


def prepare_all(pictures: Sequence[bytes | Pixels], camera: CameraSpec, side: int | None) -> Pixels:
    """Pictures of one camera, JPEG as recorded or pixels, as a network sees them: uint8 [B, h, w, 3]; see `prepare`."""

    def prepared(picture: bytes | Pixels) -> Pixels:
        if isinstance(picture, bytes):
            return prepare(picture, camera.height, camera.width, side)
        return picture if side is None else resize_with_pad(picture, side, side)

    return np.stack([prepared(picture) for picture in pictures])


def _check_header(jpeg: bytes, height: int, width: int) -> None:
    frame = _frame(jpeg)
    if frame is None:
        raise PictureError("cannot be decoded: it has no JPEG header")
    if (frame.height, frame.width) != (height, width):
        raise PictureError(f"is {frame.height} x {frame.width}, its spec says {height} x {width}")
    if frame.marker not in _SEQUENTIAL:
        raise PictureError(f"is coded as frame type {frame.marker:#x}, expected a sequential (baseline) JPEG")


def _frame(jpeg: bytes) -> _Frame | None:
    """The first frame header."""
    offset = 2 if jpeg[:2] == b"\xff\xd8" else len(jpeg)
    while offset + 9 <= len(jpeg) and jpeg[offset] == 0xFF:
        marker = jpeg[offset + 1]
        if marker in _START_OF_FRAME:
            height, width = jpeg[offset + 5 : offset + 7], jpeg[offset + 7 : offset + 9]
            return _Frame(marker, int.from_bytes(height), int.from_bytes(width))
        offset += 2 + max(2, int.from_bytes(jpeg[offset + 2 : offset + 4]))
    return None


def _codec() -> Any:
    """libjpeg-turbo: the same pixels as Pillow's, four times as fast, and other threads go on meanwhile."""
    try:
        import simplejpeg
    except ImportError as error:
        raise ConfigError('A robot with cameras needs simplejpeg: pip install "lwd[cameras]".') from error
    return simplejpeg
