"""The paper's figures 5, 6, 8 and 9, redrawn from the committed run files, and one of what each setting changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lwd.evaluate.report import draw
from lwd.evaluate.report.figures_value import choose_pair, full_scale, paint_along, paint_distribution
from lwd.evaluate.report.run import ValueTrace
from lwd.results.board import Board, boards, label
from lwd.results.conditions import groups
from lwd.results.conditions import paint as paint_conditions
from lwd.results.differences import changes, paint
from lwd.results.runfile import Curve, RunFile
from lwd.results.scores import AVERAGES
from lwd.results.text import counted

FOLDER = Path("docs/assets/results")
CONDITIONS = FOLDER / "conditions.svg"
"""Success under several conditions of the deployment, of all benchmarks that vary them."""
_COLOURS = {
    "sft": draw.SFT,
    "lwd_offline": draw.OFFLINE,
    "lwd_online": draw.ONLINE,
    "hg_dagger_online": draw.SUCCESS,
    "recap_online": draw.INK,
    "rft_online": draw.FAILURE,
    "iql_qam_online": draw.PLAY,
}
"""Those that a reader looks for; the others are grey."""
_LWD = ("lwd_offline", "lwd_offline_again", "lwd_online")
_DASHED = ("awac_online",)
"""Curves of a grey method that has another one beside it."""


@dataclass(frozen=True)
class Picture:
    """One figure.

    Attributes:
        name: of its file; caption: what it shows and how to read it.
        paint: draws it; size: in inches.
    """

    name: str
    caption: str
    paint: Callable[[Figure], None]
    size: tuple[float, float]

    def path(self, benchmark: str, form: str = "svg") -> Path:
        """Of its file, below the repository's root."""
        return FOLDER / f"{benchmark}_{self.name}.{form}"


def write_figures(root: Path, form: Literal["svg", "png"] = "svg") -> list[Path]:
    """Draw what the run files under `root`/results allow, into `root`/docs/assets/results; the files written."""
    written: list[Path] = []
    found = boards(root)
    for board in found:
        for picture in pictures(board):
            path = root / picture.path(board.benchmark, form)
            path.parent.mkdir(parents=True, exist_ok=True)
            draw.save(picture.paint, picture.size, path)
            written.append(path)
    if made := groups(found):
        path = root / CONDITIONS.with_suffix(f".{form}")
        draw.save(lambda figure: paint_conditions(figure, made), (8.4, 3.4), path)
        written.append(path)
    return written


def pictures(board: Board) -> list[Picture]:
    """The figures that the board has data for, in the paper's order; none where only another one's conditions are varied."""
    if board.varies:
        return []
    return [
        *_of_success(board),
        *_of_value(board, 6),
        *_of_training(board),
        *_of_value(board, 9),
        *_of_changes(board),
    ]


def _of_changes(board: Board) -> Iterator[Picture]:
    shown = [change for change in changes(board) if change.against in _LWD]
    if shown:
        yield Picture(
            "differences",
            "Settings: what each one changes in LWD's success, paired with the row that it is compared with in the tables "
            "below, with 95 % intervals; grey where the interval holds 0 or there is one seed, an arrow with its number "
            "beyond the edge.",
            lambda figure: paint(figure, shown),
            (9.6, 0.9 + 0.22 * len(shown)),
        )


def _of_success(board: Board) -> Iterator[Picture]:
    measured = [row for row in board.methods if row in board.scores]
    if measured:
        yield Picture(
            "figure_5",
            "Figure 5: success on held-out starts, with 95 % intervals.",
            lambda figure: _success(figure, board, measured),
            (8.4, 0.9 + 0.26 * len(measured)),
        )
    fleets = {row: [run for run in board.runs[row] if run.fleet] for row in measured}
    without = [
        _runs(len(board.runs[row]) - len(runs), row)
        for row, runs in fleets.items()
        if row.endswith("_online")
    ]
    missing = ", ".join(filter(None, without))
    fleets = {row: runs for row, runs in fleets.items() if runs}
    if fleets:
        yield Picture(
            "figure_5_fleet",
            "Figure 5 over robot-hours: share of the fleet's own online episodes that succeeded, and that succeeded while "
            "nobody took over. Where operators take over, it is after a while without a milestone, so the second leaves out "
            "slow episodes that the policy might have ended itself, and is no success rate of the policy. RFT and RECAP have "
            "no operators. Mean over seeds, band from the least to the greatest seed."
            + (f" The order of episodes, and so the curve, was not kept of {missing}." if missing else ""),
            lambda figure: _fleet(figure, fleets),
            (8.4, 3.2),
        )


def _runs(count: int, row: str) -> str:
    """So many runs of a row in words, "" for none."""
    return f"{counted(count, 'run')} of {label(row)}" if count else ""


def _of_training(board: Board) -> Iterator[Picture]:
    rows = {"offline": "lwd_offline", "online": "lwd_online"}
    training = {stage: [run for run in board.runs.get(row, []) if run.learner] for stage, row in rows.items()}
    training = {stage: runs for stage, runs in training.items() if runs}
    if training:
        yield Picture(
            "figure_8",
            "Figure 8: normalised entropy of the value and the adaptive quantile level over LWD's learner steps. Mean over "
            "seeds, band from the least to the greatest seed.",
            lambda figure: _entropy(figure, training),
            (3.4 * len(training), 4.0),
        )


def _of_value(board: Board, number: int) -> Iterator[Picture]:
    run = next((run for run in board.runs.get("lwd_offline", []) if run.traces), None)
    traces = () if run is None else run.traces
    pair = choose_pair(traces)
    which = (
        "" if run is None else f"One pair, the longest success that has a failure beside it, seed {run.seed}."
    )
    if pair and number == 6:
        yield Picture(
            "figure_6",
            "Figure 6: adaptive quantile value of LWD offline along a success and a failure of the same task. "
            f"{which} The paper's climbs from 0.4 to 1 in a success and stalls at 0.5 to 0.6 in a failure.",
            lambda figure: _value(figure, traces, pair),
            (5.2, 2.9),
        )
    elif pair:
        yield Picture(
            "figure_9",
            "Figure 9: distribution of the value along the same two episodes; stronger is more probable, the line is the "
            f"adaptive quantile. {which}",
            lambda figure: _distribution(figure, pair),
            (4.2 * len(pair), 2.9),
        )


def _success(figure: Figure, board: Board, rows: Sequence[str]) -> None:
    """Figure 5: success of each method over all, short and long tasks."""
    panels: Sequence[Axes] = figure.subplots(1, len(AVERAGES), sharey=True)
    for axes, part in zip(panels, AVERAGES, strict=True):
        for y, row in enumerate(rows):
            found = board.scores[row].means.get(part)
            if found is None:
                continue
            draw.estimate(axes, y, found.success, _colour(row))
        axes.set_xlim(-0.02, 1.02)
        axes.set_title({"average": "all tasks"}.get(part, f"{part} tasks"), color=draw.INK, loc="left")
        axes.set_xlabel("success")
        axes.grid(visible=False, axis="y")
    panels[0].set_yticks(range(len(rows)), [_with_seeds(board, row) for row in rows])
    panels[0].set_ylim(len(rows) - 0.5, -0.5)


def _fleet(figure: Figure, fleets: Mapping[str, Sequence[RunFile]]) -> None:
    """Figure 5, over time: share of the fleet's own episodes that succeed, with and without help, mean over seeds."""
    panels: Sequence[Axes] = figure.subplots(1, 2, sharey=True)
    for axes, series, title in zip(
        panels, ("helped", "alone"), ("with help where there was some", "without help"), strict=True
    ):
        for row, runs in fleets.items():
            curves = [
                Curve(x=run.fleet.robot_hours, y=getattr(run.fleet, series)) for run in runs if run.fleet
            ]
            _mean_curve(axes, curves, _colour(row), label(row), "--" if row in _DASHED else "-")
        axes.set_xlim(left=0)
        axes.set_xlabel("robot-hours online")
        axes.set_title(title, color=draw.INK, loc="left")
    panels[0].set_ylim(0, 1.02)
    panels[0].set_ylabel("success of the fleet's own episodes")
    panels[0].legend(frameon=False, fontsize=8, ncols=2, loc="lower left")


def _entropy(figure: Figure, training: Mapping[str, Sequence[RunFile]]) -> None:
    """Figure 8: entropy and tau over learner steps, a column for each stage that has run."""
    panels = figure.subplots(2, len(training), sharex="col", sharey="row", squeeze=False)
    for column, (stage, runs) in enumerate(training.items()):
        colour = draw.STAGE_COLOURS[stage]
        for axes, metric in zip(panels[:, column], ("value/entropy", "value/tau"), strict=True):
            _mean_curve(axes, [run.learner[metric] for run in runs if metric in run.learner], colour, "")
        panels[0, column].set_title(stage, color=colour, loc="left")
        panels[1, column].set_xlabel("learner step")
        panels[1, column].xaxis.set_major_formatter(draw.plain_ticks)
    panels[0, 0].set_ylabel("entropy")
    panels[1, 0].set_ylabel("tau")


def _value(figure: Figure, traces: Sequence[ValueTrace], pair: Sequence[ValueTrace]) -> None:
    """Figure 6: the value along a success and a failure."""
    paint_along(figure, traces, pair, "quantile", "quantile value")
    (axes,) = figure.axes
    for trace in pair:
        axes.annotate(
            f"{trace.outcome}, {trace.task}",
            (float(trace.times_s[-1]), float(trace.quantile[-1])),
            xytext=(-4, 6),
            textcoords="offset points",
            ha="right",
            color=draw.SUCCESS if trace.outcome == "success" else draw.FAILURE,
        )
    axes.set_ylim(-0.1, 1.1)  # the value's support


def _distribution(figure: Figure, pair: Sequence[ValueTrace]) -> None:
    """Figure 9: the value's distribution along the same two episodes."""
    panels = figure.subplots(1, len(pair), sharey=True, squeeze=False)[0]
    for axes, trace in zip(panels, pair, strict=True):
        paint_distribution(axes, trace, full_scale(pair))
        axes.set_title(f"{trace.outcome}, {trace.task}", color=draw.INK, loc="left")


def _mean_curve(axes: Axes, curves: Sequence[Curve], colour: str, name: str, dash: str = "-") -> None:
    """Mean over seeds, with a band from the least to the greatest seed, where all seeds have values."""
    if not curves:
        return
    end = min(max(curve.x) for curve in curves)
    start = max(min(curve.x) for curve in curves)
    x = np.linspace(start, end, 60)
    values = np.stack([np.interp(x, curve.x, curve.y) for curve in curves])
    axes.fill_between(x, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, linewidth=0)
    axes.plot(x, values.mean(axis=0), color=colour, label=name, linestyle=dash)


def _with_seeds(board: Board, row: str) -> str:
    """The row's label; with its number of seeds where that is less than planned, since its interval does not show it."""
    seeds = len(board.runs[row])
    if seeds == board.wanted[row]:
        return label(row)
    return f"{label(row)} ({counted(seeds, 'seed')})"


def _colour(row: str) -> str:
    return _COLOURS.get(row, draw.MUTED)
