"""`summary.json`: what a demo run reached, and what it ran on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from lwd.evaluate.jsonfile import Node, ResultError, read_node, write_checked
from lwd.evaluate.scores import QUANTITIES, Score, Scores, read_horizons
from lwd.spec import Horizon

SUMMARY_SCHEMA = 1
METHODS: Mapping[str, str] = {"sft": "SFT", "lwd_offline": "LWD offline", "lwd_online": "LWD online"}
"""The rows of the results table: key in the file, name on a page."""

_COSTS = ("robot_hours", "interventions", "operator_minutes")
_AVERAGES = ("average", "short", "long")
_SLACK = 1e-6


@dataclass(frozen=True, kw_only=True)
class Line:
    """One task, or one average over tasks.

    Attributes:
        success: share in [0, 1]; low, high: its 95 % interval (Wilson for a task, stratified bootstrap for an
            average).
        stage_score: mean of milestones reached / total; cycle_time_s: mean seconds from reset to outcome.
        episodes: how many were evaluated.
    """

    success: float
    low: float
    high: float
    stage_score: float
    cycle_time_s: float
    episodes: int


@dataclass(frozen=True, kw_only=True)
class MethodSummary:
    """One row of the table.

    Attributes:
        tasks: a line per task; average, short, long: means of task means, None where there is no such task.
        robot_hours: hours of fleet time that this method's training data took online (0 for SFT and offline).
        interventions: times an operator took over during them; operator_minutes: minutes for which one
            commanded.
    """

    tasks: Mapping[str, Line]
    average: Line
    short: Line | None
    long: Line | None
    robot_hours: float
    interventions: int
    operator_minutes: float


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A whole demo run.

    Attributes:
        seed: of the run; wall_s: seconds from start to end.
        tasks: horizon per task, in the table's order.
        commit, hardware, software, command: what ran; see `lwd.evaluate.provenance`.
        methods: keys of `METHODS`, all of them.
    """

    seed: int
    wall_s: float
    tasks: Mapping[str, Horizon]
    commit: str
    hardware: Mapping[str, str]
    software: Mapping[str, str]
    command: str
    methods: Mapping[str, MethodSummary]


def _line(score: Score) -> Line:
    return Line(
        success=score.success.value,
        low=score.success.low,
        high=score.success.high,
        stage_score=score.stage_score.value,
        cycle_time_s=score.cycle_time_s.value,
        episodes=score.episodes,
    )


def summarise(
    scores: Scores, *, robot_hours: float = 0.0, interventions: int = 0, operator_minutes: float = 0.0
) -> MethodSummary:
    """One method's row from its scores and what its online data cost."""
    return MethodSummary(
        tasks={task: _line(score) for task, score in scores.tasks.items()},
        average=_line(scores.average),
        short=None if scores.short is None else _line(scores.short),
        long=None if scores.long is None else _line(scores.long),
        robot_hours=robot_hours,
        interventions=interventions,
        operator_minutes=operator_minutes,
    )


def summary_to_json(summary: Summary) -> dict[str, object]:
    """What the file holds: methods at the top level, tasks inside them (`["sft"]["restock"]["success"]`)."""
    content: dict[str, object] = {
        "schema": SUMMARY_SCHEMA,
        "command": summary.command,
        "commit": summary.commit,
        "seed": summary.seed,
        "wall_s": summary.wall_s,
        "hardware": dict(summary.hardware),
        "software": dict(summary.software),
        "tasks": {task: {"horizon": horizon} for task, horizon in summary.tasks.items()},
    }
    for name, method in summary.methods.items():
        averages = {key: getattr(method, key) for key in _AVERAGES}
        content[name] = {
            **{task: asdict(line) for task, line in method.tasks.items()},
            **{key: None if line is None else asdict(line) for key, line in averages.items()},
            **{key: getattr(method, key) for key in _COSTS},
        }
    return content


def write_summary(path: Path, summary: Summary) -> None:
    """Write `summary.json`, after checking that it can be read back; a `ResultError` leaves what is there as it is."""
    write_checked(path, summary_to_json(summary), read_summary)


def read_summary(path: Path) -> Summary:
    """Read and check `summary.json`; a `ResultError` names the first field that does not fit.

    Checked besides types and ranges: every method has the same tasks, success lies in its interval, and the
    averages are means of the task means.
    """
    node = read_node(path, SUMMARY_SCHEMA)
    tasks = _read_tasks(node.child("tasks"), str(path))
    result = Summary(
        seed=node.integer("seed"),
        wall_s=node.number("wall_s", 0),
        tasks=tasks,
        commit=node.text("commit"),
        hardware=node.texts("hardware"),
        software=node.texts("software"),
        command=node.text("command"),
        methods={name: _read_method(node.child(name), tasks) for name in METHODS},
    )
    node.done()
    return result


def _read_tasks(node: Node, where: str) -> dict[str, Horizon]:
    horizons: dict[str, str] = {}
    for task in node.names():
        if task in (*_COSTS, *_AVERAGES):
            raise node.error(task, "cannot be a task: the methods have a field of this name.")
        child = node.child(task)
        horizons[task] = child.text("horizon")
        child.done()
    if not horizons:
        raise ResultError(f"{where}: tasks", "expected at least one task.")
    return read_horizons(horizons, f"{where}: tasks")


def _read_line(node: Node) -> Line:
    line = Line(
        success=node.number("success", 0, 1),
        low=node.number("low", 0, 1),
        high=node.number("high", 0, 1),
        stage_score=node.number("stage_score", 0, 1),
        cycle_time_s=node.number("cycle_time_s", 0),
        episodes=node.integer("episodes", 1),
    )
    if not line.low - _SLACK <= line.success <= line.high + _SLACK:
        raise node.error("success", f"{line.success} is not inside [low, high] = [{line.low}, {line.high}].")
    node.done()
    return line


def _read_average(node: Node | None, name: str, parent: Node, lines: list[Line]) -> Line | None:
    if (node is None) != (not lines):
        raise parent.error(name, "expected null exactly where no task has this horizon.")
    if node is None:
        return None
    line = _read_line(node)
    for quantity in QUANTITIES:
        expected = float(np.mean([getattr(task, quantity) for task in lines]))
        if abs(getattr(line, quantity) - expected) > _SLACK * max(1.0, expected):
            raise node.error(
                quantity, f"{getattr(line, quantity)} is not the mean of the tasks' means, {expected:.6g}."
            )
    return line


def _read_method(node: Node, horizons: Mapping[str, Horizon]) -> MethodSummary:
    lines = {task: _read_line(node.child(task)) for task in horizons}

    def average(name: str) -> Line | None:
        members = [line for task, line in lines.items() if name in ("average", horizons[task])]
        return _read_average(node.optional_child(name), name, node, members)

    whole = average("average")
    assert whole is not None  # there is at least one task, so null was refused
    result = MethodSummary(
        tasks=lines,
        average=whole,
        short=average("short"),
        long=average("long"),
        robot_hours=node.number("robot_hours", 0),
        interventions=node.integer("interventions"),
        operator_minutes=node.number("operator_minutes", 0),
    )
    node.done()
    return result
