"""Pictures of the data and of the fleet: where the hours come from, who did what when."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lwd.evaluate.report import draw
from lwd.evaluate.report.run import DataRow, FleetEpisode

# Label and colour: demonstrations train SFT and wear its grey.
_SEGMENTS = {
    "demo": ("demonstrations", draw.SFT),
    "rollout success": ("rollouts, success", draw.SUCCESS),
    "rollout failure": ("rollouts, failure", draw.FAILURE),
    "play": ("play", draw.PLAY),
    "online": ("online", draw.ONLINE),
}


def _segments(rows: Sequence[DataRow]) -> dict[str, dict[str, float]]:
    """Hours by segment and task."""
    hours: dict[str, dict[str, float]] = {name: defaultdict(float) for name in _SEGMENTS}
    for row in rows:
        if row.source == "rollout":
            hours["rollout success"][row.task] += row.success_hours
            hours["rollout failure"][row.task] += max(0.0, row.hours - row.success_hours)
        else:
            hours.setdefault(row.source, defaultdict(float))[row.task] += row.hours
    return {name: by_task for name, by_task in hours.items() if any(by_task.values())}


def composition(rows: Sequence[DataRow]) -> list[draw.Plate]:
    """Hours per task: stacked by source, and by outcome."""
    segments = _segments(rows)
    tasks = list(dict.fromkeys(row.task for row in rows))
    total = sum(row.hours for row in rows)
    failed = sum(row.failure_hours for row in rows)
    looks = {name: _SEGMENTS.get(name, (name, draw.MUTED)) for name in segments}
    by_source = [(looks[name][1], hours) for name, hours in segments.items()]
    won: dict[str, float] = defaultdict(float)
    lost: dict[str, float] = defaultdict(float)
    for row in rows:
        won[row.task] += row.success_hours
        lost[row.task] += row.failure_hours
    by_outcome = [(draw.SUCCESS, won), (draw.FAILURE, lost)]
    size = (draw.PANEL[0], 0.8 + 0.26 * len(tasks))
    return [
        draw.Plate(
            title="Hours by source",
            caption=f"{total:.1f} h in {sum(row.episodes for row in rows)} episodes. "
            "In the paper: 652.5 h, long tasks dominating.",
            svg=draw.svg(
                lambda figure: _paint_stack(figure, tasks, by_source), size, "Hours per task and source"
            ),
            legend=tuple((draw.variable(colour), label) for label, colour in looks.values()),
        ),
        draw.Plate(
            title="Hours by outcome",
            caption=f"{100 * failed / max(total, 1e-9):.0f} % of the hours are failures; about a third in "
            "the paper. Play always counts as one.",
            svg=draw.svg(
                lambda figure: _paint_stack(figure, tasks, by_outcome), size, "Hours per task and outcome"
            ),
            legend=(("success", "success"), ("failure", "failure")),
        ),
    ]


def _paint_stack(
    figure: Figure, tasks: Sequence[str], layers: Sequence[tuple[str, Mapping[str, float]]]
) -> None:
    axes = figure.subplots()
    left = np.zeros(len(tasks))
    for colour, hours in layers:
        widths = np.asarray([hours.get(task, 0.0) for task in tasks])
        # The thin gap in the card's colour keeps neighbours apart for those who cannot tell their colours.
        axes.barh(tasks, widths, left=left, color=colour, height=0.68, edgecolor=draw.SURFACE, linewidth=0.8)
        left += widths
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelcolor=draw.INK)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("hours")


def timeline(episodes: Sequence[FleetEpisode]) -> draw.Plate:
    """Who did what when: a row per robot, a bar per episode; above it the snapshots that drove them."""
    driven = [episode for episode in episodes if episode.source == "online"] or list(episodes)
    robots = sorted({episode.robot for episode in driven}, key=_natural)
    origin = min(episode.started_s for episode in driven)

    def paint(figure: Figure) -> None:
        rows = 0.19 * len(robots) + 0.4
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(0.9, rows))
        _paint_snapshots(top, driven, origin)
        _paint_bars(bottom, driven, robots, origin)

    return draw.Plate(
        title="Fleet timeline",
        caption="Each bar is an episode: thick for a success, thin for a failure, dotted where nobody judged "
        "it. A diamond marks an episode in which an operator took over. "
        "Above: the snapshot that drove each episode.",
        svg=draw.svg(paint, (10.0, 1.9 + 0.2 * len(robots)), "Episodes per robot over time"),
        legend=(("success", "success"), ("failure", "failure"), ("muted", "unjudged"), ("ink", "takeover")),
        wide=True,
    )


def _natural(name: str) -> tuple[int, str]:
    """robot-2 before robot-10."""
    return len(name), name


def _paint_snapshots(axes: Axes, episodes: Sequence[FleetEpisode], origin: float) -> None:
    known = [(e.started_s - origin, e.snapshot) for e in episodes if e.snapshot is not None]
    if known:
        axes.plot(*zip(*sorted(known), strict=True), "o", color=draw.ONLINE, markersize=2.2, alpha=0.8)
    axes.set_ylabel("snapshot")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))


def _paint_bars(axes: Axes, episodes: Sequence[FleetEpisode], robots: Sequence[str], origin: float) -> None:
    looks = {
        "success": (draw.SUCCESS, 7.0, "-"),
        "failure": (draw.FAILURE, 3.0, "-"),
        "unjudged": (draw.MUTED, 2.0, ":"),
    }
    rows = {robot: row for row, robot in enumerate(robots)}
    end = max(episode.ended_s for episode in episodes) - origin
    gap = 0.0006 * end
    for outcome, (colour, width, style) in looks.items():
        # One line with gaps per outcome instead of an element per episode: thousands stay small.
        chosen = [episode for episode in episodes if episode.outcome == outcome]
        x = [
            t
            for e in chosen
            for t in (e.started_s - origin, max(e.started_s, e.ended_s - gap) - origin, np.nan)
        ]
        y = [level for e in chosen for level in (rows[e.robot], rows[e.robot], np.nan)]
        axes.plot(x, y, style, color=colour, linewidth=width, solid_capstyle="butt")
    taken = [episode for episode in episodes if episode.takeovers > 0]
    middles = [(e.started_s + e.ended_s) / 2 - origin for e in taken]
    levels = [rows[e.robot] for e in taken]
    axes.plot(
        middles,
        levels,
        "D",
        color=draw.INK,
        markersize=3.2,
        markeredgecolor=draw.SURFACE,
        markeredgewidth=0.6,
    )
    axes.set_yticks(range(len(robots)), robots)
    axes.set_ylim(len(robots) - 0.4, -0.6)
    axes.set_xlim(-0.01 * end, 1.01 * end)
    axes.set_xlabel("seconds since the first episode")
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
