"""What LeRobot's policies normalise with: minimum, maximum, mean, deviation and quantiles of each feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwd import image
from lwd.errors import PictureError

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
_PICTURES = 20
"""Pictures per episode and camera that statistics are made of."""

Statistics = dict[str, list[Any]]


def of_numbers(values: NDArray[Any]) -> Statistics:
    """Of a feature's values [n, width] or [n]: lists with one number per coordinate, and `count`."""
    rows = values.reshape(len(values), -1).astype(np.float64)
    found: dict[str, NDArray[Any]] = {
        "min": rows.min(axis=0),
        "max": rows.max(axis=0),
        "mean": rows.mean(axis=0),
        "std": rows.std(axis=0),
        "count": np.array([len(rows)]),
    }
    quantiles = np.quantile(rows, list(QUANTILES.values()), axis=0)
    return {
        name: array.tolist() for name, array in (found | dict(zip(QUANTILES, quantiles, strict=True))).items()
    }


class Histogram:
    """How often each of the 256 values of a colour occurs in pictures; exact, and of the same size for any number of them."""

    def __init__(self) -> None:
        self.counts, self.pictures = np.zeros((3, 256), np.int64), 0

    def add(self, other: Histogram) -> None:
        """Take another one's pictures too."""
        self.counts += other.counts
        self.pictures += other.pictures

    def statistics(self) -> Statistics:
        """As `of_numbers`, [3, 1, 1] each, of colours in [0, 1]."""
        levels, share = np.arange(256) / 255.0, self.counts / self.counts.sum(axis=1, keepdims=True)
        mean = share @ levels
        seen = self.counts > 0
        found: dict[str, NDArray[Any]] = {
            "min": levels[seen.argmax(axis=1)],
            "max": levels[255 - seen[:, ::-1].argmax(axis=1)],
            "mean": mean,
            "std": np.sqrt((share * (levels - mean[:, None]) ** 2).sum(axis=1)),
        }
        below = share.cumsum(axis=1)
        for name, quantile in QUANTILES.items():
            found[name] = levels[(below >= quantile - 1e-12).argmax(axis=1)]
        return {name: array.reshape(3, 1, 1).tolist() for name, array in found.items()} | {
            "count": [self.pictures]
        }


def of_pictures(jpegs: Sequence[bytes]) -> Histogram:
    """Of pictures evenly spread over an episode; those that cannot be decoded are left out."""
    histogram = Histogram()
    for i in np.unique(np.linspace(0, len(jpegs) - 1, min(_PICTURES, len(jpegs))).round().astype(int)):
        size = image.jpeg_size(jpegs[i])
        try:
            pixels = None if size is None else image.decode(jpegs[i], *size)
        except PictureError:
            continue
        if pixels is not None:
            histogram.counts += np.stack(
                [np.bincount(pixels[..., c].ravel(), minlength=256) for c in range(3)]
            )
            histogram.pictures += 1
    return histogram


def flat(statistics: Mapping[str, Statistics]) -> dict[str, list[Any]]:
    """Names as columns of the episodes' table: `stats/<feature>/<statistic>`."""
    return {
        f"stats/{feature}/{name}": value
        for feature, found in statistics.items()
        for name, value in found.items()
    }
