"""How often the canary test promotes, rejects and leaves open, by how good the candidate is: a simulation.

Run with `python -m tools.canary_errors`; two minutes of a core. Episodes of candidate and stable policy arrive in turn, three
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
BROKEN = -0.4
TEST_BEGINS = BEFORE + 1


def episodes(rng: np.random.Generator, shares: Sequence[float], places: Sequence[int]) -> list[Trial]:
    """Made-up episodes of a policy with these shares of successes, one per task, at these places in the catalogue's order."""
    task = rng.integers(len(shares), size=len(places))
    success = rng.uniform(size=len(places)) < np.asarray(shares)[task]
    return [
        Trial(seq=seq, task=str(task[i]), success=bool(success[i]), takeover=False)
        for i, seq in enumerate(places)
    ]


def findings(
    stable: Sequence[float], candidate: Sequence[float], repeats: int, plan: TrialPlan
) -> Counter[Finding]:
    """How often each finding is made, by shares of successes per task; deterministic."""
    rng = np.random.default_rng([round(1000 * share) for share in (*stable, *candidate)])
    every = BESIDE + 1
    end = TEST_BEGINS + every * plan.most
    found: Counter[Finding] = Counter()
    for _ in range(repeats):
        tested = episodes(rng, candidate, range(TEST_BEGINS, end, every))
        beside = [seq for seq in range(TEST_BEGINS, end) if (seq - TEST_BEGINS) % every]
        others = episodes(rng, stable, [*range(BEFORE), *beside])
        found[judge(tested, others, plan).finding] += 1
    return found


def cases() -> list[tuple[str, list[float], list[float]]]:
    """What the candidate is, in words, and the two policies' shares of successes per task."""
    found: list[tuple[str, list[float], list[float]]] = []
    for tasks in (1, 5, 40):
        for stable in (0.99, 0.95, 0.8, 0.5):
            found += [
                (f"{stable + difference:.2f}", [stable] * tasks, [stable + difference] * tasks)
                for difference in DIFFERENCES
                if stable + difference <= 1
            ]
            if tasks > 1:
                text = f"the same but for one task, {stable + BROKEN:.2f}"
                found.append((text, [stable] * tasks, [stable + BROKEN] + [stable] * (tasks - 1)))
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
    for text, stable, candidate in track(cases(), "canary tests"):
        found = findings(stable, candidate, asked.repeats, plan)
        shares = [f"{found[one] / asked.repeats:.2f}" for one in Finding if one is not Finding.OPEN]
        table.add_row(str(len(stable)), f"{stable[0]:.2f}", text, *shares)
    Console().print(table)


if __name__ == "__main__":
    main()
