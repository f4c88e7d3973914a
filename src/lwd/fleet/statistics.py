"""Statistics of proprio from the demonstrations, and the refusal of statistics that are not those of the data."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lwd.episode import Source
from lwd.errors import ConfigError
from lwd.models.normalizer import Normalizer, Statistics
from lwd.replay.table import SOURCES
from lwd.replay.view import View

SCALE_FLOOR = 0.05
"""Smallest scale of a normalised coordinate, so that one that hardly moved in the demonstrations cannot explode later."""
FARTHEST = 3.0
"""Scales between the demonstrations' median and a normaliser's middle, or of half their middle half's spread, at most."""


def demonstration_normalizer(view: View, statistics: Statistics = "mean_std") -> Normalizer:
    """The statistics of proprio over the demonstrations of a view.

    Raises:
        ConfigError: there is no demonstration.
    """
    rows = _demonstrated(view)
    if statistics == "mean_std":
        scale = np.maximum(rows.std(axis=0), SCALE_FLOOR)
        return Normalizer(jnp.asarray(rows.mean(axis=0), jnp.float32), jnp.asarray(scale, jnp.float32))
    low, high = np.quantile(rows, (0.01, 0.99), axis=0)
    short = np.maximum(2.0 * SCALE_FLOOR - (high - low), 0.0) / 2.0
    return Normalizer.quantiles(jnp.asarray(low - short, jnp.float32), jnp.asarray(high + short, jnp.float32))


def check_statistics(normalizer: Normalizer, view: View) -> None:
    """Refuse to learn under statistics that are not those of the data: of another robot, or in other units.

    Demonstrations may have been added since the statistics were made; these stay. So the bound is wide: the median within
    3 scales of the middle, and the middle half of the rows not wider than 6 scales.

    Raises:
        ConfigError: names the coordinates that do not fit.
    """
    rows = _demonstrated(view)
    mean, scale = np.asarray(normalizer.mean), np.asarray(normalizer.scale)
    if mean.shape != rows.shape[1:]:
        raise ConfigError(
            f"the policy's statistics are of {mean.size} proprio coordinates, the demonstrations have {rows.shape[1]}. "
            "Use the recipe that the policy was made with."
        )
    quarter, median, three_quarters = np.quantile(rows, (0.25, 0.5, 0.75), axis=0)
    off = (np.abs(median - mean) > FARTHEST * scale) | (three_quarters - quarter > 2.0 * FARTHEST * scale)
    if off.any():
        which = ", ".join(
            f"{i} (median {median[i]:.3g}, normalised around {mean[i]:.3g} by {scale[i]:.3g})"
            for i in np.flatnonzero(off).tolist()[:5]
        )
        raise ConfigError(
            f"the policy's statistics do not fit the demonstrations of manifest {view.manifest}: proprio {which}. "
            "It was trained on another robot or in other units; run `lwd train sft` on these demonstrations."
        )


def _demonstrated(view: View) -> Float[np.ndarray, "N P"]:
    """Proprio of every recorded step of the demonstrations."""
    chosen = view.episodes[view.episodes["source"] == SOURCES.index(Source.DEMO)]
    if not len(chosen):
        raise ConfigError(f"manifest {view.manifest} holds no demonstration to take mean and scale from.")
    spans = [(int(r["first"]), int(r["first"]) + int(r["steps"])) for r in chosen]
    return np.concatenate([view.columns.proprio[first:last] for first, last in spans])
