"""The fifty tasks of Meta-World (MT50), from the table beside this file. No simulator is imported here.

Columns named after an entry of the simulator's `info` hold the milestone that this entry stands for. An entry is used where
the expert reached it after the start, before the next one and in at least 19 of 20 successful episodes; several tasks have one
that is true from the first step, or never (decision record 0020).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from lwd.spec import Horizon, RobotSpec, TaskSpec

METAWORLD_SPEC = RobotSpec(name="metaworld", proprio_dim=39, action_dim=4, control_hz=80.0, chunk_steps=5)
"""Proprio: hand xyz, gripper, objects 14, the same one control step earlier, goal xyz. Action: dx, dy, dz (1 cm), grip.
80 Hz: five physics steps of 2.5 ms per control step."""

_SIGNALS = ("near_object", "grasp_success", "success")


def _read() -> list[dict[str, str]]:
    with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def _signals(row: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(signal for signal in _SIGNALS if row[signal])


_ROWS = _read()

METAWORLD_TASKS: Mapping[str, TaskSpec] = {
    row["task"]: TaskSpec(
        name=row["task"],
        instruction=row["instruction"],
        milestones=tuple(row[signal] for signal in _signals(row)),
        time_limit_steps=int(row["limit"]),
        horizon=cast(Horizon, row["horizon"]),
    )
    for row in _ROWS
}
"""By name, those of `EIGHT_TASKS` first."""

MILESTONE_SIGNALS: Mapping[str, tuple[str, ...]] = {row["task"]: _signals(row) for row in _ROWS}
"""Entries of the simulator's `info` behind the milestones of each task, in their order."""

EXPERT_STEPS: Mapping[str, int] = {row["task"]: int(row["expert_steps"]) for row in _ROWS}
"""Median length (control steps) of the expert's successes in 20 episodes within the time limit."""

EIGHT_TASKS = tuple(METAWORLD_TASKS)[:8]
"""What the fast tier's small recipe asks for: four short and four long tasks whose experts take over well."""
