"""How often the canary test promotes, rejects and leaves open, by how good the candidate is: a simulation.

Run with `python -m tools.canary_errors`; half a minute of a core. Episodes of candidate and stable policy arrive in turn, three
of the stable one's for each of the candidate's, beside 200 of the stable one's from before; nobody takes over.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lwd.evaluate.canary import Finding, Trial, TrialPlan, judge

BEFORE, BESIDE = 200, 3
DIFFERENCES = (0.05, 0.0, -0.1, -0.3)
TEST_BEGINS = BEFORE + 1


def episodes(rng: np.random.Generator, share: float, tasks: int, places: Sequence[int]) -> list[Trial]:
    """Made-up episodes of a policy with this share of successes on every task, at these places in the catalogue's order."""
    task = rng.integers(tasks, size=len(places))
    success = rng.uniform(size=len(places)) < share
    return [
        Trial(seq=seq, task=str(task[i]), success=bool(success[i]), takeover=False)
        for i, seq in enumerate(places)
    ]


def findings(stable: float, difference: float, tasks: int, repeats: int, plan: TrialPlan) -> Counter[Finding]:
    """How often each finding is made; deterministic."""
    rng = np.random.default_rng([tasks, round(1000 * stable), round(1000 * (1 + difference))])
    every = BESIDE + 1
    end = TEST_BEGINS + every * plan.most
    found: Counter[Finding] = Counter()
    for _ in range(repeats):
        candidate = episodes(rng, stable + difference, tasks, range(TEST_BEGINS, end, every))
        beside = [seq for seq in range(TEST_BEGINS, end) if (seq - TEST_BEGINS) % every]
        others = episodes(rng, stable, tasks, [*range(BEFORE), *beside])
        found[judge(candidate, others, plan).finding] += 1
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=300)
    asked = parser.parse_args()
    plan = TrialPlan()
    table = Table(
        "tasks", "stable", "candidate", *(finding.value for finding in Finding if finding != "open")
    )
    cases = [(t, s, d) for t in (1, 5, 40) for s in (0.95, 0.8, 0.5) for d in DIFFERENCES if s + d <= 1]
    for tasks, stable, difference in track(cases, "canary tests"):
        found = findings(stable, difference, tasks, asked.repeats, plan)
        shares = [f"{found[one] / asked.repeats:.2f}" for one in Finding if one is not Finding.OPEN]
        table.add_row(str(tasks), f"{stable:.2f}", f"{stable + difference:.2f}", *shares)
    Console().print(table)


if __name__ == "__main__":
    main()
