r"""Is a candidate's policy as good as the stable one? A test after every few dozen of its episodes, with stated error rates.

Three shares of *good* episodes are compared, task by task, the candidate's p and the stable policy's q: of judged episodes with
success and no takeover, of judged ones without a takeover, and of all episodes with a verdict. One without (the policy failed
in the middle, an operator stopped it, a robot was switched off) says nothing of success. But who dies on what is hard for it
must not pass on the rest; and what operators stop under both policies alike cancels.

- *not worse*: p - q = -margin is refused from above, for all shares, by

      z = sum_t w_t (p_t - q_t + margin) / sqrt(sum_t w_t^2 v_t),   w_t = n_t m_t / (n_t + m_t)

  for n_t and m_t episodes of task t. The variance v_t is that under the hypothesis, at its maximum likelihood (Miettinen and
  Nurminen, 1985; Farrington and Manning, 1990), so that it is not 0 where all episodes succeed. Who is worse by the margin
  in one share passes with probability `promote_error` at most.
- *worse*: p = q is refused from below, for one share, over all tasks or on one of them. The test is exact (Fisher; Cochran,
  Mantel and Haenszel): where nearly all episodes succeed, or a task has few, z is far from normal. All tasks together spend
  half of `reject_error`, single ones the other half in equal parts, and each of the three shares has a third of that; so who
  is as good on every task is called worse with probability `reject_error` at most.

The test is made at `looks` fixed numbers of the candidate's episodes, judged or not. Look k of K may spend (2k - 1) / K^2 of
an error, so that all of them together spend it once whatever they have in common. When it is made, and how often in between
somebody looked, changes nothing: a judgement follows from the episodes in their order alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist

import numpy as np

from lwd.errors import ConfigError

Stratum = tuple[int, int, int, int]
"""A task's good episodes and all of the candidate, then of the stable one."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One episode: its place in the catalogue's order, its task, and how it went.

    Attributes:
        success: it ended in success; takeover: a human commanded a part of it.
        judged: it got a verdict; where it got none, the other two count for nothing.
    """

    seq: int
    task: str
    success: bool
    takeover: bool
    judged: bool = True


@dataclass(frozen=True, kw_only=True)
class TrialPlan:
    """When it is looked, and how sure one must be.

    Attributes:
        least, most: episodes of the candidate at the first and at the last look; looks: how many there are.
        margin: how much worse a share may be, such as 0.1 of all episodes.
        promote_error: probability that a candidate that is worse by the margin is found not worse.
        reject_error: probability that a candidate that is as good on every task is found worse.
    """

    least: int = 20
    most: int = 200
    looks: int = 5
    margin: float = 0.1
    promote_error: float = 0.05
    reject_error: float = 0.05

    def __post_init__(self) -> None:
        if not (1 <= self.least <= self.most and self.looks >= 1 and 0 < self.margin < 1):
            raise ConfigError(
                f"a test needs 1 <= least <= most, looks of 1 or more and a margin between 0 and 1, got {self}."
            )
        if not (0 < self.promote_error < 0.5 and 0 < self.reject_error < 0.5):
            raise ConfigError(f"error rates must be above 0 and below 0.5, got {self}.")

    def counts(self) -> list[int]:
        """Episodes of the candidate at each look."""
        gaps = max(self.looks - 1, 1)
        return sorted(
            {self.least + (self.most - self.least) * k // gaps for k in range(self.looks)} | {self.most}
        )


class Finding(StrEnum):
    """What the episodes say so far."""

    OPEN = "open"
    NOT_WORSE = "not worse"
    WORSE = "worse"
    UNDECIDED = "undecided"
    """All looks were made, and neither was found."""


@dataclass(frozen=True)
class Judgement:
    """A finding, and for people what it rests on."""

    finding: Finding
    reason: str


def judge(
    candidate: Sequence[Trial], stable: Sequence[Trial], plan: TrialPlan, *, only_worse: bool = False
) -> Judgement:
    """What the first look finds that finds anything.

    Args:
        candidate: its episodes; at a look, those up to its number count.
        stable: those it is compared with; at a look, those that were catalogued by then.
        plan: the test.
        only_worse: look at each look whether it is worse, and find nothing else: for what is promoted already.
    """
    ordered = sorted(candidate, key=lambda trial: trial.seq)
    counts = plan.counts()
    for k, count in enumerate(counts, start=1):
        if len(ordered) < count:
            return Judgement(Finding.OPEN, f"{len(ordered)} of {count} episodes until the next look")
        seen = ordered[:count]
        by_then = [trial for trial in stable if trial.seq <= seen[-1].seq]
        share = (2 * k - 1) / len(counts) ** 2
        finding, where = _look(seen, by_then, plan, share, only_worse)
        if finding is not Finding.OPEN:
            return Judgement(finding, described(seen, by_then) + where)
    return Judgement(
        Finding.UNDECIDED, described(ordered, stable) + ", which leaves open whether it is worse"
    )


def _look(
    candidate: Sequence[Trial], stable: Sequence[Trial], plan: TrialPlan, share: float, only_worse: bool
) -> tuple[Finding, str]:
    """One look that may spend this share of the errors, and in words where. Worse counts first: it is the one that costs."""
    tables = _tables(candidate, stable)
    if (where := _worse(tables, share * plan.reject_error)) is not None:
        return Finding.WORSE, where
    if only_worse:
        return Finding.OPEN, ""
    enough = NormalDist().inv_cdf(1 - share * plan.promote_error)
    if all(score([*strata.values()], -plan.margin) >= enough for strata in tables.values()):
        return Finding.NOT_WORSE, ""
    return Finding.OPEN, ""


def _worse(tables: Mapping[str, Mapping[str, Stratum]], error: float) -> str | None:
    """Where one of the shares is lower than chance explains: "" over all tasks, else the task in words; None for nowhere."""
    tasks = max(map(len, tables.values()))
    each = error / len(tables)
    half = each if tasks == 1 else each / 2  # one task is all tasks
    if any(lower_tail([*strata.values()]) <= half for strata in tables.values()):
        return ""
    for good, strata in tables.items():
        for task, counts in strata.items():
            if lower_tail([counts]) <= half / tasks:
                x, n, y, m = counts
                return f"; on task {task!r:.80} candidate {x} of {n} {good}, stable {y} of {m}"
    return None


def described(candidate: Sequence[Trial], stable: Sequence[Trial]) -> str:
    """All shares of both, in words."""
    texts: list[str] = []
    for name, trials in (("candidate", candidate), ("stable", stable)):
        judged = [t for t in trials if t.judged]
        good, taken = sum(t.success and not t.takeover for t in judged), sum(t.takeover for t in judged)
        unjudged = len(trials) - len(judged)
        more = f", {unjudged} without a verdict" if unjudged else ""
        texts.append(f"{name} {good} of {len(judged)} without help, {taken} taken over{more}")
    return "; ".join(texts)


def _tables(candidate: Sequence[Trial], stable: Sequence[Trial]) -> dict[str, dict[str, Stratum]]:
    """Counts per task for each share, which is named by what is good."""
    ours, theirs = ([t for t in trials if t.judged] for trials in (candidate, stable))
    return {
        "without help": _strata(ours, theirs, lambda t: t.success and not t.takeover),
        "not taken over": _strata(ours, theirs, lambda t: not t.takeover),
        "with a verdict": _strata(candidate, stable, lambda t: t.judged),
    }


def _strata(
    candidate: Sequence[Trial], stable: Sequence[Trial], is_good: Callable[[Trial], bool]
) -> dict[str, Stratum]:
    """Counts per task that the candidate had."""
    good = [Counter(t.task for t in trials if is_good(t)) for trials in (candidate, stable)]
    all_ = [Counter(t.task for t in trials) for trials in (candidate, stable)]
    return {task: (good[0][task], all_[0][task], good[1][task], all_[1][task]) for task in sorted(all_[0])}


def score(strata: Sequence[Stratum], shift: float) -> float:
    """Z of "the candidate's share minus the stable one's is `shift`"; 0 where nothing can be compared."""
    above, variance = 0.0, 0.0
    for x, n, y, m in strata:
        if n == 0 or m == 0:
            continue
        weight = n * m / (n + m)
        p, q = restricted(x, n, y, m, shift)
        above += weight * (x / n - y / m - shift)
        # The small-sample factor of Miettinen and Nurminen, without which a task with few episodes counts for too much.
        variance += weight**2 * (p * (1 - p) / n + q * (1 - q) / m) * (n + m) / (n + m - 1)
    return above / math.sqrt(variance) if variance > 0 else 0.0


def lower_tail(strata: Sequence[Stratum]) -> float:
    """Probability of as few good ones of the candidate if chance alone chose, task by task, which of the episodes are its.

    Fisher's exact test; over several tasks the exact test of Cochran, Mantel and Haenszel. 1 where nothing can be compared.
    """
    some = [s for s in strata if s[1] and s[3]]
    chances = np.ones(1)
    for x, n, y, m in some:
        good, ways = x + y, math.comb(n + m, n)
        here = [math.comb(good, i) * math.comb(n + m - good, n - i) / ways for i in range(n + 1)]
        chances = np.convolve(chances, here)
    return min(1.0, float(chances[: sum(s[0] for s in some) + 1].sum()))


def restricted(x: int, n: int, y: int, m: int, shift: float) -> tuple[float, float]:
    """The two shares (p, q) of largest likelihood with p - q = shift, where x of n and y of m were good.

    The root of a cubic in closed form, as in Farrington and Manning (1990).
    """
    if shift == 0:
        both = (x + y) / (n + m)
        return both, both
    first, second, ratio = x / n, y / m, m / n
    a = 1 + ratio
    b = -(1 + ratio + first + ratio * second + shift * (ratio + 2))
    c = shift**2 + shift * (2 * first + ratio + 1) + first + ratio * second
    d = -first * shift * (1 + shift)
    v = b**3 / (27 * a**3) - b * c / (6 * a**2) + d / (2 * a)
    u = math.copysign(math.sqrt(max(b**2 / (9 * a**2) - c / (3 * a), 0.0)), v)
    angle = math.acos(min(1.0, max(-1.0, v / u**3))) if u else 0.0
    p = 2 * u * math.cos((math.pi + angle) / 3) - b / (3 * a)
    p = min(max(p, max(0.0, shift)), min(1.0, 1.0 + shift))
    return p, p - shift
