"""Intervals for the mean of a few dozen episodes. 95 % wherever nothing else is said.

Success of one task is a proportion: Wilson. Everything else (stage score, cycle time, averages over tasks) is
the percentile bootstrap: draw as many episodes as there were, with replacement, take the mean, repeat, and
read the 2.5 % and 97.5 % points.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from lwd.errors import ConfigError

CONFIDENCE = 0.95
RESAMPLES = 4000
"""Bootstrap draws: the ends of the interval then move by under 0.002 of success from seed to seed."""

_BLOCK = 2_000_000
"""Most indices drawn at once, so that a hundred thousand episodes do not need gigabytes."""

# 97.5 % points of Student's t for 1 to 30 degrees of freedom; beyond that the normal's.
_T_975 = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
    *(2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423),
)


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval, in the unit of what was averaged."""

    value: float
    low: float
    high: float


def wilson(successes: int, episodes: int, confidence: float = CONFIDENCE) -> Estimate:
    """Wilson's score interval of a proportion p = successes / episodes.

    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n), with z the normal's (1 + confidence)
    / 2 point. Unlike the bootstrap it keeps a width at p = 0 and p = 1.

    Raises:
        ConfigError: no episodes, or more successes than episodes.
    """
    if episodes <= 0 or not 0 <= successes <= episodes:
        raise ConfigError(
            f"wilson: needs 0 <= successes <= episodes and episodes > 0, got {successes}/{episodes}."
        )
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p, n = successes / episodes, episodes
    scale = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / scale
    # At p = 0 and p = 1 the end is exact; rounding would otherwise put it 1e-17 on the wrong side of p.
    return Estimate(p, min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half)))


def bootstrap_means(
    values: NDArray[np.float64], *, seed: int, stratum: str, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """[resamples, columns] means of rows of `values` [episodes, columns] drawn with replacement.

    The draws depend on (seed, stratum) only, not on the order in which the tasks are worked through.

    Raises:
        ConfigError: no episodes.
    """
    episodes = len(values)
    if episodes == 0:
        raise ConfigError(f"bootstrap of {stratum!r}: no episodes.")
    rng = np.random.default_rng([seed, zlib.crc32(stratum.encode())])
    block = max(1, _BLOCK // episodes)
    parts = [
        values[rng.integers(episodes, size=(min(block, resamples - start), episodes))].mean(axis=1)
        for start in range(0, resamples, block)
    ]
    return np.concatenate(parts)


@lru_cache(maxsize=128)
def draw_counts(count: int, *, seed: int, stratum: str, resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """[resamples, count]: how often each of `count` things occurs when as many are drawn with replacement. Read-only.

    Remembered, because every row of a table is drawn alike: drawing is most of what the tables cost otherwise.
    """
    rng = np.random.default_rng([seed, zlib.crc32(stratum.encode())])
    counts = rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)
    counts.flags.writeable = False
    return counts


def crossed_means(
    values: NDArray[np.float64], runs: NDArray[np.float64], episodes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[resamples, columns] means of `values` [runs, episodes, columns], runs and episodes drawn as counted.

    For runs that were all evaluated on the same starts: a drawn start counts for every drawn run, so what is hard for one
    run and hard for all of them is not taken for independent evidence.
    """
    drawn = np.einsum("br,rec,be->bc", runs, values, episodes, optimize=True)
    return drawn / (values.shape[0] * values.shape[1])


def percentile_interval(value: float, draws: NDArray[np.float64], confidence: float = CONFIDENCE) -> Estimate:
    """`value` between the (1 -+ confidence) / 2 points of its bootstrap draws."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    # The mean lies inside in all but degenerate samples; there, rounding must keep it.
    return Estimate(value, min(value, float(low)), max(value, float(high)))


def t_interval(values: Sequence[float]) -> Estimate:
    """Mean over independent runs -+ t_{0.975, n - 1} s / sqrt(n).

    For a handful of seeds, where the bootstrap is too narrow.
    One run has no spread to learn from: its interval is its value.

    Raises:
        ConfigError: no values.
    """
    if not values:
        raise ConfigError("t_interval: no values.")
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    if len(array) == 1:
        return Estimate(mean, mean, mean)
    freedom = len(array) - 1
    t = _T_975[freedom - 1] if freedom <= len(_T_975) else NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    half = t * float(array.std(ddof=1)) / math.sqrt(len(array))
    return Estimate(mean, mean - half, mean + half)
