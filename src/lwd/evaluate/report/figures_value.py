"""Pictures of the value: the paper's figures 6, 8 and 9 for this run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lwd.evaluate.report import draw
from lwd.evaluate.report.figures_results import metric_by_stage
from lwd.evaluate.report.run import Metrics, ValueTrace

_OUTCOME_COLOURS = {"success": draw.SUCCESS, "failure": draw.FAILURE}
# A picture inside an SVG cannot follow the page's colours; this blue on nothing reads on light and on dark.
_HEAT = (0.13, 0.50, 0.85)
_PAIR_LEGEND = (("success", "success"), ("failure", "failure"))


def choose_pair(traces: Sequence[ValueTrace]) -> list[ValueTrace]:
    """One success and one failure, of the same task if one has both; the longest of those."""
    wins = [trace for trace in traces if trace.outcome == "success"]
    losses = [trace for trace in traces if trace.outcome == "failure"]
    pairs = [(win, loss) for win in wins for loss in losses]
    if not pairs:
        return [*wins[:1], *losses[:1]]
    win, loss = max(pairs, key=lambda pair: (pair[0].task == pair[1].task, pair[0].times_s[-1]))
    return [win, loss]


def along_episodes(traces: Sequence[ValueTrace]) -> list[draw.Plate]:
    """Figure 6, its entropy, and Figure 9 for a success and a failure; nothing without either."""
    pair = choose_pair(traces)
    if not pair:
        return []
    which = " and ".join(f"{trace.outcome} of {trace.task}" for trace in pair)
    value = draw.Plate(
        title="Value along an episode (Fig 6)",
        caption=f"Adaptive quantile. Bold: {which}; faint: other recorded episodes. "
        "In the paper it climbs in a success and stalls in a failure.",
        svg=draw.svg(
            lambda figure: paint_along(figure, traces, pair, "quantile", "quantile value"),
            draw.PANEL,
            "Adaptive quantile value over time in a success and a failure",
        ),
        legend=_PAIR_LEGEND,
    )
    entropy = draw.Plate(
        title="Uncertainty along an episode",
        caption="Normalised entropy of p(v|s) in the same episodes; it sets tau. "
        "A value that knows how an episode will end has little.",
        svg=draw.svg(
            lambda figure: paint_along(figure, traces, pair, "entropy", "entropy"),
            draw.PANEL,
            "Entropy of the value over time in a success and a failure",
        ),
        legend=_PAIR_LEGEND,
    )
    return [value, entropy, *(distribution_over_time(trace, full_scale(pair)) for trace in pair)]


def paint_along(
    figure: Figure, traces: Sequence[ValueTrace], pair: Sequence[ValueTrace], quantity: str, label: str
) -> None:
    """One quantity of the traces over time; the chosen pair is bold."""
    axes = figure.subplots()
    for trace in traces:
        colour = _OUTCOME_COLOURS.get(trace.outcome)
        if colour is None:
            continue
        values, style = getattr(trace, quantity), "-" if trace.outcome == "success" else "--"
        if any(trace is chosen for chosen in pair):
            axes.plot(trace.times_s, values, style, color=colour, linewidth=2.2, zorder=3)
        else:
            axes.plot(trace.times_s, values, color=colour, alpha=0.25, linewidth=1)
    axes.set_xlabel("seconds into the episode")
    axes.set_ylabel(label)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))


def entropy_and_tau(metrics: Metrics) -> list[draw.Plate]:
    """Figure 8: entropy and tau over learner steps, offline and online."""
    plates = (
        metric_by_stage(
            metrics,
            "value/entropy",
            "Entropy over training (Fig 8)",
            "Normalised entropy of p(v|s), 1 = knows nothing. "
            "In the paper: offline about 0.55 to 0.20, online 0.48 to 0.32.",
        ),
        metric_by_stage(
            metrics,
            "value/tau",
            "Tau over training (Fig 8)",
            "Adaptive quantile level. Rises as entropy falls. "
            "In the paper: offline 0.44 to 0.54, online 0.76 to 0.80.",
        ),
    )
    return [plate for plate in plates if plate is not None]


def distribution_over_time(trace: ValueTrace, full: float) -> draw.Plate:
    """Figure 9: p(v|s) along one episode as a heat map, with the adaptive quantile on top.

    `full` is the probability that is drawn at full strength.
    """
    return draw.Plate(
        title=f"Value distribution, {trace.outcome} of {trace.task} (Fig 9)",
        caption="Stronger: more probability p(v|s), one scale for both. Line: adaptive quantile. "
        "In the paper the mode climbs from 0.4 to 1.0 "
        + (
            "in a success."
            if trace.outcome == "success"
            else "in a success and stalls at 0.5 to 0.6 in a failure."
        ),
        svg=draw.svg(
            lambda figure: paint_distribution(figure.subplots(), trace, full),
            draw.PANEL,
            f"Value distribution over time, {trace.outcome}",
        ),
        legend=(("heat", "p(v|s)"), ("online", "adaptive quantile")),
    )


def paint_distribution(axes: Axes, trace: ValueTrace, full: float) -> None:
    """p(v|s) along one episode as a heat map, with the adaptive quantile on top."""
    end = max(float(trace.times_s[-1]), 1e-9)
    image = _heat(trace, end, full)
    half = float(trace.atoms[-1] - trace.atoms[0]) / max(1, len(trace.atoms) - 1) / 2
    extent = (0.0, end, float(trace.atoms[0]) - half, float(trace.atoms[-1]) + half)
    axes.imshow(image, extent=extent, origin="lower", aspect="auto", interpolation="none")
    axes.step(trace.times_s, trace.quantile, where="post", color=draw.ONLINE, linewidth=1.4)
    axes.set_ylim(extent[2], extent[3])
    axes.grid(visible=False)
    axes.set_xlabel("seconds into the episode")
    axes.set_ylabel("value v")


def full_scale(traces: Sequence[ValueTrace]) -> float:
    """A probability that two thirds of the modes reach.

    A few sharp last steps must not fade all the others.
    """
    modes = np.concatenate([trace.probabilities.max(axis=1) for trace in traces])
    return max(float(np.quantile(modes, 0.67)), 1e-12)


def _heat(trace: ValueTrace, end: float, full: float, columns: int = 160) -> NDArray[np.float64]:
    """[K, columns, 4] picture: each column shows the distribution last computed before its time."""
    times = np.linspace(0.0, end, columns)
    rows = np.clip(np.searchsorted(trace.times_s, times, side="right") - 1, 0, len(trace.times_s) - 1)
    density = np.clip(trace.probabilities[rows].T, 0.0, None)
    # The square root keeps thin tails visible beside a mode of nearly 1.
    alpha = np.sqrt(np.minimum(1.0, density / full))
    image = np.empty((*alpha.shape, 4))
    image[..., :3], image[..., 3] = _HEAT, alpha
    return image
