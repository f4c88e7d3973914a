"""Whether a value tells success from failure on episodes that it was not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ValueAlong:
    """A value read along one episode.

    Attributes:
        task, success: of the episode.
        shares: of its length, rising, 0 to 1 [N]; values: there [N].
    """

    task: str
    success: bool
    shares: NDArray[np.float64]
    values: NDArray[np.float64]

    def at(self, share: float) -> float:
        """The value at a share of the episode's length, between readings on a straight line."""
        return float(np.interp(share, self.shares, self.values))


def chance_above(wins: Sequence[float], losses: Sequence[float]) -> float:
    """The chance that one of `wins` is above one of `losses`, ties counted half: the area under the ROC curve."""
    above = np.asarray(wins, float)[:, None] - np.asarray(losses, float)[None, :]
    return float(np.mean((above > 0) + 0.5 * (above == 0)))


def value_rank(along: Sequence[ValueAlong], shares: Mapping[str, float]) -> dict[str, float]:
    """How often the value of a success is above that of a failure of the same task, at each named share of their length.

    Mean over the tasks with both outcomes; 0.5 is chance. Empty where no task has both.
    """
    by_task: dict[str, tuple[list[ValueAlong], list[ValueAlong]]] = {}
    for one in along:
        by_task.setdefault(one.task, ([], []))[0 if one.success else 1].append(one)
    both = [pair for pair in by_task.values() if all(pair)]
    if not both:
        return {}
    return {
        name: fmean(chance_above(*([one.at(share) for one in side] for side in pair)) for pair in both)
        for name, share in shares.items()
    }
