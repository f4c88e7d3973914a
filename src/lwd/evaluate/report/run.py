"""A run directory, read for the report. What is missing or damaged is noted, not raised.

The contract is docs/reference/run_directory.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from lwd.errors import LwdError
from lwd.evaluate.jsonfile import Node, ResultError, parse_json, read_text
from lwd.evaluate.jsonl import read_jsonl
from lwd.evaluate.records import EvaluationRecord, read_records
from lwd.evaluate.summary import METHODS, Summary, read_summary

STAGES = ("sft", "offline", "online")
T = TypeVar("T")


@dataclass(frozen=True)
class Missing:
    """Why a part of the report has nothing to show."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class FleetEpisode:
    """One line of `episodes.jsonl`; see `lwd.episode` for the words. Times in seconds since the fleet first began."""

    episode_id: str
    robot: str
    task: str
    source: str
    snapshot: int | None
    outcome: str
    stage_score: float
    steps: int
    intervention_steps: int
    takeovers: int
    started_s: float
    ended_s: float
    cycle_time_s: float


@dataclass(frozen=True, kw_only=True, eq=False)
class ValueTrace:
    """What the value thought along one episode.

    Attributes:
        times_s: [T]; quantile, entropy, tau: [T]; probabilities: [T, K], p(v | s_t); atoms: [K], rising.
    """

    task: str
    outcome: str
    times_s: NDArray[np.float64]
    quantile: NDArray[np.float64]
    entropy: NDArray[np.float64]
    tau: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    atoms: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class DataRow:
    """Hours of one task from one source."""

    task: str
    source: str
    episodes: int
    hours: float
    success_hours: float
    failure_hours: float


@dataclass(frozen=True, eq=False)
class Metrics:
    """All metric lines of a run, in the order of their files and lines."""

    rows: Sequence[Mapping[str, object]]

    def series(self, stage: str, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Learner steps and values of a metric in a stage; lines without it, or with null, are left out."""
        pairs = [
            (float(step), float(value))
            for row in self.rows
            if row.get("stage") == stage
            and isinstance(step := row.get("learner_step"), int | float)
            and isinstance(value := row.get(name), int | float)
        ]
        table = np.asarray(pairs, dtype=np.float64).reshape(-1, 2)
        table = table[np.argsort(table[:, 0], kind="stable")]
        return table[:, 0], table[:, 1]

    def stages(self, name: str) -> tuple[str, ...]:
        """Stages in which a metric occurs."""
        return tuple(stage for stage in STAGES if len(self.series(stage, name)[0]))


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """Everything the report shows; each part is there or says why not."""

    summary: Summary | Missing
    metrics: Metrics | Missing
    episodes: Sequence[FleetEpisode] | Missing
    traces: Sequence[ValueTrace] | Missing
    dataset: Sequence[DataRow] | Missing
    timing: Mapping[str, float] | Missing
    records: Mapping[str, Sequence[EvaluationRecord]] | Missing


def read_run(run_dir: Path) -> Run:
    """Read what a run left behind, complete or not."""
    return Run(
        summary=_part(run_dir / "summary.json", read_summary),
        metrics=_part(run_dir / "metrics", _read_metrics),
        episodes=_part(run_dir / "episodes.jsonl", _read_episodes),
        traces=_part(run_dir / "value_traces.json", _read_traces),
        dataset=_part(run_dir / "dataset.json", _read_dataset),
        timing=_part(run_dir / "timing.json", _read_timing),
        records=_part(run_dir / "evaluations", _read_evaluations),
    )


def _part(path: Path, read: Callable[[Path], T]) -> T | Missing:
    if not path.exists():
        return Missing(f"{path.name}{'' if path.suffix else '/'} is not in the run directory.")
    try:
        return read(path)
    except LwdError as error:
        return Missing(f"{path.name} cannot be shown: {error}")


def _read_metrics(folder: Path) -> Metrics:
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise ResultError(str(folder), "no *.jsonl file inside.")
    # A line without a stage belongs to the stage that its file is named after.
    return Metrics([{"stage": file.stem, **row} for file in files for row in read_jsonl(file)])


def _read_episodes(path: Path) -> list[FleetEpisode]:
    episodes = [_episode(Node(row, f"{path.name}: line {n}")) for n, row in enumerate(read_jsonl(path), 1)]
    if not episodes:
        raise ResultError(path.name, "it is empty.")
    return on_one_clock(episodes)


def on_one_clock(episodes: Sequence[FleetEpisode]) -> list[FleetEpisode]:
    """Episodes in the order in which they were written, their times made to go on where the clock began at 0 again.

    The fleet's clock does so with each part of its hours and after a cut. Lines are written as episodes end, so that an end
    before the last line's says where.
    """
    begun, last, joined = 0.0, 0.0, list[FleetEpisode]()
    for episode in episodes:
        if episode.ended_s < last:
            begun += last
        last = episode.ended_s
        joined.append(replace(episode, started_s=begun + episode.started_s, ended_s=begun + last))
    return joined


class FleetGroup(NamedTuple):
    """Online episodes that began one after the other, and the hours of robot time up to the middle of them."""

    robot_hours: float
    episodes: Sequence[FleetEpisode]


def online_groups(episodes: Sequence[FleetEpisode], most: int) -> list[FleetGroup]:
    """The fleet's online episodes in at most `most` groups, of eight or more; empty without an online episode."""
    # By their beginning: of those that end first, most are short, and short ones are the successes.
    online = sorted((e for e in episodes if e.source == "online"), key=lambda e: e.started_s)
    if not online:
        return []
    hours = np.cumsum([e.cycle_time_s for e in online]) / 3600
    groups = np.array_split(np.arange(len(online)), min(most, max(1, len(online) // 8)))
    return [FleetGroup(float(hours[rows].mean()), [online[row] for row in rows]) for rows in groups]


def _episode(node: Node) -> FleetEpisode:
    started, ended = node.number("started_s"), node.number("ended_s")
    if ended < started:
        raise node.error("ended_s", f"{ended} is before started_s, {started}.")
    return FleetEpisode(
        episode_id=node.text("episode_id"),
        robot=node.text("robot"),
        task=node.text("task"),
        source=node.text("source"),
        snapshot=None if node.is_null("snapshot") else node.integer("snapshot"),
        outcome=node.text("outcome"),
        stage_score=node.number("stage_score", 0, 1),
        steps=node.integer("steps"),
        intervention_steps=node.integer("intervention_steps"),
        takeovers=node.integer("takeovers"),
        started_s=started,
        ended_s=ended,
        cycle_time_s=node.number("cycle_time_s", 0) if "cycle_time_s" in node.names() else ended - started,
    )


def _rows(path: Path) -> list[Node]:
    value = parse_json(read_text(path), path.name)
    if not isinstance(value, list) or not value:
        raise ResultError(path.name, "expected a list with at least one entry.")
    items = cast("list[object]", value)
    return [Node(item, path.name, f"[{index}]") for index, item in enumerate(items)]


def _array(node: Node, key: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    try:
        array = np.asarray(node.take(key), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise node.error(key, "expected numbers in rows of equal length.") from error
    # -1 in `shape` takes any length.
    if len(array.shape) != len(shape) or any(
        w not in (-1, s) for w, s in zip(shape, array.shape, strict=True)
    ):
        wanted = tuple("any" if size == -1 else size for size in shape)
        raise node.error(key, f"expected the shape {wanted}, got {array.shape}.")
    if not array.size or not np.isfinite(array).all():
        raise node.error(key, "expected finite numbers, at least one.")
    return array


def _read_traces(path: Path) -> list[ValueTrace]:
    return [read_trace(node) for node in _rows(path)]


def read_trace(node: Node) -> ValueTrace:
    """One entry of `value_traces.json`."""
    times = _array(node, "times_s", (-1,))
    atoms = _array(node, "atoms", (-1,))
    if (np.diff(times) < 0).any() or (np.diff(atoms) <= 0).any():
        raise node.error("times_s", "times and atoms must rise.")
    return ValueTrace(
        task=node.text("task"),
        outcome=node.text("outcome"),
        times_s=times,
        quantile=_array(node, "quantile", times.shape),
        entropy=_array(node, "entropy", times.shape),
        tau=_array(node, "tau", times.shape),
        probabilities=_array(node, "probabilities", (len(times), len(atoms))),
        atoms=atoms,
    )


def _read_dataset(path: Path) -> list[DataRow]:
    return [read_data_row(node) for node in _rows(path)]


def read_data_row(node: Node) -> DataRow:
    """One entry of `dataset.json`."""
    return DataRow(
        task=node.text("task"),
        source=node.text("source"),
        episodes=node.integer("episodes"),
        hours=node.number("hours", 0),
        success_hours=node.number("success_hours", 0),
        failure_hours=node.number("failure_hours", 0),
    )


def _read_timing(path: Path) -> dict[str, float]:
    node = Node(parse_json(read_text(path), path.name), path.name)
    return {phase: node.number(phase, 0) for phase in node.names()}


def _read_evaluations(folder: Path) -> dict[str, list[EvaluationRecord]]:
    files = {name: folder / f"{name}.json" for name in METHODS}
    found = {name: read_records(file) for name, file in files.items() if file.exists()}
    if not found:
        raise ResultError(str(folder), f"none of {', '.join(file.name for file in files.values())} inside.")
    return found
