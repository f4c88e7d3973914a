"""Pictures: the same pixels everywhere, and nothing that a stranger sends costs more than its camera's size."""

from __future__ import annotations

import io

import numpy as np
import pytest

from lwd import image
from lwd.errors import PictureError

PIL = pytest.importorskip("PIL.Image")


def photo(height: int, width: int) -> np.ndarray:
    """Smooth colours that change along both axes."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 * y / height, 255 * x / width, 127 + 0 * x], -1).astype(np.uint8)


def pillow_jpeg(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    PIL.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def test_decoding_gives_the_pixels_that_pillow_gives() -> None:
    jpeg = pillow_jpeg(photo(24, 40), quality=90)
    expected = np.asarray(PIL.open(io.BytesIO(jpeg)))
    np.testing.assert_array_equal(image.decode(jpeg, 24, 40), expected)
    into = np.zeros((24, 40, 3), np.uint8)
    assert image.decode(jpeg, 24, 40, into) is into
    np.testing.assert_array_equal(into, expected)


def test_a_picture_survives_its_encoding() -> None:
    pixels = photo(24, 40)
    jpeg = image.encode(pixels)
    assert image.jpeg_size(jpeg) == (24, 40)
    assert image.encode(pixels) == jpeg
    assert image.encode(pixels[::-1][::-1]) == jpeg  # not contiguous
    assert np.abs(image.decode(jpeg, 24, 40).astype(int) - pixels).max() <= 12
    image.check(jpeg, 24, 40)


@pytest.mark.parametrize(
    ("height", "width", "inner"),
    # Worked by hand: ratio = max(h / 8, w / 8); inner = floor(size / ratio); the odd row of padding goes below, right.
    [
        (16, 16, (0, 8, 0, 8)),
        (12, 16, (1, 7, 0, 8)),
        (16, 10, (0, 8, 1, 6)),
        (4, 2, (0, 8, 2, 6)),
        (3, 64, (3, 4, 0, 8)),
    ],
)
def test_resizing_keeps_proportions_and_pads_with_black(
    height: int, width: int, inner: tuple[int, ...]
) -> None:
    top, bottom, left, right = inner
    out = image.resize_with_pad(np.full((height, width, 3), 200, np.uint8), 8, 8)
    expected = np.zeros((8, 8, 3), np.uint8)
    expected[top:bottom, left:right] = 200
    np.testing.assert_array_equal(out, expected)


def test_resizing_is_bilinear_and_averages_where_it_shrinks() -> None:
    ramp = np.repeat(np.arange(8, dtype=np.uint8)[None, :, None] * 32, 8, 0).repeat(3, 2)
    halved = image.resize_with_pad(ramp, 4, 4)[0, :, 0]
    # A triangle of half-width 2 about column 2i + 0.5: weights 1, 3, 3, 1 over eight; at the edges 3, 3, 1 over seven.
    assert halved.tolist() == [
        round(32 * (0 * 3 + 1 * 3 + 2 * 1) / 7),
        80,
        144,
        round(32 * (7 * 3 + 6 * 3 + 5 * 1) / 7),
    ]
    assert image.resize_with_pad(ramp, 8, 8) is ramp


GOOD = pillow_jpeg(photo(24, 40))
LIE = bytearray(GOOD)
_at = next(i for i in range(len(GOOD)) if GOOD[i : i + 2] == b"\xff\xc0")
LIE[_at + 5 : _at + 9] = b"\xff\xff\xff\xff"

BAD = {
    "no jpeg": (b"no jpeg", "no JPEG header"),
    "empty": (b"", "no JPEG header"),
    "another size": (pillow_jpeg(photo(40, 24)), "is 40 x 24, its spec says 24 x 40"),
    "a bomb": (bytes(LIE), "is 65535 x 65535"),
    "progressive": (pillow_jpeg(photo(24, 40), progressive=True), "expected a sequential"),
    "cut": (GOOD[: len(GOOD) - 40], "cannot be decoded"),
    "padded": (GOOD + bytes(80_000), "expected at most 68416"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_picture_of_its_camera_is_refused(case: str) -> None:
    jpeg, message = BAD[case]
    with pytest.raises(PictureError, match=message):
        image.check(jpeg, 24, 40)
    if case != "padded":
        with pytest.raises(PictureError, match=message):
            image.decode(jpeg, 24, 40)


def test_damage_inside_the_picture_is_found_or_harmless() -> None:
    """Flip each byte: whatever `check` lets through must decode, or a learner would stop on it days later."""
    for at in range(2, len(GOOD), 7):
        damaged = bytearray(GOOD)
        damaged[at] ^= 0x55
        try:
            image.check(bytes(damaged), 24, 40)
        except PictureError:
            continue
        assert image.decode(bytes(damaged), 24, 40).shape == (24, 40, 3)
