"""The regression gate's experiment, what is read off it, and the comparison with what was recorded.

Two stages. Data, SFT and offline learning come from one robot and one process each: the same machine repeats them to the last
digit, another one to the rounding of its matrix products. Online learning comes from four robots whose processes race, so it
repeats only within a spread.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from lwd.config import Experiment
from lwd.evaluate.records import read_records
from lwd.fleet.demo import METHOD_OF_STAGE, offline_phases, online_phases, sft_phases
from lwd.fleet.folder import RunFolder
from lwd.fleet.metrics_log import read_metrics
from lwd.fleet.phases import run_phases
from lwd.learner.method import Lwd
from tests.fleet.small_experiment import fast_experiment

ROOT = Path(__file__).resolve().parents[2]
RECORDED = Path(__file__).parent / "recorded" / "fast_tier.json"
COMMAND = "make record-slow"
SCHEMA = 1

CURVES = {
    "sft": ("policy/flow_matching_loss",),
    "offline": (
        *("value/cross_entropy", "value/entropy", "value/tau", "value/quantile", "critic/loss", "critic/q"),
        *("policy/adjoint_matching_loss", "policy/adjoint_norm", "policy/path_kl"),
    ),
    "online": (
        *("value/cross_entropy", "value/entropy", "value/quantile", "critic/loss", "critic/q"),
        *("policy/adjoint_norm", "policy/path_kl"),
    ),
}
"""Stage -> metrics, each the mean over the learner steps since the line before."""
AT = {"sft": (250, 1000, 2000), "offline": (100, 400, 800, 1000, 1200), "online": (500, 1500, 2500)}
"""Learner steps at which they are compared; metrics of the policy exist from the first joint learner step on."""


@dataclass(frozen=True)
class Tolerance:
    """How far a value may be from the recorded one: `relative` of that, or `absolute` where it is small."""

    relative: float
    absolute: float

    def allowed(self, recorded: float) -> float:
        """The largest distance."""
        return max(self.absolute, self.relative * abs(recorded))


CURVE_TOLERANCE = {
    "sft": Tolerance(0.02, 1e-4),
    "offline": Tolerance(0.02, 1e-4),
    "online": Tolerance(0.5, 0.05),
}
"""Bit for bit on one machine, so 2 % leaves room for another processor's rounding only. Online, see the test's docstring."""
SUCCESS_TOLERANCE = {"sft": 0.05, "offline": 0.05, "online": 0.2}
"""Of 80 episodes each; rounding may turn a few borderline ones."""


def experiment() -> Experiment:
    """The fast learning test's experiment with a joint offline stage: 800 learner steps of the critic, 400 of everything."""
    x = fast_experiment(seed=0)
    learner = x.offline.learner
    assert isinstance(learner, Lwd)
    return replace(x, name="regression_gate", offline=replace(x.offline, steps=1200))


def run(folder: Path) -> dict[str, Any]:
    """Run the experiment in an empty folder; what it measured."""
    x, place, console = experiment(), RunFolder(folder), Console(quiet=True)
    alone = replace(x, fleet=replace(x.fleet, robots=1))
    run_phases(place, {**sft_phases(alone, place, console), **offline_phases(alone, place, console)}, console)
    run_phases(place, online_phases(x, place, console), console)
    return {
        "curves": {stage: _curves(place, stage) for stage in CURVES},
        "success": {stage: _success(folder, METHOD_OF_STAGE[stage]) for stage in CURVES},
    }


def _curves(place: RunFolder, stage: str) -> dict[str, dict[str, float]]:
    """Metric -> learner step -> value of the first line from that step on."""
    lines = [line for line in read_metrics(place.metrics(stage)) if line.get("stage") == stage]
    found: dict[str, dict[str, float]] = {}
    for name in CURVES[stage]:
        points = {
            int(line["learner_step"]): float(line[name]) for line in lines if line.get(name) is not None
        }
        for step in AT[stage]:
            later = [at for at in points if at >= step]
            if later and min(points) <= step:
                found.setdefault(name, {})[str(step)] = round(points[min(later)], 6)
    return found


def _success(folder: Path, method: str) -> float:
    records = read_records(folder / "evaluations" / f"{method}.json")
    return round(sum(record.success for record in records) / len(records), 4)


# ---- recorded and measured -------------------------------------------------------------------------------------------


def moved(recorded: Mapping[str, Any], measured: Mapping[str, Any], stages: tuple[str, ...]) -> list[str]:
    """One sentence for each value of these stages that is further from the recorded one than its tolerance."""
    found: list[str] = []
    for stage in stages:
        before, now = recorded["curves"][stage], measured["curves"][stage]
        for name in sorted(before.keys() | now.keys()):
            for step in sorted(before.get(name, {}).keys() | now.get(name, {}).keys(), key=int):
                found += _compared(
                    f"{stage} {name} at learner step {step}",
                    before.get(name, {}).get(step),
                    now.get(name, {}).get(step),
                    CURVE_TOLERANCE[stage],
                )
        allowed = Tolerance(0.0, SUCCESS_TOLERANCE[stage])
        found += _compared(
            f"success after {stage}", recorded["success"][stage], measured["success"][stage], allowed
        )
    return found


def _compared(what: str, recorded: float | None, measured: float | None, tolerance: Tolerance) -> list[str]:
    if recorded is None or measured is None:
        return [f"{what}: recorded {recorded}, now {measured}"]
    allowed = tolerance.allowed(recorded)
    if abs(measured - recorded) <= allowed:  # false for not-a-number too
        return []
    return [f"{what}: recorded {recorded:.6g}, now {measured:.6g}, allowed +-{allowed:.2g}"]


def advice(sentences: list[str]) -> str:
    """What a failing test says."""
    return "\n".join(
        [
            "what was learned differs from what was recorded:",
            *(f"  {sentence}" for sentence in sentences),
            f"If this is not wanted, find what caused it. If it is: `{COMMAND}`, and declare it in CHANGELOG.md under",
            '"Numbers" with the line that the command prints.',
        ]
    )


def read_recorded() -> dict[str, Any]:
    """The recorded values."""
    content = json.loads(RECORDED.read_text(encoding="utf-8"))
    assert content["schema"] == SCHEMA
    return content


def fingerprint(path: Path = RECORDED) -> str:
    """Of the recorded file, as the changelog names it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def write_recorded(measured: Mapping[str, Any], path: Path = RECORDED) -> str:
    """Write what was measured; the changelog's line about it."""
    made_by = {"jax": jax.__version__, "machine": platform.machine(), "python": platform.python_version()}
    content = {"schema": SCHEMA, "made_by": made_by, **measured}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    success = ", ".join(f"{stage} {value:.2f}" for stage, value in measured["success"].items())
    return f"- Regression gate recorded, `{path.name}` {fingerprint(path)}: {success}. Why: ..."
