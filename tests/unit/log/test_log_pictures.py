"""Pictures at the coordinator's door: what cannot be shown to a learner is quarantined, with the picture's number."""

from __future__ import annotations

import io

import numpy as np
import pytest
from log_cases import CAMERA, SEEING, Fleet, change, jpeg, make_episode
from PIL import Image

NAME, SIZE = CAMERA.name, (CAMERA.height, CAMERA.width)


def noisy(**options: object) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def claims(height: int, width: int) -> bytes:
    """A small file whose header promises a large picture."""
    data = bytearray(jpeg(*SIZE))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = height.to_bytes(2) + width.to_bytes(2)
    return bytes(data)


CASES = {
    "cut": (noisy()[:-60], "cannot be decoded"),
    "no picture": (b"\xff\xd8\xff\xd9", "no JPEG header"),
    "another size": (jpeg(12, 8), "is 12 x 8, its spec says 8 x 12"),
    "a bomb": (claims(65_535, 65_535), "is 65535 x 65535"),
    "progressive": (noisy(progressive=True), "sequential"),
    "stuffed": (jpeg(*SIZE) + bytes(100_000), "bytes, expected at most"),
}


@pytest.mark.parametrize("case", CASES)
def test_an_episode_with_one_bad_picture_is_quarantined(fleet: Fleet, case: str) -> None:
    picture, detail = CASES[case]
    episode = make_episode(6, spec=SEEING.name, cameras={NAME: SIZE})
    pictures = list(episode.images[NAME])
    pictures[4] = picture
    fleet.send_episode(change(episode, images={NAME: pictures}))
    fleet.drain()
    (row,) = fleet.catalogue.quarantined()
    assert row.reason == "shape"
    assert f"picture 4 of camera {NAME}" in row.detail
    assert detail in row.detail
    assert fleet.catalogue.episodes() == []
