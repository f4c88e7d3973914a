"""How often the canary test promotes, rejects and leaves open, by how good the candidate is: a simulation.

Run with `python -m tools.canary_errors`; four minutes of a core. Episodes of candidate and stable policy arrive in turn, three
of the stable one's for each of the candidate's, beside 200 of the stable one's from before; nobody takes over. All get a
verdict but in the last cases of each number of tasks.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lwd.evaluate.canary import Finding, Trial, TrialPlan, judge

BEFORE, BESIDE = 200, 3
DIFFERENCES = (0.05, 0.0, -0.1, -0.3)
BROKEN = -0.4
TEST_BEGINS = BEFORE + 1
SUCCESS, VERDICTS = 0.95, 0.9
"""Of both policies where some episodes get no verdict."""


class Policy(NamedTuple):
    """Shares per task: of successes among judged episodes, and of judged ones among all."""

    success: Sequence[float]
    judged: Sequence[float]


def episodes(rng: np.random.Generator, policy: Policy, places: Sequence[int]) -> list[Trial]:
    """Made-up episodes of a policy, its tasks at random, at these places in the catalogue's order."""
    task = rng.integers(len(policy.success), size=len(places))
    success = rng.uniform(size=len(places)) < np.asarray(policy.success)[task]
    judged = rng.uniform(size=len(places)) < np.asarray(policy.judged)[task]
    return [
        Trial(seq=seq, task=str(task[i]), success=bool(success[i]), takeover=False, judged=bool(judged[i]))
        for i, seq in enumerate(places)
    ]


def findings(stable: Policy, candidate: Policy, repeats: int, plan: TrialPlan) -> Counter[Finding]:
    """How often each finding is made; deterministic."""
    shares = (*stable.success, *stable.judged, *candidate.success, *candidate.judged)
    rng = np.random.default_rng([round(1000 * share) for share in shares])
    every = BESIDE + 1
    end = TEST_BEGINS + every * plan.most
    found: Counter[Finding] = Counter()
    for _ in range(repeats):
        tested = episodes(rng, candidate, range(TEST_BEGINS, end, every))
        beside = [seq for seq in range(TEST_BEGINS, end) if (seq - TEST_BEGINS) % every]
        others = episodes(rng, stable, [*range(BEFORE), *beside])
        found[judge(tested, others, plan).finding] += 1
    return found


def cases() -> list[tuple[str, Policy, Policy]]:
    """What the candidate is, in words, the stable policy and the candidate."""
    found: list[tuple[str, Policy, Policy]] = []
    for tasks in (1, 5, 40):
        all_ = [1.0] * tasks
        for stable in (0.99, 0.95, 0.8, 0.5):
            before = Policy([stable] * tasks, all_)
            found += [
                (f"{stable + difference:.2f}", before, Policy([stable + difference] * tasks, all_))
                for difference in DIFFERENCES
                if stable + difference <= 1
            ]
            if tasks > 1:
                text = f"the same but for one task, {stable + BROKEN:.2f}"
                found.append((text, before, Policy([stable + BROKEN] + [stable] * (tasks - 1), all_)))
        found += _without_verdicts(tasks)
    return found


def _without_verdicts(tasks: int) -> list[tuple[str, Policy, Policy]]:
    """Candidates that succeed as often where they are judged, and are judged as often or not."""
    success = [SUCCESS] * tasks
    stable = Policy(success, [VERDICTS] * tasks)
    found = [
        (
            f"the same, {VERDICTS + difference:.2f} judged",
            stable,
            Policy(success, [VERDICTS + difference] * tasks),
        )
        for difference in (0.0, -0.1, -0.3)
    ]
    if tasks > 1:
        broken = Policy(success, [VERDICTS + BROKEN] + [VERDICTS] * (tasks - 1))
        found.append((f"the same but for one task, {VERDICTS + BROKEN:.2f} judged", stable, broken))
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
        judged = f", {stable.judged[0]:.2f} judged" if min(stable.judged) < 1 else ""
        table.add_row(str(len(stable.success)), f"{stable.success[0]:.2f}{judged}", text, *shares)
    Console().print(table)


if __name__ == "__main__":
    main()
