"""Long curves made short, for pictures and for files that are kept."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def thin(
    x: NDArray[np.float64], y: NDArray[np.float64], limit: int = 110
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """At most `limit` points of a curve: mean x, mean y, least and greatest y of equal runs of points."""
    bins = np.array_split(np.arange(len(x)), min(limit, len(x)))
    mean_x = np.asarray([x[rows].mean() for rows in bins])
    mean_y = np.asarray([y[rows].mean() for rows in bins])
    return (
        mean_x,
        mean_y,
        np.asarray([y[rows].min() for rows in bins]),
        np.asarray([y[rows].max() for rows in bins]),
    )
