"""How often the intervals of the evidence hold the true mean, by the number of training seeds: a simulation.

Run with `python -m tools.coverage`; two minutes of a core. Eight tasks with 50 starts each, as the evaluation has them.
Training luck moves all tasks of a seed together, normally distributed; starts differ in how hard they are.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lwd.results.scores import measure

TASKS, STARTS, MEAN = 8, 50, 0.75
_COLUMNS = 3
"""Success, paper's score, cycle time: the simulation fills all with success."""


def drawn(rng: np.random.Generator, seeds: int, spread: float) -> dict[str, NDArray[np.float64]]:
    """Made-up successes, task -> [seeds, starts, columns]."""
    luck = rng.normal(0.0, spread, (seeds, 1))
    tables: dict[str, NDArray[np.float64]] = {}
    for task in range(TASKS):
        hard = rng.uniform(-0.2, 0.2, (1, STARTS))
        success = rng.uniform(size=(seeds, STARTS)) < np.clip(MEAN + luck + hard, 0.0, 1.0)
        tables[f"task {task}"] = np.repeat(success[:, :, None].astype(np.float64), _COLUMNS, axis=2)
    return tables


def coverage(seeds: int, spread: float, repeats: int, resamples: int) -> float:
    """Share of repeats whose interval of the average holds the true mean."""
    rng = np.random.default_rng(seeds)
    inside = 0
    for _ in track(range(repeats), f"{seeds} seeds"):
        tables = drawn(rng, seeds, spread)
        found = measure(tables, dict.fromkeys(tables, "short"), resamples)["average"].success
        inside += found.low <= MEAN <= found.high
    return inside / repeats


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spread", type=float, default=0.04, help="standard deviation of training luck")
    parser.add_argument("--repeats", type=int, default=1000)
    asked = parser.parse_args()
    table = Table("training seeds", "intervals of 95 % that hold the mean")
    for seeds in (1, 2, 3, 5):
        table.add_row(str(seeds), f"{coverage(seeds, asked.spread, asked.repeats, resamples=500):.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
