"""The README's part of the evidence: benchmarks that compare methods, side by side; everything else is on the results page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from lwd.results.board import Board, label
from lwd.results.claims import OPTIONS, paper_claims
from lwd.results.plan import plan
from lwd.results.scores import Measured
from lwd.results.text import MISSING, is_settled, table

NOTHING = "No run is committed yet; [results](docs/reference/results.md) lists what is planned.\n"
SEEDS = "⁰¹²³⁴⁵⁶⁷⁸⁹"
_PARTS = ("average", "short", "long")
ENOUGH = 3
"""Training seeds that a comparison between methods is planned with."""
AS_THE_PAPER: Mapping[str, str] = {"as_the_paper_online": "LWD online with the paper's n and tau_base"}
"""LWD where LWD's own row has settings of ours, and what the README calls it."""
RIVAL = "rft_online"
"""The row that a benchmark has where methods are compared."""


def readme_part(boards: Sequence[Board]) -> str:
    """Methods that have at least one run, of benchmarks that none has superseded and that vary no other's conditions."""
    boards = [board for board in boards if not board.superseded_by and not board.varies]
    compared = [board for board in boards if board.scores and RIVAL in board.wanted]
    if not compared:
        return NOTHING
    told = (
        "Success on held-out starts, mean over all and over long tasks, with 95 % intervals over training seeds and starts; a "
        "small number where fewer training seeds are in than planned, or than three; in italics the options beyond the paper "
        f"that are told apart from LWD online, and above it, on some benchmark. Runs that are in: {_progress(boards)}. The "
        "other options, offline stages of the other methods, tasks, ablations, figures, costs, and who ran what: "
        "[results](docs/reference/results.md)."
    )
    targets = f"The paper's claims, tried on LWD at the recipe's settings: {_targets(compared)}."
    alone = "".join(f"{_alone(board)}\n\n" for board in boards if board.scores and board not in compared)
    options = _gaining(compared)
    return f"{_methods(compared, options)}\n{told}\n\n{_paired(compared, options)}{alone}{targets}\n"


def _methods(compared: Sequence[Board], options: Sequence[str]) -> str:
    rows = {
        row for board in compared for row in (*board.methods, *AS_THE_PAPER, *options) if row in board.scores
    }
    shown = sorted((row for row in rows if _place(row) is not None), key=lambda row: (_place(row), row))
    head = ["method", *(name for board in compared for name in (_head(board), "long"))]
    lines = [[_name(row), *(cell for board in compared for cell in _cells(board, row))] for row in shown]
    return table(head, lines, left=len(head))


def _alone(board: Board) -> str:
    """One line about a benchmark that compares no methods."""
    rows = [f"{label(row)} {_between(score.means['average'], '')}" for row, score in board.scores.items()]
    seeds = sorted({len(board.runs[row]) for row in board.scores})
    count = "one training seed" if seeds == [1] else f"{' to '.join(map(str, seeds))} training seeds"
    return f"`{board.benchmark}`, {count}: {', '.join(rows)}."


def _paired(compared: Sequence[Board], options: Sequence[str]) -> str:
    """LWD online minus every other method, and each option minus LWD online, where the other methods have been run."""
    boards = [board for board in compared if len(_rivals(board)) > 1]
    if not boards:
        return ""
    rivals = {row: None for row in AS_THE_PAPER} | {row: None for board in boards for row in _rivals(board)}
    lines = [[f"minus {_name(row)}", *_differences(boards, row, "lwd_online")] for row in rivals]
    lines += [[f"{_name(row)} minus LWD online", *_differences(boards, "lwd_online", row)] for row in options]
    lines = [line for line in lines if set(line[1:]) != {MISSING}]
    if not lines:
        return ""
    head = [
        "LWD online",
        *(name for board in boards for name in (f"`{board.benchmark}`", *_PARTS[1:])),
    ]
    told = (
        "Differences in success, attempt by attempt: same training seed, task and start. Bold where the 95 % interval, shown "
        "for the mean over all tasks, leaves out zero and more than one seed has both; a small number where fewer than three "
        "have."
    )
    # Folded: a page that shows everything at once is not read.
    folded = "<details><summary>The same in pairs: LWD online minus each method, each option minus LWD online</summary>"
    return f"{folded}\n\n{told}\n\n{table(head, lines, left=len(head))}\n</details>\n\n"


def _gaining(compared: Sequence[Board]) -> list[str]:
    """Options that are told apart from LWD online, and above it, over all tasks of at least one benchmark."""

    def gains(board: Board, row: str) -> bool:
        found = board.paired("lwd_online", row)
        if found is None:
            return False
        success = found.means["average"].success
        return success.value > 0 and is_settled(success, len(found.by_seed))

    return [row for row in OPTIONS if any(gains(board, row) for board in compared)]


def _rivals(board: Board) -> list[str]:
    """Online rows of other methods that have run."""
    rows = (row for row in board.methods if row.endswith("_online") and row != "lwd_online")
    return [row for row in rows if row in board.scores]


def _differences(boards: Sequence[Board], below: str, above: str) -> list[str]:
    """Over all tasks with the interval, over short and over long ones, for each benchmark."""
    cells: list[str] = []
    for board in boards:
        found = board.paired(below, above)
        if found is None:
            cells += [MISSING] * len(_PARTS)
            continue
        seeds = len(found.by_seed)
        for part in _PARTS:
            if part not in found.means:
                cells.append(MISSING)
                continue
            success = found.means[part].success
            few = _few(seeds, ENOUGH) if part == "average" else ""
            between = f" ({success.low:+.2f} to {success.high:+.2f})" if part == "average" else ""
            text = f"{success.value:+.2f}{few}{between}"
            cells.append(f"**{text}**" if is_settled(success, seeds) else text)
    return cells


def _place(row: str) -> int | None:
    """SFT, LWD, what learned online besides, options; None for the rest, which the results page has."""
    first = ["sft", "lwd_offline", "lwd_online", *AS_THE_PAPER]
    if row in first:
        return first.index(row)
    if row in OPTIONS:
        return len(first) + 1 + list(OPTIONS).index(row)
    return len(first) if row.endswith("_online") else None


def _name(row: str) -> str:
    if row in OPTIONS:
        return f"*{OPTIONS[row].removesuffix(' (beyond the paper)')}*"
    return AS_THE_PAPER.get(row, label(row))


def _head(board: Board) -> str:
    online = board.scores.get("lwd_online")
    hours = "" if online is None else f", {online.robot_hours:.1f} robot-hours"
    return f"`{board.benchmark}`{hours}"


def _cells(board: Board, row: str) -> list[str]:
    if row not in board.scores:
        return [MISSING, MISSING]
    means, seeds = board.scores[row].means, len(board.runs[row])
    few = _few(seeds, max(board.wanted[row], ENOUGH))
    return [_between(means["average"], few), _between(means["long"], few) if "long" in means else MISSING]


def _few(seeds: int, enough: int) -> str:
    """The number of training seeds, small, where it is less than enough."""
    return "" if seeds >= enough else "".join(SEEDS[int(digit)] for digit in str(seeds))


def _between(found: Measured, few: str) -> str:
    s = found.success
    return f"{s.value:.2f}{few} ({s.low:.2f}-{s.high:.2f})"


def _progress(boards: Sequence[Board]) -> str:
    """How many runs are in; of a benchmark that has ended, also how many were planned."""

    def told(board: Board) -> str:
        done = sum(map(len, board.runs.values()))
        if board.ended:
            return f"{done}, ended ({len(plan(board.benchmark))} were planned)"
        return f"{done} of {sum(board.wanted.values())}"

    return ", ".join(f"`{board.benchmark}` {told(board)}" for board in boards)


def _targets(compared: Sequence[Board]) -> str:
    """How many of the claims hold, by benchmark."""
    counted = ((board, Counter(claim.holds for claim in paper_claims(board))) for board in compared)
    words = ("yes", "no", "not settled", "on one seed", "not measured")
    return "; ".join(
        f"`{board.benchmark}` " + ", ".join(f"{found[word]} {word}" for word in words if found[word])
        for board, found in counted
    )
