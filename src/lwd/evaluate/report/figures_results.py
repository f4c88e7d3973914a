"""Pictures of the result: success per task, and learning curves."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from lwd.evaluate.intervals import wilson
from lwd.evaluate.report import draw
from lwd.evaluate.report.run import FleetEpisode, Metrics, online_groups
from lwd.evaluate.summary import METHODS, Line, MethodSummary, Summary

_METHOD_LEGEND = tuple((draw.variable(draw.METHOD_COLOURS[name]), label) for name, label in METHODS.items())
_STAGE_NAMES = {"sft": "SFT", "offline": "LWD offline", "online": "LWD online"}

CURVES: tuple[tuple[str, str, str, bool], ...] = (
    (
        "policy/flow_matching_loss",
        "Flow-matching loss",
        "Cloning: should flatten before the stage ends.",
        False,
    ),
    ("critic/loss", "Critic loss", "Squared TD error of the two heads.", False),
    ("critic/td_error", "TD error", "Mean of |target - Q|. Should shrink and stay small, not grow.", False),
    (
        "value/cross_entropy",
        "Value cross-entropy",
        "Of the value's distribution against projected targets.",
        False,
    ),
    ("value/quantile", "Adaptive quantile value", "Mean over the batch; above 1 would be impossible.", False),
    ("policy/adjoint_norm", "Adjoint norm", "How hard the critic pulls on the policy. Log scale.", True),
    ("policy/path_kl", "Path KL to the reference", "How far the policy has moved from SFT.", False),
    ("policy/saturated_share", "Saturated actions", "Share of action coordinates at their limit.", False),
)
"""Metric, title, caption, log scale."""


_AVERAGE_NAMES = {"all": "all tasks", "short": "short, mean", "long": "long, mean"}


def per_task(summary: Summary) -> list[draw.Plate]:
    """Success and stage score of each task and of the averages, three methods side by side."""
    rows = ["all"]
    for horizon in ("short", "long"):
        tasks = [task for task, found in summary.tasks.items() if found == horizon]
        rows += [horizon, *tasks] if tasks else []
    size = (draw.PANEL[0], 0.8 + 0.33 * len(rows))
    return [
        draw.Plate(
            title="Success",
            caption="Dots: share of evaluation episodes that succeeded; bars: 95 % intervals. Where bars "
            "overlap much, the order of two methods on that task is not settled; the averages decide.",
            svg=draw.svg(
                lambda figure: _paint_rows(figure, summary, rows, "success"),
                size,
                "Success per task with intervals, three methods",
            ),
            legend=_METHOD_LEGEND,
        ),
        draw.Plate(
            title="Stage score",
            caption="Mean of milestones reached / total: partial progress counts, so long tasks show "
            "movement before they show success.",
            svg=draw.svg(
                lambda figure: _paint_rows(figure, summary, rows, "stage_score"),
                size,
                "Stage score per task, three methods",
            ),
            legend=_METHOD_LEGEND,
        ),
    ]


def _line(method: MethodSummary, row: str) -> Line | None:
    averages = {"all": method.average, "short": method.short, "long": method.long}
    return averages[row] if row in averages else method.tasks[row]


def _paint_rows(figure: Figure, summary: Summary, rows: Sequence[str], quantity: str) -> None:
    axes = figure.subplots()
    for row, label in enumerate(rows):
        if label in _AVERAGE_NAMES:
            axes.axhspan(row - 0.5, row + 0.5, color=draw.GRID, alpha=0.45, linewidth=0)
        for index, name in enumerate(METHODS):
            line = _line(summary.methods[name], label)
            if line is None:
                continue
            y, colour = row + 0.24 * (index - 1), draw.METHOD_COLOURS[name]
            if quantity == "success":
                axes.plot([line.low, line.high], [y, y], color=colour, linewidth=2.2, alpha=0.45)
            axes.plot([getattr(line, quantity)], [y], "o", color=colour, markersize=4.5)
    axes.set_yticks(range(len(rows)), [_AVERAGE_NAMES.get(row, row) for row in rows])
    for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_color(draw.INK)
        tick.set_fontweight("bold" if row in _AVERAGE_NAMES else "normal")
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel(quantity.replace("_", " "))
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


def metric_by_stage(
    metrics: Metrics, name: str, title: str, caption: str, *, log: bool = False
) -> draw.Plate | None:
    """A metric over learner steps, one panel per stage in which it occurs; None where it does not occur."""
    stages = metrics.stages(name)
    if not stages:
        return None

    def paint(figure: Figure) -> None:
        panels = figure.subplots(1, len(stages), sharey=True, squeeze=False)[0]
        for axes, stage in zip(panels, stages, strict=True):
            steps, values = metrics.series(stage, name)
            draw.curve(axes, steps, values, draw.STAGE_COLOURS[stage])
            axes.set_title(_STAGE_NAMES[stage], color=draw.STAGE_COLOURS[stage], loc="left")
            axes.set_xlabel("learner step")
            axes.xaxis.set_major_formatter(draw.plain_ticks)
            axes.locator_params(axis="x", nbins=5)
            if log and (values > 0).all():
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter(draw.plain_ticks)
                axes.yaxis.set_minor_formatter(_one_two_five)

    picture = draw.svg(paint, draw.PANEL, f"{title} over learner steps")
    return draw.Plate(title=title, caption=caption, svg=picture, metric=name)


def _one_two_five(value: float, _: int | None = None) -> str:
    """Label only 2 and 5 between the powers of ten of a log axis; more would overlap."""
    lead = f"{value:e}"[0]
    return draw.plain_ticks(value) if lead in "25" else ""


def learning_curves(metrics: Metrics) -> list[draw.Plate]:
    """The curves of `CURVES` that the run has, and its evaluation points."""
    plates = [metric_by_stage(metrics, name, title, caption, log=log) for name, title, caption, log in CURVES]
    return [plate for plate in (evaluation_points(metrics), *plates) if plate is not None]


def evaluation_points(metrics: Metrics) -> draw.Plate | None:
    """Success at the evaluations during each stage."""
    name = "evaluate/success"
    stages = metrics.stages(name)
    if not stages:
        return None

    def paint(figure: Figure) -> None:
        panels = figure.subplots(1, len(stages), sharey=True, squeeze=False)[0]
        for axes, stage in zip(panels, stages, strict=True):
            steps, values = metrics.series(stage, name)
            colour = draw.STAGE_COLOURS[stage]
            axes.plot(steps, values, "-o", color=colour, markersize=4.5)
            ends = [metrics.series(stage, f"{name}_{end}")[1] for end in ("low", "high")]
            if all(len(end) == len(steps) for end in ends):
                axes.vlines(steps, ends[0], ends[1], color=colour, alpha=0.45, linewidth=2.2)
            axes.set_title(_STAGE_NAMES[stage], color=colour, loc="left")
            axes.set_xlabel("learner step")
            axes.xaxis.set_major_formatter(draw.plain_ticks)
            axes.locator_params(axis="x", nbins=5)
            axes.set_ylim(-0.02, 1.02)

    return draw.Plate(
        title="Evaluations",
        caption="Average success on held-out seeds, each time the policy was evaluated.",
        metric=name,
        svg=draw.svg(paint, draw.PANEL, "Average success at each evaluation"),
    )


def online_progress(episodes: Sequence[FleetEpisode], bins: int = 16) -> draw.Plate | None:
    """Success of the fleet's online episodes and share of human steps over robot-hours."""
    groups = online_groups(episodes, bins)
    if not groups:
        return None
    x, parts = [group.robot_hours for group in groups], [group.episodes for group in groups]
    count = sum(map(len, parts))
    hours = sum(e.cycle_time_s for part in parts for e in part) / 3600
    success = [wilson(sum(e.outcome == "success" for e in part), len(part)) for part in parts]
    human = [sum(e.intervention_steps for e in p) / max(1, sum(e.steps for e in p)) for p in parts]

    def paint(figure: Figure) -> None:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
        top.vlines(
            x,
            [s.low for s in success],
            [s.high for s in success],
            color=draw.ONLINE,
            alpha=0.4,
            linewidth=2.2,
        )
        top.plot(x, [s.value for s in success], "-o", color=draw.ONLINE, markersize=4)
        top.set_ylim(-0.02, 1.02)
        top.set_ylabel("success")
        bottom.bar(x, human, width=0.7 * hours / len(x), color=draw.INK, alpha=0.55)
        bottom.set_ylim(0, max(0.05, 1.15 * max(human)))
        bottom.set_ylabel("human steps")
        bottom.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        bottom.set_xlabel("robot-hours online")

    return draw.Plate(
        title="Fleet online",
        caption=f"{count} online episodes in {len(groups)} groups in order of time. Above: share that "
        "succeeded, helped ones included, with 95 % interval. Below: share of control steps that a human "
        "commanded; learning shows where it falls.",
        svg=draw.svg(
            paint, draw.PANEL, "Success of online episodes and share of human steps over robot-hours"
        ),
    )
