"""Rows of the evidence from their run files: means over training seeds, intervals, paired differences.

The interval of a mean is the 2.5 % to 97.5 % range of a bootstrap that draws training seeds with replacement and, within each
task, held-out starts with replacement; a drawn start counts for every drawn seed, because all seeds are evaluated on the same
starts. Tasks are fixed: it speaks of these tasks. With one seed it covers the starts alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lwd.errors import ConfigError
from lwd.evaluate.intervals import RESAMPLES, Estimate, crossed_means, draw_counts, percentile_interval
from lwd.evaluate.records import EvaluationRecord
from lwd.results.runfile import RunFile, attempts, check_alike
from lwd.spec import Horizon

AVERAGES = ("average", "short", "long")

_COLUMNS: Mapping[str, Callable[[EvaluationRecord, Horizon], float]] = {
    "success": lambda record, horizon: float(record.success),
    "paper_score": lambda record, horizon: record.stage_score if horizon == "long" else float(record.success),
    "cycle_time_s": lambda record, horizon: record.cycle_time_s,
}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Means with their intervals: of a task, or of several tasks' means.

    Attributes:
        success: share of episodes that succeeded.
        paper_score: the paper's Table I: success on short tasks, milestones reached / total on long ones.
        cycle_time_s: seconds of robot time from reset to outcome, failures included.
    """

    success: Estimate
    paper_score: Estimate
    cycle_time_s: Estimate


@dataclass(frozen=True, kw_only=True)
class RowScore:
    """One row of the evidence.

    Attributes:
        means: by task, and "average", "short", "long" (where there are such tasks).
        seeds: training seeds; episodes: evaluated in all.
        robot_hours, interventions, operator_minutes: of the online stage, mean over seeds.
    """

    means: Mapping[str, Measured]
    seeds: Sequence[int]
    episodes: int
    robot_hours: float
    interventions: float
    operator_minutes: float


def row_score(runs: Sequence[RunFile], resamples: int = RESAMPLES) -> RowScore:
    """The scores of one row from the run files of its seeds.

    Raises:
        ConfigError: the seeds were not made alike.
    """
    check_alike(runs)
    return RowScore(
        means=measure(_tables(runs), runs[0].tasks, resamples),
        seeds=[run.seed for run in runs],
        episodes=sum(len(run.records) for run in runs),
        robot_hours=float(np.mean([run.costs.robot_hours for run in runs])),
        interventions=float(np.mean([run.costs.interventions for run in runs])),
        operator_minutes=float(np.mean([run.costs.operator_minutes for run in runs])),
    )


class Paired(NamedTuple):
    """One row minus another on the attempts that both made.

    Attributes:
        means: as of a row.
        by_seed: training seed -> difference in success, mean over all tasks.
        one_clone: training seed -> whether both went on from the same SFT policy; None where a run file does not say.
    """

    means: Mapping[str, Measured]
    by_seed: Mapping[int, float]
    one_clone: Mapping[int, bool | None]


def paired(a: Sequence[RunFile], b: Sequence[RunFile], resamples: int = RESAMPLES) -> Paired:
    """B - a over the attempts that both made: same training seed, task and start.

    Raises:
        ConfigError: they have no training seed in common, or were evaluated on different starts.
    """
    left, right = {run.seed: run for run in a}, {run.seed: run for run in b}
    seeds = sorted(left.keys() & right.keys())
    if not seeds:
        raise ConfigError(f"{a[0].method} and {b[0].method} have no training seed in common.")
    before, after = ([of[seed] for seed in seeds] for of in (left, right))
    if attempts(before[0]) != attempts(after[0]):
        raise ConfigError(f"{before[0].id} and {after[0].id} were evaluated on different starts.")
    check_alike(before)
    check_alike(after)
    first, second = _tables(before), _tables(after)
    tables = {task: second[task] - first[task] for task in first}
    every = np.mean([table[:, :, 0].mean(axis=1) for table in tables.values()], axis=0)
    return Paired(
        measure(tables, before[0].tasks, resamples),
        dict(zip(seeds, every.tolist(), strict=True)),
        {seed: _one_clone(left[seed], right[seed]) for seed in seeds},
    )


def _one_clone(a: RunFile, b: RunFile) -> bool | None:
    return a.sft_policy == b.sft_policy if a.sft_policy and b.sft_policy else None


def _tables(runs: Sequence[RunFile]) -> dict[str, NDArray[np.float64]]:
    """Task -> [seeds, starts, columns]."""
    return {
        task: np.asarray(
            [
                [[column(r, horizon) for column in _COLUMNS.values()] for r in run.records if r.task == task]
                for run in runs
            ]
        )
        for task, horizon in runs[0].tasks.items()
    }


def measure(
    tables: Mapping[str, NDArray[np.float64]], horizons: Mapping[str, Horizon], resamples: int
) -> dict[str, Measured]:
    """Means over seeds and starts of a table [seeds, starts, columns] for each task, and of the averages over tasks."""
    count = len(next(iter(tables.values())))
    # One draw of seeds for all tasks: a seed is one policy, and good or bad luck in training reaches all of its tasks.
    runs = draw_counts(count, seed=0, stratum="training seeds", resamples=resamples)
    means = {task: table.mean(axis=(0, 1)) for task, table in tables.items()}
    draws = {
        task: crossed_means(
            table, runs, draw_counts(table.shape[1], seed=0, stratum=task, resamples=resamples)
        )
        for task, table in tables.items()
    }
    groups = {task: [task] for task in tables} | {
        name: [task for task in tables if name in ("average", horizons[task])] for name in AVERAGES
    }
    found: dict[str, Measured] = {}
    for name, members in groups.items():
        if members:
            value = np.mean([means[task] for task in members], axis=0)
            pooled = np.mean([draws[task] for task in members], axis=0)
            found[name] = Measured(
                **{
                    column: percentile_interval(float(value[i]), pooled[:, i])
                    for i, column in enumerate(_COLUMNS)
                }
            )
    return found
