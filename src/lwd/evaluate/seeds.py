"""Several runs that differ in their seed.

Means over seeds, and the three checks that the project's claim stands on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lwd.errors import ConfigError
from lwd.evaluate.intervals import t_interval
from lwd.evaluate.summary import METHODS, Line, MethodSummary, Summary

ONLINE_GAIN = 0.10
"""Least gain in average success of online over SFT that counts as shown."""

_SLACK = 1e-9


@dataclass(frozen=True, kw_only=True)
class Check:
    """One claim, whether it holds, and the numbers that say so."""

    claim: str
    passed: bool
    detail: str


def in_order(summaries: Sequence[Summary]) -> list[Summary]:
    """The runs by seed, after checking that they can be averaged: same tasks, different seeds."""
    if not summaries:
        raise ConfigError("no summaries: run the demo first, it writes summary.json.")
    seeds = [summary.seed for summary in summaries]
    if len(set(seeds)) != len(seeds):
        raise ConfigError(f"each seed counts once, got seeds {sorted(seeds)}.")
    first = dict(summaries[0].tasks)
    for summary in summaries[1:]:
        if dict(summary.tasks) != first:
            raise ConfigError(
                f"seeds {summaries[0].seed} and {summary.seed} were run on different tasks: "
                f"{', '.join(first)} and {', '.join(summary.tasks)}."
            )
    return sorted(summaries, key=lambda summary: summary.seed)


def _mean_line(lines: Sequence[Line]) -> Line:
    """Mean over seeds; low and high are the t interval over seeds, kept inside [0, 1]."""
    success = t_interval([line.success for line in lines])
    return Line(
        success=success.value,
        low=max(0.0, success.low),
        high=min(1.0, success.high),
        stage_score=t_interval([line.stage_score for line in lines]).value,
        cycle_time_s=t_interval([line.cycle_time_s for line in lines]).value,
        episodes=sum(line.episodes for line in lines),
    )


def _mean_optional(lines: Sequence[Line | None]) -> Line | None:
    present = [line for line in lines if line is not None]
    return _mean_line(present) if present else None


def mean_over_seeds(summaries: Sequence[Summary]) -> dict[str, MethodSummary]:
    """Per method the mean over seeds. Its intervals are over seeds (Student's t), not over episodes."""
    runs = in_order(summaries)
    result: dict[str, MethodSummary] = {}
    for name in METHODS:
        rows = [run.methods[name] for run in runs]
        result[name] = MethodSummary(
            tasks={task: _mean_line([row.tasks[task] for row in rows]) for task in runs[0].tasks},
            average=_mean_line([row.average for row in rows]),
            short=_mean_optional([row.short for row in rows]),
            long=_mean_optional([row.long for row in rows]),
            robot_hours=sum(row.robot_hours for row in rows) / len(rows),
            interventions=round(sum(row.interventions for row in rows) / len(rows)),
            operator_minutes=sum(row.operator_minutes for row in rows) / len(rows),
        )
    return result


def checks(summaries: Sequence[Summary]) -> tuple[Check, ...]:
    """Check the project's claim.

    Offline above SFT in each seed, online at least 0.10 above SFT in each, online not below offline in the
    mean.
    """
    runs = in_order(summaries)
    offline = [_gain(run, "sft", "lwd_offline") for run in runs]
    online = [_gain(run, "sft", "lwd_online") for run in runs]
    step = t_interval([_gain(run, "lwd_offline", "lwd_online") for run in runs])
    each = "" if len(runs) == 1 else " in each seed"
    spread = "" if len(runs) == 1 else f" [{step.low:+.3f}, {step.high:+.3f}]"
    return (
        Check(
            claim=f"Offline above SFT{each}",
            passed=min(offline) > _SLACK,
            detail="offline - SFT: " + _per_seed(runs, offline),
        ),
        Check(
            claim=f"Online at least {ONLINE_GAIN:.2f} above SFT{each}",
            passed=min(online) >= ONLINE_GAIN - _SLACK,
            detail="online - SFT: " + _per_seed(runs, online),
        ),
        Check(
            claim="Online not below offline" + ("" if len(runs) == 1 else " in the mean"),
            passed=step.value >= -_SLACK,
            detail=f"online - offline: {step.value:+.3f}{spread}",
        ),
    )


def _gain(run: Summary, below: str, above: str) -> float:
    return run.methods[above].average.success - run.methods[below].average.success


def _per_seed(runs: Sequence[Summary], gains: Sequence[float]) -> str:
    if len(runs) == 1:
        return f"{gains[0]:+.3f}"
    return ", ".join(f"{gain:+.3f} (seed {run.seed})" for run, gain in zip(runs, gains, strict=True))
