"""Every row that differs from another in one thing, at a glance: a table over all benchmarks, and a picture of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lwd.evaluate.intervals import Estimate
from lwd.evaluate.report import draw
from lwd.results.board import ABLATIONS, BEYOND, Ablation, Board
from lwd.results.scores import Measured
from lwd.results.text import MISSING, counted, is_settled, show, table

_EDGE = 0.36
"""Of the picture, in success; what is beyond is an arrow with its number."""
_PANELS: Mapping[str, str] = {"average": "all tasks", "long": "long tasks"}


@dataclass(frozen=True)
class Change:
    """One setting in place of that of the row it is compared with, on one benchmark.

    Attributes:
        title: what differs; setting: what it is; against: the row that it is compared with.
        means: "average", "long", ... -> success with the setting minus success without it, paired.
        seeds: how many training seeds have both.
    """

    title: str
    setting: str
    against: str
    means: Mapping[str, Measured]
    seeds: int

    @property
    def key(self) -> tuple[str, str]:
        """The same on every benchmark."""
        return self.title, self.setting


def changes(board: Board) -> list[Change]:
    """All that have been measured on a benchmark, in the order of the ablations."""
    made: list[Change] = []
    for ablation in board.ablations:
        for setting, row in ablation.rows:
            found = None if row == ablation.against else board.paired(ablation.against, row)
            if found is not None:
                made.append(
                    Change(ablation.title, setting, ablation.against, found.means, len(found.by_seed))
                )
    return made


def _against(ablation: Ablation) -> str:
    return next(setting for setting, row in ablation.rows if row == ablation.against)


def differences_table(boards: Sequence[Board]) -> str:
    """A line for each change that has been measured somewhere, a column for each benchmark; as markdown.

    Benchmarks that vary another one's conditions have a table of their own (`lwd.results.conditions`).
    """
    shown = [board for board in boards if not board.varies]
    found = {board.benchmark: {change.key: change for change in changes(board)} for board in shown}
    found = {benchmark: of for benchmark, of in found.items() if of}
    lines: list[list[str]] = []
    for ablation in ABLATIONS:
        for setting, _ in ablation.rows:
            measured = [of.get((ablation.title, setting)) for of in found.values()]
            if any(measured):
                what = f"{ablation.title}: {setting} instead of {_against(ablation)}"
                lines.append([what, *map(_cell, measured)])
    return table(["change", *found], lines, left=1 + len(found))


def _cell(change: Change | None) -> str:
    if change is None:
        return MISSING
    return f"{all_and_long(change.means, sign=True)}, {_seeds(change)}"


def all_and_long(means: Mapping[str, Measured], *, sign: bool = False) -> str:
    """Success over all tasks and, where there are some, over long ones, each with its interval."""
    long = f", long {show(means['long'].success, sign=sign)}" if "long" in means else ""
    return f"{show(means['average'].success, sign=sign)}{long}"


def _seeds(change: Change) -> str:
    return counted(change.seeds, "seed")


def paint(figure: Figure, shown: Sequence[Change]) -> None:
    """A line for each change: the paired difference and its interval, over all and over long tasks."""
    panels: Sequence[Axes] = figure.subplots(1, len(_PANELS), sharey=True)
    for axes, (part, name) in zip(panels, _PANELS.items(), strict=True):
        axes.axvline(0, color=draw.MUTED, linewidth=0.8)
        for y, change in enumerate(shown):
            if part in change.means:
                _paint_line(axes, y, change.means[part].success, change.seeds)
        axes.set_xlim(-_EDGE, _EDGE)
        axes.set_xticks((-0.2, -0.1, 0, 0.1, 0.2))
        axes.set_title(name, color=draw.INK, loc="left")
        axes.set_xlabel("difference in success")
        axes.grid(visible=False, axis="y")
    names = [f"{_title(change)}: {change.setting}" for change in shown]
    panels[0].set_yticks(range(len(shown)), names, fontsize=8)
    panels[0].set_ylim(len(shown) - 0.5, -0.5)


def _title(change: Change) -> str:
    if not change.title.startswith(BEYOND):
        return change.title
    own = change.title.removeprefix(BEYOND)
    return own[:1].upper() + own[1:]


def _paint_line(axes: Axes, y: int, found: Estimate, seeds: int) -> None:
    sign = draw.SUCCESS if found.value > 0 else draw.FAILURE
    colour = sign if is_settled(found, seeds) else draw.MUTED
    if abs(found.value) > _EDGE:  # would press all others together
        side = 1 if found.value > 0 else -1
        axes.plot([0.97 * side * _EDGE], [y], ">" if side > 0 else "<", color=colour, markersize=5)
        axes.text(
            0.91 * side * _EDGE,
            y,
            f"{found.value:+.2f}",
            color=colour,
            fontsize=8,
            va="center",
            ha="left" if side < 0 else "right",
        )
        return
    draw.estimate(axes, y, found, colour)
