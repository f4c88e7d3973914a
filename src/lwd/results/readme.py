"""The README's part of the evidence: every benchmark side by side, one line for each method and each claim of the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lwd.results.board import Board, label
from lwd.results.claims import OPTIONS, Claim, paper_claims
from lwd.results.text import MISSING, show, table

NOTHING = "No run is committed yet; [results](docs/reference/results.md) lists what is planned.\n"


def readme_part(boards: Sequence[Board]) -> str:
    """Methods and claims that have at least one run, of benchmarks that none has superseded; the results page has all."""
    boards = [board for board in boards if not board.superseded_by]
    begun = [board for board in boards if board.scores]
    if not begun:
        return NOTHING
    told = (
        "Success on held-out starts, mean over all tasks, with 95 % intervals over training seeds and starts. "
        f"Runs that are in: {_progress(boards)}. "
        "Per task, short tasks, paired differences, ablations, figures, costs, and who ran what: "
        "[results](docs/reference/results.md)."
    )
    return f"{_methods(begun)}\n{told}\n{_claims(begun)}"


def _methods(begun: Sequence[Board]) -> str:
    rows = dict.fromkeys(row for board in begun for row in [*board.methods, *OPTIONS] if row in board.scores)
    ordered = sorted(rows, key=_place)
    lines = [[OPTIONS.get(row) or label(row), *(_score(board, row) for board in begun)] for row in ordered]
    return table(["method", *map(_head, begun)], lines, left=len(begun) + 1)


def _head(board: Board) -> str:
    online = board.scores.get("lwd_online")
    return (
        board.benchmark
        if online is None
        else f"{board.benchmark}, {online.robot_hours:.1f} robot-hours online"
    )


def _place(row: str) -> tuple[int, int]:
    """SFT, what learned offline, what learned online; LWD first in each."""
    stage = 0 if row == "sft" else 1 if row.endswith("_offline") else 2
    return stage, 2 if row in OPTIONS else 0 if row.startswith("lwd") else 1


def _score(board: Board, row: str) -> str:
    if row not in board.scores:
        return MISSING
    means, seeds = board.scores[row].means, len(board.runs[row])
    long = f", long {means['long'].success.value:.2f}" if "long" in means else ""
    few = "" if seeds == board.wanted[row] else f", {seeds} of {board.wanted[row]} seeds"
    return f"{show(means['average'].success)}{long}{few}"


def _progress(boards: Sequence[Board]) -> str:
    return ", ".join(
        f"`{board.benchmark}` {sum(map(len, board.runs.values()))} of {sum(board.wanted.values())}"
        for board in boards
    )


def _claims(begun: Sequence[Board]) -> str:
    found: list[Mapping[str, Claim]] = [{one.text: one for one in paper_claims(board)} for board in begun]
    texts = dict.fromkeys(text for of in found for text in of)
    measured = [text for text in texts if any(text in of and of[text].measured for of in found)]
    lines = [[text, *(_answer(of.get(text)) for of in found)] for text in measured]
    if not measured:
        return ""
    return "\n" + table(["claim", *(board.benchmark for board in begun)], lines, left=len(begun) + 1)


def _answer(claim: Claim | None) -> str:
    if claim is None or not claim.measured:
        return MISSING
    return f"{'**no**' if claim.holds == 'no' else claim.holds}: {claim.measured}"
