"""Run files made of invented numbers, for tests of the tables and figures only."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from lwd.evaluate.records import EvaluationRecord
from lwd.evaluate.report.run import ValueTrace
from lwd.results.pages import README, WHAT_PAYS
from lwd.results.plan import BENCHMARKS, Cell, plan
from lwd.results.runfile import Costs, Curve, FleetCurve, RunFile, write_run_file
from lwd.results.settings import settings
from lwd.spec import Horizon

TASKS: dict[str, Horizon] = {"near": "short", "far": "long"}


def records(
    successes: dict[str, list[int]], stage: float = 0.5, seconds: float = 10.0
) -> list[EvaluationRecord]:
    """Episodes by task, 1 for a success; a failure reached this share of its milestones and took twice as long."""
    return [
        EvaluationRecord(
            task=task,
            seed=100 + i,
            success=done == 1,
            stage_score=1.0 if done else stage,
            cycle_time_s=seconds if done else 2 * seconds,
            steps=10,
        )
        for task, column in successes.items()
        for i, done in enumerate(column)
    ]


def planned_settings(cell_id: str) -> dict[str, str]:
    """Those that the plan has for a cell; a few for what is in no plan."""
    cell = _planned(cell_id.split("/")[0]).get(cell_id)
    return {"gamma": "0.99"} if cell is None else settings(cell.experiment, cell.stage)


@cache
def _planned(benchmark: str) -> dict[str, Cell]:
    return {cell.id: cell for cell in plan(benchmark)} if benchmark in BENCHMARKS else {}


def run(
    method: str = "sft", seed: int = 0, successes: dict[str, list[int]] | None = None, **changes
) -> RunFile:
    """One run; by default half of its episodes succeed."""
    fields = {
        "benchmark": "scene_evidence",
        "method": method,
        "stage": method.rpartition("_")[2],
        "seed": seed,
        "command": f"lwd results run --only '*/{method}/seed_{seed}'",
        "commit": "0123456789ab",
        "hardware": {"processor": "Test CPU", "cores": "1"},
        "software": {"jax": "0.10.2"},
        "timing": {"train": 60.0, "evaluate": 30.0},
        "settings": planned_settings(f"{changes.get('benchmark', 'scene_evidence')}/{method}/seed_{seed}"),
        "differs": {},
        "tasks": TASKS,
        "costs": Costs(robot_hours=5.5, interventions=12, operator_minutes=3.0)
        if "online" in method
        else Costs(),
        "records": records(successes or {"near": [1, 0], "far": [0, 1]}),
    }
    return RunFile(**{**fields, **changes})


def rich(method: str, seed: int, level: float, episodes: int = 50) -> RunFile:
    """A run with curves and traces, and about this share of successes."""
    rng = np.random.default_rng([seed, *map(ord, method)])
    tasks: dict[str, Horizon] = {f"short_{i}": "short" for i in range(4)}
    tasks |= {f"long_{i}": "long" for i in range(4)}
    chances = {task: min(0.99, level + (0.15 if task[0] == "s" else -0.15)) for task in tasks}
    drawn = {task: list(map(int, rng.random(episodes) < chance)) for task, chance in chances.items()}
    hours = np.linspace(0.1, 5.5, 24)
    steps = np.linspace(500, 14_000, 40)
    entropy = 0.2 + 0.35 * np.exp(-steps / 4000) + 0.01 * rng.normal(size=40)
    return run(
        method,
        seed,
        tasks=tasks,
        records=records(drawn),
        fleet=FleetCurve(
            robot_hours=hours.tolist(),
            alone=np.clip(level - 0.2 * np.exp(-hours) + 0.03 * rng.normal(size=24), 0, 1).tolist(),
            helped=[level] * 24,
            human=(0.2 * np.exp(-hours)).tolist(),
        )
        if "online" in method
        else None,
        learner={}
        if method == "sft"
        else {
            "value/entropy": Curve(x=steps.tolist(), y=entropy.tolist()),
            "value/tau": Curve(x=steps.tolist(), y=(0.6 - 0.3 * entropy).tolist()),
        },
        traces=[trace("success"), trace("failure")] if method == "lwd_offline" else (),
    )


def trace(outcome: str) -> ValueTrace:
    """A value that climbs in a success and stalls in a failure."""
    times, atoms = np.arange(0, 18, 0.5), np.linspace(-0.1, 1.1, 51)
    p = times / times[-1]
    centre = 0.4 + 0.6 * p if outcome == "success" else 0.4 + 0.15 * np.minimum(1, 3 * p)
    density = np.exp(-0.5 * ((atoms - centre[:, None]) / 0.08) ** 2)
    density /= density.sum(axis=1, keepdims=True)
    entropy = np.full(len(times), 0.5)
    return ValueTrace(
        task="rearrange",
        outcome=outcome,
        times_s=times,
        quantile=centre,
        entropy=entropy,
        tau=0.6 - 0.3 * entropy,
        probabilities=density,
        atoms=atoms,
    )


def write(root: Path, runs: list[RunFile]) -> Path:
    """A checkout's root with these run files, and almost empty pages where the tables go."""
    for one in runs:
        write_run_file(root / "results" / "runs" / f"{one.id}.json", one)
    for path, names in ((README, ("results",)), (WHAT_PAYS, ("differences", "conditions"))):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        tables = "".join(f"<!-- table:{name} -->\n<!-- /table:{name} -->\n" for name in names)
        (root / path).write_text(f"a\n{tables}b\n")
    return root
