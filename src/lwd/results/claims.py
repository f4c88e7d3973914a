"""What the paper shows, as claims about our own runs: each holds, does not hold, is not settled by its interval, or was not
measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from lwd.evaluate.intervals import Estimate
from lwd.results.board import Board, label
from lwd.results.scores import Measured
from lwd.results.text import show

AVERAGE_TARGET, LONG_TARGET = 0.95, 0.90
"""Success of LWD online over all and over long tasks; the paper has 0.95 and 0.91 by its own score."""
AVERAGE_GAIN, LONG_GAIN = 0.15, 0.23
"""Of LWD online over SFT."""
OPTIONS: Mapping[str, str] = {
    "takeover_fails": "LWD for which a takeover is a failure (beyond the paper)",
    "best_of_16_acting": "LWD whose robots choose among 16 chunks (beyond the paper)",
    "n_step_10_short_online": "LWD with returns over ten chunks on short tasks too (beyond the paper)",
    "n_step_10_short_best_of_16": "LWD with both: ten chunks on short tasks too, robots choose among 16 (beyond the paper)",
    "refitted_in_turns": "LWD in turns with the fleet, its reference refitted in each (beyond the paper)",
    "takeover_fails_in_turns": "LWD in turns, refitted in each, for which a takeover is a failure (beyond the paper)",
    "choosing_in_turns": "LWD in turns, refitted in each, whose robots choose among 16 chunks (beyond the paper)",
    "n_step_10_short_choosing_in_turns": "LWD with all three: turns, n = 10 on short tasks, 16 chunks (beyond the paper)",
    "refitted_in_six_turns": "LWD in six turns, with twice the robot-hours (beyond the paper)",
    "lwd_refitted_once_more": "LWD, then once more against a refitted reference (beyond the paper)",
}
"""The options that paid or promise to, by row: decision records 0022, 0027, 0031 and 0032."""
ONLINE_RIVALS = ("hg_dagger_online", "recap_online", "rft_online")


Verdict = Literal["yes", "no", "not settled", "on one seed", "not measured"]


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        text: what is claimed; measured: the numbers, "" where there are none; found: what their interval says about it.
        beside: the same by another measure, which decides nothing.
        seeds: training seeds that say so.
    """

    text: str
    measured: str = ""
    found: Verdict = "not measured"
    beside: str = ""
    seeds: int = 0

    @property
    def holds(self) -> Verdict:
        """What `found` is worth: an interval of one training seed shows no luck in training, so it settles nothing."""
        return "on one seed" if self.seeds == 1 else self.found


def claims(board: Board) -> list[Claim]:
    """Every target that this benchmark has the rows for, with what the committed runs say about it."""
    options = (claim for row in OPTIONS if row in board.wanted for claim in _option(board, row))
    return [*paper_claims(board), *options]


def paper_claims(board: Board) -> list[Claim]:
    """Those about LWD itself, at the recipe's settings."""
    return [
        *_levels(board, "lwd_online", "LWD online"),
        *_gains(board),
        *(_apart(board, rival) for rival in ONLINE_RIVALS if rival in board.wanted),
        *_offline(board),
        _faster(board),
    ]


def _levels(board: Board, row: str, name: str) -> Iterator[Claim]:
    for tasks, part, target in (("all", "average", AVERAGE_TARGET), ("long", "long", LONG_TARGET)):
        text = f"{name} succeeds in at least {target:.2f} of the episodes, mean over {tasks} tasks"
        found = _mean(board, row, part)
        if found is None:
            yield Claim(text)
        else:
            beside = f"by the paper's score {show(found.paper_score)}"
            seeds = len(board.runs[row])
            yield Claim(text, show(found.success), _at_least(found.success, target), beside, seeds)


def _gains(board: Board) -> Iterator[Claim]:
    difference = board.paired("sft", "lwd_online")
    for name, part, target in (("all", "average", AVERAGE_GAIN), ("long", "long", LONG_GAIN)):
        text = f"LWD online succeeds at least {target:.2f} more often than SFT, mean over {name} tasks"
        if difference is None or part not in difference.means:
            yield Claim(text)
        else:
            gain = difference.means[part].success
            seeds = len(difference.by_seed)
            yield Claim(text, show(gain, sign=True), _at_least(gain, target), seeds=seeds)


def _apart(board: Board, rival: str) -> Claim:
    text = f"LWD online is above {label(rival)}, and their intervals (all tasks, the seeds of both) do not overlap"
    scores = board.on_shared_seeds("lwd_online", rival)
    if scores is None:
        return Claim(text)
    ours, theirs = (score.means["average"].success for score in scores)
    difference = board.paired(rival, "lwd_online")
    beside = ""
    if difference is not None:
        paired = difference.means["average"]
        beside = f"paired {show(paired.success, sign=True)}, by the paper's score {show(paired.paper_score, sign=True)}"
    apart, seeds = ours.low > theirs.high, len(scores[0].seeds)
    return Claim(text, f"{show(ours)} against {show(theirs)}", _word(apart, not apart), beside, seeds)


def _offline(board: Board) -> Iterator[Claim]:
    rivals = (row for row in board.methods if row.endswith("_offline") and row != "lwd_offline")
    for rival in ("sft", *rivals):
        text = f"LWD offline succeeds more often than {label(rival)}, mean over all tasks"
        yield _more_often(board, text, rival, "lwd_offline", "average")


def _option(board: Board, row: str) -> Iterator[Claim]:
    name = OPTIONS[row]
    yield from _levels(board, row, name)
    text = f"{name} succeeds more often than LWD online, mean over long tasks"
    yield _more_often(board, text, "lwd_online", row, "long")


def _more_often(board: Board, text: str, below: str, above: str, part: str) -> Claim:
    difference = board.paired(below, above)
    if difference is None or part not in difference.means:
        return Claim(text)
    gain = difference.means[part].success
    verdict = _word(gain.low > 0, gain.high < 0)
    return Claim(text, show(gain, sign=True), verdict, seeds=len(difference.by_seed))


def _faster(board: Board) -> Claim:
    text = "LWD online takes less time than SFT on long tasks (mean seconds, failures included)"
    difference = board.paired("sft", "lwd_online")
    if difference is None or "long" not in difference.means:
        return Claim(text)
    change = difference.means["long"].cycle_time_s
    verdict = _word(change.high < 0, change.low > 0)
    measured = f"{show(change, sign=True, digits=1)} s"
    return Claim(text, measured, verdict, seeds=len(difference.by_seed))


def _at_least(found: Estimate, target: float) -> Verdict:
    """By the interval: all of it reaches the target, or none of it does."""
    return _word(found.low >= target, found.high < target)


def _word(holds: bool, fails: bool) -> Verdict:
    return "yes" if holds else "no" if fails else "not settled"


def _mean(board: Board, row: str, part: str) -> Measured | None:
    return board.scores[row].means.get(part) if row in board.scores else None
