"""What is kept of one run, small enough to commit: every evaluation episode, what it cost, what made it, thin curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lwd.errors import ConfigError
from lwd.evaluate.jsonfile import Node, ResultError, read_node, write_checked
from lwd.evaluate.records import EvaluationRecord
from lwd.evaluate.report.run import DataRow, ValueTrace, read_data_row, read_trace
from lwd.evaluate.scores import read_horizons
from lwd.spec import Horizon

RUN_FILE_SCHEMA = 1
"""Version of the run file."""

_COLUMNS = ("seed", "success", "stage_score", "cycle_time_s", "steps")


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What the online stage took: hours of robot time, takeovers, minutes that a human commanded. All 0 before it."""

    robot_hours: float = 0.0
    interventions: int = 0
    operator_minutes: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points of a curve; `x` rises."""

    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class FleetCurve:
    """The fleet's own online episodes, in groups in order of time.

    Attributes:
        robot_hours: hours of robot time up to the middle of each group.
        alone: share of episodes that succeeded without any help; helped: that succeeded, help included.
        human: share of control steps that a human commanded.
    """

    robot_hours: Sequence[float]
    alone: Sequence[float]
    helped: Sequence[float]
    human: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class RunFile:
    """One run of the evidence.

    Attributes:
        command, commit, hardware, software: what ran; see `lwd.evaluate.provenance`.
        timing: seconds per phase.
        settings: all of them, by path; differs: those that are not the benchmark's own.
        tasks: horizon per task, in the tables' order.
        sft_policy: the first 12 hex digits of the SFT snapshot that it went on from; "" in files from before it was kept.
        records: one per evaluation episode.
        dataset: the offline data, of an SFT run.
        fleet: of a run with an online stage.
        learner: metric -> curve over the learner steps of the run's last stage.
        traces: what the value thought along a success and a failure, of a run that has them.
    """

    benchmark: str
    method: str
    stage: str
    seed: int
    command: str
    commit: str
    hardware: Mapping[str, str]
    software: Mapping[str, str]
    timing: Mapping[str, float]
    settings: Mapping[str, str]
    differs: Mapping[str, str]
    tasks: Mapping[str, Horizon]
    costs: Costs
    records: Sequence[EvaluationRecord]
    sft_policy: str = ""
    dataset: Sequence[DataRow] = ()
    fleet: FleetCurve | None = None
    learner: Mapping[str, Curve] = field(default_factory=dict[str, Curve])
    traces: Sequence[ValueTrace] = ()

    @property
    def wall_s(self) -> float:
        """Seconds of all its phases."""
        return float(sum(self.timing.values()))

    @property
    def id(self) -> str:
        """Of the cell that it is the file of."""
        return f"{self.benchmark}/{self.method}/seed_{self.seed}"


def write_run_file(path: Path, run: RunFile) -> None:
    """Write a run file, after checking that it can be read back; a `ResultError` leaves what is there as it is."""
    content: dict[str, Any] = {
        "schema": RUN_FILE_SCHEMA,
        **{
            name: getattr(run, name) for name in ("benchmark", "method", "stage", "seed", "command", "commit")
        },
        **({"sft_policy": run.sft_policy} if run.sft_policy else {}),
        "wall_s": run.wall_s,
        **{
            name: dict(getattr(run, name))
            for name in ("timing", "hardware", "software", "differs", "settings")
        },
        "tasks": {task: {"horizon": horizon} for task, horizon in run.tasks.items()},
        "costs": asdict(run.costs),
        "evaluation": {task: _columns(run.records, task) for task in run.tasks},
        "dataset": [asdict(row) for row in run.dataset],
        "fleet": None if run.fleet is None else asdict(run.fleet),
        "learner": {name: asdict(curve) for name, curve in run.learner.items()},
        "traces": [_trace_columns(trace) for trace in run.traces],
    }
    write_checked(path, content, read_run_file, flat_lists=True)


def _columns(records: Sequence[EvaluationRecord], task: str) -> dict[str, list[int | float]]:
    rows = sorted((record for record in records if record.task == task), key=lambda record: record.seed)
    return {
        name: [
            round(value, 4) if isinstance(value := getattr(row, name), float) else int(value) for row in rows
        ]
        for name in _COLUMNS
    }


def _trace_columns(trace: ValueTrace) -> dict[str, Any]:
    arrays = ("times_s", "quantile", "entropy", "tau", "probabilities", "atoms")
    return {
        "task": trace.task,
        "outcome": trace.outcome,
        **{name: getattr(trace, name).round(4).tolist() for name in arrays},
    }


def read_run_file(path: Path) -> RunFile:
    """Read and check a run file; a `ResultError` names the first field that does not fit."""
    node = read_node(path, RUN_FILE_SCHEMA)
    tasks = _read_tasks(node.child("tasks"), f"{path}: tasks")
    run = RunFile(
        benchmark=node.text("benchmark"),
        method=node.text("method"),
        stage=node.text("stage"),
        seed=node.integer("seed"),
        command=node.text("command"),
        commit=node.text("commit"),
        hardware=node.texts("hardware"),
        software=node.texts("software"),
        timing=_numbers(node.child("timing")),
        settings=node.texts("settings"),
        differs=node.texts("differs"),
        tasks=tasks,
        costs=_read_costs(node.child("costs")),
        records=_read_evaluation(node.child("evaluation"), tasks),
        sft_policy=node.text("sft_policy") if "sft_policy" in node.names() else "",
        dataset=[read_data_row(row) for row in node.list_of_nodes("dataset")],
        fleet=_read_fleet(node.optional_child("fleet")),
        learner=_read_learner(node.child("learner")),
        traces=[read_trace(row) for row in node.list_of_nodes("traces")],
    )
    if abs(node.number("wall_s", 0) - run.wall_s) > 1e-6 * max(1.0, run.wall_s):
        raise node.error("wall_s", f"is not the sum of timing, {run.wall_s}.")
    node.done()
    if not str(path.with_suffix("")).endswith(run.id):
        raise ResultError(str(path), f"holds the run {run.id}; its place is runs/{run.id}.json.")
    return run


def read_run_files(folder: Path) -> list[RunFile]:
    """The run files of a benchmark, in the order of their names."""
    return [read_run_file(path) for path in sorted(folder.glob("*/seed_*.json"))]


def _read_tasks(node: Node, where: str) -> dict[str, Horizon]:
    children = {task: node.child(task) for task in node.names()}
    if not children:
        raise ResultError(where, "expected at least one task.")
    horizons = {task: child.text("horizon") for task, child in children.items()}
    for child in children.values():
        child.done()
    return read_horizons(horizons, where)


def _numbers(node: Node) -> dict[str, float]:
    return {name: node.number(name, 0) for name in node.names()}


def _read_costs(node: Node) -> Costs:
    costs = Costs(
        robot_hours=node.number("robot_hours", 0),
        interventions=node.integer("interventions"),
        operator_minutes=node.number("operator_minutes", 0),
    )
    node.done()
    return costs


def _read_evaluation(node: Node, tasks: Mapping[str, Horizon]) -> list[EvaluationRecord]:
    records: list[EvaluationRecord] = []
    for task in tasks:
        child = node.child(task)
        columns = {
            "seed": child.numbers("seed", 0),
            "success": child.numbers("success", 0, 1),
            "stage_score": child.numbers("stage_score", 0, 1),
            "cycle_time_s": child.numbers("cycle_time_s", 0),
            "steps": child.numbers("steps", 0),
        }
        child.done()
        _check_columns(node, task, columns)
        for seed, success, stage_score, cycle_time_s, steps in zip(*columns.values(), strict=True):
            records.append(
                EvaluationRecord(
                    task=task,
                    seed=int(seed),
                    success=success == 1,
                    stage_score=stage_score,
                    cycle_time_s=cycle_time_s,
                    steps=int(steps),
                )
            )
    node.done()
    return records


def _check_columns(node: Node, task: str, columns: Mapping[str, Sequence[float]]) -> None:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1 or not lengths["seed"]:
        raise node.error(task, f"expected columns of one length, at least 1, got {lengths}.")
    if len(set(columns["seed"])) != lengths["seed"]:
        raise node.error(task, "has two episodes with the same seed: each attempt counts once.")
    if any(success not in (0, 1) for success in columns["success"]):
        raise node.error(f"{task}.success", "expected 0 or 1 for every episode.")


def _read_fleet(node: Node | None) -> FleetCurve | None:
    if node is None:
        return None
    curve = FleetCurve(
        robot_hours=node.numbers("robot_hours", 0),
        alone=node.numbers("alone", 0, 1),
        helped=node.numbers("helped", 0, 1),
        human=node.numbers("human", 0, 1),
    )
    node.done()
    if len({len(column) for column in vars(curve).values()}) != 1:
        raise node.error("", "expected columns of one length.")
    return curve


def _read_learner(node: Node) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    for name in node.names():
        child = node.child(name)
        curves[name] = Curve(x=child.numbers("x"), y=child.numbers("y"))
        child.done()
        if len(curves[name].x) != len(curves[name].y):
            raise node.error(name, f"has {len(curves[name].x)} x and {len(curves[name].y)} y.")
    return curves


def check_alike(runs: Sequence[RunFile]) -> None:
    """Refuse to average runs of one row that were not made alike.

    Raises:
        ConfigError: seeds of a row differ in settings, tasks or evaluated episodes.
    """
    first = runs[0]
    for run in runs[1:]:
        if (run.settings, list(run.tasks), attempts(run)) != (
            first.settings,
            list(first.tasks),
            attempts(first),
        ):
            raise ConfigError(
                f"{run.id} and {first.id} differ in settings (or tasks, or evaluated episodes) and cannot be averaged. "
                "Delete the older run file and its run folder, then `lwd results run`."
            )


def attempts(run: RunFile) -> list[tuple[str, int]]:
    """Task and start of each evaluation episode."""
    return [(record.task, record.seed) for record in run.records]
