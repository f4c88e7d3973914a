"""How often the scripted expert ends the evaluation's attempts in time: what a policy could reach at most, task by task.

Run with `python -m tools.expert_in_time`; five minutes of a core for the scene's 400 attempts.
"""

from __future__ import annotations

import argparse
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from lwd.config import Experiment
from lwd.episode import Outcome
from lwd.recipes import recipe
from lwd.robot.control import Assignment, ControlLoop


def attempts(experiment: Experiment, episodes: int) -> dict[str, list[int | None]]:
    """Task -> control steps of each attempt that the expert ended in time, None for the others.

    The starts, conditions and time limits are the evaluation's.
    """
    environment, operators = experiment.fleet.deployed.build()
    loop = ControlLoop(environment, operators)
    found: dict[str, list[int | None]] = {}
    for task in environment.tasks:
        found[task] = []
        for start in range(episodes):
            seed = experiment.evaluate.first_seed + start
            np.random.seed(seed)  # the simulator's own experts draw from it
            request = loop.begin(Assignment(task=task, seed=seed, driver="operator", operator="expert"))
            steps = 0
            while request.verdict is None:
                request = loop.run(None)
                steps += len(request.actions)
            found[task].append(steps if request.verdict.outcome is Outcome.SUCCESS else None)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="scene_hours")
    parser.add_argument("--episodes", type=int, help="per task; by default the evaluation's")
    asked = parser.parse_args()
    experiment = recipe(asked.recipe, 0)
    table = Table("task", "in time", "median control steps")
    for task, ended in attempts(experiment, asked.episodes or experiment.evaluate.episodes).items():
        steps = [count for count in ended if count is not None]
        table.add_row(task, f"{len(steps)} of {len(ended)}", f"{median(steps):g}" if steps else "-")
    Console().print(table)


if __name__ == "__main__":
    main()
