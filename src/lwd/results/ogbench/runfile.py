"""What is kept of one run: its curve, what it learned from, what made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lwd.evaluate.jsonfile import read_node, write_checked

SCHEMA = 1
FOLDER = Path("results/ogbench")
MAY_GROW = ("run.updates", "run.online_steps")
"""Settings that may differ when a run goes on: there is no schedule that depends on them."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One evaluation.

    Attributes:
        updates: learner steps so far; control_steps: of the robot online, 0 in the offline stage.
        successes, episodes: held-out episodes that ended in success, of how many.
    """

    updates: int
    control_steps: int
    successes: int
    episodes: int


@dataclass(frozen=True, kw_only=True)
class OgbenchRun:
    """One run.

    Attributes:
        data: what it learned from, in words; settings: all others, by name.
        seconds: of processor and waiting, all attempts together.
        complete: whether all its updates are done, and what they left is evaluated.
    """

    task: str
    size: str
    seed: int
    data: str
    command: str
    commit: str
    hardware: Mapping[str, str]
    software: Mapping[str, str]
    settings: Mapping[str, str]
    seconds: float
    complete: bool
    curve: Sequence[Point]


def run_path(results: Path, size: str, task: str, seed: int) -> Path:
    """Place of a run's file."""
    return results / size / task / f"seed_{seed}.json"


def write_run(results: Path, run: OgbenchRun) -> Path:
    """Write a run file, after checking that it can be read back; a `ResultError` leaves what is there as it is."""
    path = run_path(results, run.size, run.task, run.seed)
    write_checked(path, {"schema": SCHEMA, **asdict(run)}, read_run)
    return path


def read_run(path: Path) -> OgbenchRun:
    """Read and check a run file; a `ResultError` names the first field that does not fit."""
    node = read_node(path, SCHEMA)
    curve: list[Point] = []
    for item in node.list_of_nodes("curve"):
        point = Point(
            updates=item.integer("updates", 1),
            control_steps=item.integer("control_steps"),
            successes=item.integer("successes"),
            episodes=item.integer("episodes", 1),
        )
        item.done()
        if point.successes > point.episodes:
            raise item.error("successes", f"expected at most {point.episodes}, got {point.successes}.")
        curve.append(point)
    run = OgbenchRun(
        **{name: node.text(name) for name in ("task", "size", "data", "command", "commit")},
        seed=node.integer("seed"),
        hardware=node.texts("hardware"),
        software=node.texts("software"),
        settings=node.texts("settings"),
        seconds=node.number("seconds", 0),
        complete=node.flag("complete"),
        curve=curve,
    )
    node.done()
    if [p.updates for p in curve] != sorted({p.updates for p in curve}):
        raise node.error("curve", "expected updates that rise.")
    return run


def read_runs(results: Path) -> list[OgbenchRun]:
    """All run files, in the order of their names."""
    return [read_run(path) for path in sorted(results.glob("*/*/seed_*.json"))]
