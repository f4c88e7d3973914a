"""Is a candidate as good as the stable policy: numbers by hand, the likelihood by brute force, error rates by simulation."""

import functools
import itertools
import math

import numpy as np
import pytest

from lwd.errors import ConfigError
from lwd.evaluate.canary import Finding, Trial, TrialPlan, judge, lower_tail, restricted, score

PLAN = TrialPlan()


def trials(outcomes, first: int = 1, task: str = "a") -> list[Trial]:
    """One per letter: s a success, f a failure, h a success with help, u one without a verdict."""
    return [
        Trial(seq=first + i, task=task, success=letter in "sh", takeover=letter == "h", judged=letter != "u")
        for i, letter in enumerate(outcomes)
    ]


def test_score_by_hand():
    # 12 of 20 against 18 of 20: pooled 0.75; (0.6 - 0.9) / sqrt(0.75 0.25 (1/20 + 1/20) 40/39)
    assert score([(12, 20, 18, 20)], 0.0) == pytest.approx(-0.3 / math.sqrt(0.1875 * 0.1 * 40 / 39))
    # Two tasks of the same size: differences and variances add up, z grows by sqrt(2).
    assert score([(12, 20, 18, 20)] * 2, 0.0) == pytest.approx(math.sqrt(2) * score([(12, 20, 18, 20)], 0.0))
    # All of 20 and all of 100, worse by 0.1 at most? Under the hypothesis q = 1 and p = 0.9 fit best.
    assert restricted(20, 20, 100, 100, -0.1) == pytest.approx((0.9, 1.0))
    assert score([(20, 20, 100, 100)], -0.1) == pytest.approx(0.1 / math.sqrt(0.09 / 20 * 120 / 119))
    # A task that one of the two never had says nothing, and neither do shares that are 1 for both.
    assert score([(0, 0, 3, 9), (5, 5, 0, 0)], -0.1) == 0.0
    assert score([(5, 5, 9, 9)], 0.0) == 0.0


def test_lower_tail_by_hand_and_by_counting():
    # Of 2 + 3 episodes 1 + 3 are good: the bad one is among the first two in 2 of 5 cases.
    assert lower_tail([(1, 2, 3, 3)]) == pytest.approx(2 / 5)
    assert lower_tail([(2, 2, 2, 3)]) == pytest.approx(1.0)
    # Twice that: at most 2 of 4 are good if both bad ones are among the first two, at most 3 but for none.
    assert lower_tail([(1, 2, 3, 3)] * 2) == pytest.approx(4 / 25)
    assert lower_tail([(1, 2, 3, 3), (2, 2, 2, 3)]) == pytest.approx(1 - 9 / 25)
    assert lower_tail([(5, 5, 9, 9)]) == 1.0
    assert lower_tail([(0, 0, 4, 9), (3, 4, 0, 0)]) == 1.0, "nothing to compare with"
    rng = np.random.default_rng(0)
    for _ in range(20):
        n, m = (int(v) for v in rng.integers(1, 6, 2))
        x, y = int(rng.integers(n + 1)), int(rng.integers(m + 1))
        all_ = [True] * (x + y) + [False] * (n + m - x - y)
        ways = [sum(chosen) for chosen in itertools.combinations(all_, n)]
        assert lower_tail([(x, n, y, m)]) == pytest.approx(sum(good <= x for good in ways) / len(ways))


def test_one_failure_beside_a_policy_that_never_failed_is_chance():
    """It is among the candidate's 20 of 270 with probability 0.07; the normal distribution says 0.0002."""
    assert lower_tail([(19, 20, 250, 250)]) == pytest.approx(20 / 270)
    stable = trials("s" * 250)
    assert judge(trials("f" + "s" * 64, 1000), stable, PLAN).finding is Finding.OPEN
    assert judge(trials("f" * 4 + "s" * 16, 1000), stable, PLAN).finding is Finding.WORSE


def test_one_broken_task_is_found_where_the_mean_over_all_is_as_good():
    """Five tasks: the candidate fails one and does the four others better, so over all of them it is not worse."""
    tasks = [str(task) for task in range(5)]
    stable = [t for k, task in enumerate(tasks) for t in trials("sssss" * 8 + "f" * 10, 1 + 50 * k, task)]
    candidate = [
        Trial(seq=1000 + i, task=tasks[i % 5], success=i % 5 > 0, takeover=False) for i in range(200)
    ]
    assert lower_tail([(0, 40, 40, 50), *[(40, 40, 40, 50)] * 4]) > 0.3
    found = judge(candidate, stable, PLAN)
    assert found.finding is Finding.WORSE
    assert found.reason.endswith("; on task '0' candidate 0 of 13 without help, stable 40 of 50")
    assert judge(candidate, stable, PLAN, only_worse=True) == found, "the watch looks for it too"


def test_restricted_shares_have_the_largest_likelihood():
    rng, grid = np.random.default_rng(0), np.linspace(0, 1, 20001)
    for _ in range(60):
        n, m = (int(v) for v in rng.integers(1, 60, 2))
        x, y, shift = int(rng.integers(n + 1)), int(rng.integers(m + 1)), -float(rng.choice([0.02, 0.1, 0.4]))
        p = grid[(grid >= 0) & (grid - shift <= 1)]
        q = p - shift
        with np.errstate(divide="ignore", invalid="ignore"):
            parts = [(x, p), (n - x, 1 - p), (y, q), (m - y, 1 - q)]
            likelihood = sum(np.where(k == 0, 0.0, k * np.log(v)) for k, v in parts)
        found = restricted(x, n, y, m, shift)
        assert found[0] == pytest.approx(p[np.nanargmax(likelihood)], abs=1e-3)
        assert found[0] - found[1] == pytest.approx(shift)


def test_looks_are_at_fixed_numbers_and_nothing_is_found_in_between():
    assert PLAN.counts() == [20, 65, 110, 155, 200]
    assert TrialPlan(least=5, most=5, looks=1).counts() == [5]
    stable = trials("s" * 200)
    assert judge([], stable, PLAN).finding is Finding.OPEN
    found = judge(trials("f" * 19, 300), stable, PLAN)
    assert (found.finding, found.reason) == (Finding.OPEN, "19 of 20 episodes until the next look")
    found = judge(trials("f" * 20, 300), stable, PLAN)
    assert found.finding is Finding.WORSE
    assert found.reason == (
        "candidate 0 of 20 without help, 0 taken over; stable 200 of 200 without help, 0 taken over"
    )
    # A judgement is the first one: what comes later, in whatever order it is read, does not change it.
    later = trials("f" * 20, 300) + trials("s" * 180, 400)
    assert judge(later[::-1], stable[::-1], PLAN) == found


def test_what_is_as_good_passes_and_what_is_worse_by_takeovers_alone_does_not():
    good = "ssssf" * 80
    assert judge(trials(good[:200], 1000), trials(good), PLAN).finding is Finding.NOT_WORSE
    # As many successes in the end, but half of them with help.
    helped = "shshf" * 40
    assert judge(trials(helped, 1000), trials(good), PLAN).finding is Finding.WORSE
    # Takeovers count by themselves: as many episodes without success as before, but helped ones among them.
    quiet, noisy = "sssff" * 80, "ssshh" * 40
    assert judge(trials(noisy, 1000), trials(quiet), PLAN).finding is Finding.WORSE


def test_an_easier_mixture_of_tasks_does_not_make_it_better():
    hard, easy = "s" + "f" * 9, "s" * 10
    stable = trials(easy * 10, 1, "easy") + trials(hard * 10, 101, "hard")
    # The candidate had easy tasks mostly and fails half of them; its share of all is larger than the stable one's.
    candidate = trials("sf" * 90, 1000, "easy") + trials(hard * 2, 2000, "hard")
    assert sum(t.success for t in stable) / len(stable) > 0.5
    assert judge(candidate, stable, PLAN).finding is Finding.WORSE


def test_attempts_that_die_on_one_task_are_found_though_all_that_are_judged_succeed():
    stable = trials("ssssf" * 40, 1, "near") + trials("ssssf" * 20, 201, "far")
    candidate = [
        trial
        for k in range(100)
        for trial in trials("s", 1000 + 2 * k, "near") + trials("u", 1001 + 2 * k, "far")
    ]
    found = judge(candidate, stable, PLAN)
    assert found.finding is Finding.WORSE
    assert found.reason == (
        "candidate 10 of 10 without help, 0 taken over, 10 without a verdict; "
        "stable 240 of 300 without help, 0 taken over"
    )
    assert judge(candidate, stable, PLAN, only_worse=True) == found, "the watch looks for it too"
    # One of six tasks: over all of them it is too few, on that one it is not.
    candidate = [
        trial
        for k in range(34)
        for task in range(6)
        for trial in trials("usssss"[task], 1000 + 6 * k + task, str(task))
    ]
    stable = [trial for task in range(6) for trial in trials("ssssu" * 10 + "s" * 10, 100 * task, str(task))]
    found = judge(candidate, stable, PLAN)
    assert found.finding is Finding.WORSE
    assert found.reason.endswith("; on task '0' candidate 0 of 11 with a verdict, stable 50 of 60")


def test_who_is_never_judged_is_found_at_the_first_look():
    found = judge(trials("u" * 20, 1000), trials("s" * 200), PLAN)
    assert found.finding is Finding.WORSE
    assert found.reason.startswith("candidate 0 of 0 without help, 0 taken over, 20 without a verdict; ")


def test_what_operators_stop_under_both_policies_alike_cancels():
    stopped = "ssssssssu" * 60
    assert judge(trials(stopped[:200], 1000), trials(stopped), PLAN).finding is Finding.NOT_WORSE
    # Twice as many and more without a verdict: too many to be found not worse by the margin of 0.1.
    more = "ssssu" * 40
    assert judge(trials(more, 1000), trials(stopped), PLAN).finding is not Finding.NOT_WORSE


def test_without_anything_to_compare_with_nothing_is_found_and_the_default_decides():
    assert judge(trials("s" * 199), [], PLAN).finding is Finding.OPEN
    found = judge(trials("s" * 200), [], PLAN)
    assert found.finding is Finding.UNDECIDED
    assert "leaves open whether it is worse" in found.reason


def test_a_watch_looks_for_what_is_worse_only():
    stable = trials("ssssf" * 80)
    assert judge(trials("s" * 199, 1000), stable, PLAN, only_worse=True).finding is Finding.OPEN
    assert judge(trials("s" * 200, 1000), stable, PLAN, only_worse=True).finding is Finding.UNDECIDED
    assert judge(trials("sf" * 100, 1000), stable, PLAN, only_worse=True).finding is Finding.WORSE


@pytest.mark.parametrize(
    "changes",
    [
        {"least": 0},
        {"least": 9, "most": 8},
        {"looks": 0},
        {"margin": 0.0},
        {"margin": 1.0},
        {"promote_error": 0.5},
        {"reject_error": 0.0},
    ],
)
def test_a_plan_that_cannot_work_is_refused(changes):
    with pytest.raises(ConfigError):
        TrialPlan(**changes)


@functools.cache
def trial(seq: int, task: int, success: bool, judged: bool = True) -> Trial:
    return Trial(seq=seq, task=str(task), success=success and judged, takeover=False, judged=judged)


def rates(
    p: float, q: float, tasks: int, repeats: int = 100, judged: tuple[float, float] = (1.0, 1.0)
) -> dict[Finding, float]:
    """Shares of findings where candidate and stable succeed with probability p and q, both at work at the same time.

    judged: with which probability an episode of each gets a verdict.
    """
    rng, found = np.random.default_rng(7), []
    during = range(1000, 1000 + 2 * PLAN.most, 2)
    both = [(p, judged[0], [*during]), (q, judged[1], [*range(200), *(seq + 1 for seq in during)])]
    for _ in range(repeats):
        candidate, stable = (
            [
                *map(
                    trial,
                    seqs,
                    rng.integers(tasks, size=len(seqs)).tolist(),
                    (rng.random(len(seqs)) < share).tolist(),
                    (rng.random(len(seqs)) < verdict).tolist(),
                )
            ]
            for share, verdict, seqs in both
        )
        found.append(judge(candidate, stable, PLAN).finding)
    return {finding: found.count(finding) / repeats for finding in Finding}


@pytest.mark.parametrize("tasks", [1, 8])
@pytest.mark.parametrize("q", [0.995, 0.95, 0.6])
def test_error_rates_are_kept(q, tasks):
    # Of 100 draws of 0.05 more than 11 are true with probability 0.004.
    assert rates(q - PLAN.margin, q, tasks)[Finding.NOT_WORSE] <= 0.11
    assert rates(q, q, tasks)[Finding.WORSE] <= 0.11


@pytest.mark.parametrize("verdicts", [0.995, 0.8])
def test_error_rates_are_kept_where_some_have_no_verdict(verdicts):
    fewer = verdicts - PLAN.margin
    assert rates(0.95, 0.95, 8, judged=(fewer, verdicts))[Finding.NOT_WORSE] <= 0.11
    assert rates(0.85, 0.95, 8, judged=(verdicts, verdicts))[Finding.NOT_WORSE] <= 0.11
    assert rates(0.95, 0.95, 8, judged=(verdicts, verdicts))[Finding.WORSE] <= 0.11


def test_most_that_is_as_good_passes_and_all_that_is_far_worse_does_not():
    assert rates(0.8, 0.8, 3)[Finding.NOT_WORSE] >= 0.5
    assert rates(0.9, 0.8, 3)[Finding.NOT_WORSE] >= 0.97
    assert rates(0.5, 0.8, 3)[Finding.WORSE] >= 0.98
    assert rates(0.9, 0.9, 3, judged=(0.6, 0.9))[Finding.WORSE] >= 0.98
