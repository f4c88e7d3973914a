"""From evaluation episodes to scores: per task, and averaged over all, short and long tasks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from lwd.errors import ConfigError, UnknownNameError
from lwd.evaluate.intervals import RESAMPLES, Estimate, bootstrap_means, percentile_interval, wilson
from lwd.evaluate.jsonfile import ResultError
from lwd.evaluate.records import EvaluationRecord
from lwd.spec import Horizon

Quantity = Literal["success", "stage_score", "cycle_time_s"]
QUANTITIES: tuple[Quantity, ...] = ("success", "stage_score", "cycle_time_s")


@dataclass(frozen=True, kw_only=True)
class Score:
    """Scores of one task, or averaged over several.

    `interventions` is a sum, the rest are means with 95 % intervals.
    """

    episodes: int
    success: Estimate
    stage_score: Estimate
    cycle_time_s: Estimate
    interventions: int


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of one policy.

    Attributes:
        horizons: short or long, per task; tasks: a score each.
        average, short, long: means of task means, so that a task counts the same however many episodes it
            has; None where there is no such task.
    """

    horizons: Mapping[str, Horizon]
    tasks: Mapping[str, Score]
    average: Score
    short: Score | None
    long: Score | None


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """Mean of b - a over the attempts that both made.

    Mean of task means, with a bootstrap interval over pairs within tasks.

    Attributes:
        pairs: attempts that both made; unpaired: attempts of either that the other did not make, left out.
    """

    quantity: Quantity
    difference: Estimate
    pairs: int
    unpaired: int


def _matrix(records: Sequence[EvaluationRecord]) -> NDArray[np.float64]:
    return np.asarray(
        [[float(getattr(record, quantity)) for quantity in QUANTITIES] for record in records],
        dtype=np.float64,
    )


def _by_task(records: Sequence[EvaluationRecord]) -> dict[str, dict[int, EvaluationRecord]]:
    grouped: dict[str, dict[int, EvaluationRecord]] = defaultdict(dict)
    for record in records:
        if record.seed in grouped[record.task]:
            raise ConfigError(
                f"two records of task {record.task!r} with seed {record.seed}: each attempt counts once."
            )
        grouped[record.task][record.seed] = record
    return dict(grouped)


def _average(
    tasks: Sequence[str], scores: Mapping[str, Score], draws: Mapping[str, NDArray[np.float64]]
) -> Score | None:
    if not tasks:
        return None
    # Tasks are resampled independently, so draws of the mean are means of the draws.
    pooled = np.mean([draws[task] for task in tasks], axis=0)
    estimates = {
        quantity: percentile_interval(
            float(np.mean([getattr(scores[task], quantity).value for task in tasks])), pooled[:, column]
        )
        for column, quantity in enumerate(QUANTITIES)
    }
    return Score(
        episodes=sum(scores[task].episodes for task in tasks),
        interventions=sum(scores[task].interventions for task in tasks),
        **estimates,
    )


def score(
    records: Sequence[EvaluationRecord],
    horizons: Mapping[str, Horizon],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Scores:
    """Scores of one policy from its evaluation episodes.

    Args:
        records: in any order; each (task, seed) at most once. The result does not depend on the order.
        horizons: short or long for every task that occurs; its order is the order of the result.
        seed: of the bootstrap.
        resamples: draws of the bootstrap.

    Raises:
        ConfigError: no records, or two of one task and seed.
        UnknownNameError: a task without a horizon.
    """
    grouped = _by_task(records)
    if not grouped:
        raise ConfigError("score: no evaluation records.")
    for task in grouped:
        if task not in horizons:
            raise UnknownNameError("task", task, horizons)
    names = [task for task in horizons if task in grouped]
    tasks: dict[str, Score] = {}
    draws: dict[str, NDArray[np.float64]] = {}
    for task in names:
        rows = [grouped[task][attempt] for attempt in sorted(grouped[task])]
        values = _matrix(rows)
        draws[task] = bootstrap_means(values, seed=seed, stratum=task, resamples=resamples)
        tasks[task] = Score(
            episodes=len(rows),
            success=wilson(sum(row.success for row in rows), len(rows)),
            stage_score=percentile_interval(float(values[:, 1].mean()), draws[task][:, 1]),
            cycle_time_s=percentile_interval(float(values[:, 2].mean()), draws[task][:, 2]),
            interventions=sum(row.interventions for row in rows),
        )
    return Scores(
        horizons={task: horizons[task] for task in names},
        tasks=tasks,
        average=cast(Score, _average(names, tasks, draws)),
        short=_average([task for task in names if horizons[task] == "short"], tasks, draws),
        long=_average([task for task in names if horizons[task] == "long"], tasks, draws),
    )


def paired_difference(
    a: Sequence[EvaluationRecord],
    b: Sequence[EvaluationRecord],
    quantity: Quantity = "success",
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> PairedDifference:
    """How much better b is than a on the attempts (task, seed) that both made.

    Pairing removes the luck of the initial conditions.
    """
    left, right = _by_task(a), _by_task(b)
    means: list[float] = []
    draws: list[NDArray[np.float64]] = []
    pairs = 0
    for task in sorted(left.keys() & right.keys()):
        common = sorted(left[task].keys() & right[task].keys())
        if not common:
            continue
        differences = np.asarray(
            [
                [
                    float(getattr(right[task][attempt], quantity))
                    - float(getattr(left[task][attempt], quantity))
                ]
                for attempt in common
            ],
            dtype=np.float64,
        )
        means.append(float(differences.mean()))
        draws.append(bootstrap_means(differences, seed=seed, stratum=task, resamples=resamples)[:, 0])
        pairs += len(common)
    if not pairs:
        raise ConfigError(
            "paired_difference: no (task, seed) occurs in both; evaluate both policies on the same seeds."
        )
    difference = percentile_interval(float(np.mean(means)), np.mean(draws, axis=0))
    return PairedDifference(
        quantity=quantity, difference=difference, pairs=pairs, unpaired=len(a) + len(b) - 2 * pairs
    )


def read_horizons(horizons: Mapping[str, str], where: str) -> dict[str, Horizon]:
    """Task names with their horizon, checked to be short or long."""
    for task, horizon in horizons.items():
        if horizon not in ("short", "long"):
            raise ResultError(f"{where}: {task}", f"expected the horizon short or long, got {horizon!r}.")
    return {task: cast(Horizon, horizon) for task, horizon in horizons.items()}
