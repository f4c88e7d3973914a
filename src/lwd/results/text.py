"""Numbers and tables as the pages write them."""

from __future__ import annotations

from collections.abc import Sequence

from lwd.evaluate.intervals import Estimate

MISSING = "-"


def show(estimate: Estimate, *, sign: bool = False, digits: int = 2) -> str:
    """A mean with its interval."""
    form = f"{'+' if sign else ''}.{digits}f"
    return f"{estimate.value:{form}} ({estimate.low:{form}} to {estimate.high:{form}})"


def is_settled(difference: Estimate, seeds: int) -> bool:
    """Whether it is told apart from zero: one training seed, which shows no luck in training, never does."""
    return seeds > 1 and (difference.low > 0 or difference.high < 0)


def counted(count: int, noun: str) -> str:
    """1 seed, 2 seeds."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def table(head: Sequence[str], lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """A markdown table; the first `left` columns are text."""
    rule = ["---" if i < left else "--:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines)) + "\n"
