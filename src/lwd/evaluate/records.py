"""What an evaluation leaves: one record per episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lwd.errors import ConfigError
from lwd.evaluate.jsonfile import read_node, write_json

RECORDS_SCHEMA = 1
"""Version of the records file."""


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """One evaluation episode.

    Attributes:
        task: name of the task; seed: of the attempt's initial conditions, so that two policies can be
            compared on the same ones.
        success: the verdict; stage_score: milestones reached / total, in [0, 1].
        cycle_time_s: seconds of robot time from reset to outcome; a failure counts with the time it took.
        steps: control steps; interventions: times that an operator took over (0 when the policy is judged
            alone).
    """

    task: str
    seed: int
    success: bool
    stage_score: float
    cycle_time_s: float
    steps: int
    interventions: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.stage_score <= 1.0:
            raise ConfigError(
                f"record {self.task}/{self.seed}: stage_score {self.stage_score} is not in [0, 1]."
            )
        if not 0.0 <= self.cycle_time_s < float("inf"):
            raise ConfigError(
                f"record {self.task}/{self.seed}: cycle_time_s {self.cycle_time_s} is not a duration."
            )
        if self.steps < 0 or self.interventions < 0:
            raise ConfigError(f"record {self.task}/{self.seed}: steps and interventions cannot be negative.")


def write_records(path: Path, records: Sequence[EvaluationRecord]) -> None:
    """Write evaluation records as JSON."""
    write_json(path, {"schema": RECORDS_SCHEMA, "records": [asdict(record) for record in records]})


def read_records(path: Path) -> list[EvaluationRecord]:
    """Read what `write_records` wrote; a `ResultError` names the first field that does not fit."""
    node = read_node(path, RECORDS_SCHEMA)
    records: list[EvaluationRecord] = []
    for item in node.list_of_nodes("records"):
        records.append(
            EvaluationRecord(
                task=item.text("task"),
                seed=item.integer("seed"),
                success=item.flag("success"),
                stage_score=item.number("stage_score", 0, 1),
                cycle_time_s=item.number("cycle_time_s", 0),
                steps=item.integer("steps"),
                interventions=item.integer("interventions"),
            )
        )
        item.done()
    node.done()
    return records
