"""The smallest fleet that learns: the fast tier's four robots and two tasks, from demonstrations to the report.

The whole program, as `lwd demo` runs it: coordinator, learner and actors in processes of their own. Its run is that of
tests/fleet, which asks what it learns; here is what it takes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from rich.console import Console

from lwd.fleet.demo import Demo
from lwd.fleet.folder import RunFolder
from tests.fleet.small_experiment import fast_experiment


def main(seed: int = 0) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder) / "run")
        summary = Demo(fast_experiment(seed), run, Console(quiet=True), "benchmark").run()
    online = summary.methods["lwd_online"]
    return {
        "whole_run_s": summary.wall_s,
        "robot_hours": online.robot_hours,
        **{f"{name}_success": method.average.success for name, method in summary.methods.items()},
    }
