"""One benchmark's robots under several conditions of the deployment, side by side: where learning pays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lwd.evaluate.report import draw
from lwd.results.board import Board, label
from lwd.results.differences import all_and_long
from lwd.results.text import MISSING, table

ORDER = ("nothing else", "less time", "other starts", "other starts, less time")
"""What a deployment has that its demonstrations had not, the mildest first."""
_STAGES = ("sft", "lwd_offline", "lwd_online")
_PAINTED: Mapping[str, tuple[str, str]] = {
    **{row: (label(row), colour) for row, colour in draw.METHOD_COLOURS.items()},
    "hg_dagger_online": (label("hg_dagger_online"), draw.SUCCESS),
    "refitted_in_turns": ("LWD in turns, refitted in each", draw.FAILURE),
}
"""Row -> its name and its colour in the picture."""
_DIFFERENCES: Mapping[str, tuple[str, str]] = {
    "LWD offline minus SFT": ("sft", "lwd_offline"),
    "LWD online minus LWD offline": ("lwd_offline", "lwd_online"),
    "LWD online minus HG-DAgger online": ("hg_dagger_online", "lwd_online"),
    "LWD online without interventions minus LWD online": ("lwd_online", "no_interventions"),
    "LWD whose reference is refitted beside the robots minus LWD online": (
        "lwd_online",
        "refitted_reference",
    ),
    "LWD in turns, its reference frozen, minus LWD online": ("lwd_online", "frozen_in_turns"),
    "LWD in turns, refitted in each, minus LWD online": ("lwd_online", "refitted_in_turns"),
    "LWD in turns, refitted in each, minus in turns, frozen": ("frozen_in_turns", "refitted_in_turns"),
    "LWD in turns, refitted in each, minus HG-DAgger online": ("hg_dagger_online", "refitted_in_turns"),
}
NOTHING = "No run under other conditions is committed yet.\n"


def groups(found: Sequence[Board]) -> list[list[Board]]:
    """For each benchmark whose conditions were varied: it and the ones that vary it, with runs, by `ORDER`."""
    made: list[list[Board]] = []
    for base in found:
        others = [board for board in found if board.varies == base.benchmark and board.scores]
        if others and base.scores:
            made.append(sorted([base, *others], key=lambda board: ORDER.index(board.conditions)))
    return made


def conditions_table(found: Sequence[Board]) -> str:
    """A table for each benchmark whose conditions were varied: a column for each of them; as markdown."""
    return "\n".join(map(_table, groups(found))) or NOTHING


def _table(group: Sequence[Board]) -> str:
    head = [
        "the deployment, not its demonstrations, has",
        *(f"{board.conditions} (`{board.benchmark}`)" for board in group),
    ]
    lines = [["training seeds", *map(_seeds, group)]]
    lines += [[label(row), *(_mean(board, row) for board in group)] for row in _STAGES]
    lines += [
        [title, *(_difference(board, below, above) for board in group)]
        for title, (below, above) in _DIFFERENCES.items()
    ]
    told = ", ".join(map(label, _STAGES))
    lines.append([f"seconds of an attempt at a long task: {told}", *map(_seconds, group)])
    return table(head, [line for line in lines if set(line[1:]) != {MISSING}], left=len(head))


def _seeds(board: Board) -> str:
    counts = sorted({len(board.runs[row]) for row in _STAGES if board.runs[row]})
    return " to ".join(map(str, counts)) or MISSING


def _seconds(board: Board) -> str:
    """Mean cycle time of the long tasks at each stage, failures included."""
    scores = [board.scores.get(row) for row in _STAGES]
    found = [None if score is None else score.means.get("long") for score in scores]
    if not any(found):
        return MISSING
    return ", ".join(MISSING if one is None else f"{one.cycle_time_s.value:.1f}" for one in found)


def _mean(board: Board, row: str) -> str:
    if row not in board.scores:
        return MISSING
    return all_and_long(board.scores[row].means)


def _difference(board: Board, below: str, above: str) -> str:
    found = None if {below, above} - set(board.wanted) else board.paired(below, above)
    return MISSING if found is None else all_and_long(found.means, sign=True)


def paint(figure: Figure, made: Sequence[Sequence[Board]]) -> None:
    """A panel for each benchmark: success of LWD's stages, HG-DAgger and a refitted reference under each condition."""
    panels: Sequence[Axes] = figure.subplots(1, len(made), squeeze=False)[0]
    for axes, group in zip(panels, made, strict=True):
        for y, board in enumerate(group):
            for i, (row, (_, colour)) in enumerate(_PAINTED.items()):
                if row in board.scores:
                    found = board.scores[row].means["average"].success
                    draw.estimate(axes, y + 0.15 * (i - 2), found, colour)
        axes.set_xlim(0, 1.02)
        axes.set_yticks(range(len(group)), [_name(board) for board in group])
        axes.set_ylim(len(group) - 0.5, -0.5)
        base = next(board for board in group if not board.varies)
        axes.set_title(base.benchmark, color=draw.INK, loc="left")
        axes.set_xlabel("success, all tasks")
        axes.grid(visible=False, axis="y")
    for name, colour in _PAINTED.values():
        panels[0].plot([], [], "o", color=colour, label=name)
    panels[0].legend(frameon=False, fontsize=8, loc="lower left")


def _name(board: Board) -> str:
    """Its conditions, with the number of training seeds where an interval does not show how few they are."""
    one = _seeds(board) == "1"
    return board.conditions.replace(", ", ",\n") + ("\n(1 seed)" if one else "")
