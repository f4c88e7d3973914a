"""Figures as inline SVG that follow the page's light or dark colours.

Matplotlib needs fixed colours while it draws. So each role has a fixed stand-in here, and the finished SVG
gets a CSS variable in its place: the same picture is then right in a light and in a dark page. Text stays
text: small files, selectable, in the page's font.
"""

from __future__ import annotations

import io
import itertools
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

INK, MUTED, GRID, SURFACE = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04"
SFT, OFFLINE, ONLINE = "#0a0b11", "#0a0b12", "#0a0b13"
SUCCESS, FAILURE, PLAY = "#0a0b21", "#0a0b22", "#0a0b23"
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    SURFACE: "surface",
    SFT: "sft",
    OFFLINE: "offline",
    ONLINE: "online",
    SUCCESS: "success",
    FAILURE: "failure",
    PLAY: "play",
}
STAGE_COLOURS = {"sft": SFT, "offline": OFFLINE, "online": ONLINE}
METHOD_COLOURS = {"sft": SFT, "lwd_offline": OFFLINE, "lwd_online": ONLINE}

PANEL = (4.4, 2.45)
"""Size in inches of a panel in the two-column grid."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lwd",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.labelsize": 8.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "axes.formatter.useoffset": False,
}
_numbers = itertools.count(1)


@dataclass(frozen=True, kw_only=True)
class Plate:
    """A figure with what a reader needs beside it.

    Attributes:
        title: what is shown; caption: how to read it, what to expect; svg: the picture.
        legend: (colour variable, label) pairs; metric: its name in metrics/*.jsonl.
        wide: takes the whole width and scrolls on a phone.
    """

    title: str
    caption: str
    svg: Markup
    legend: tuple[tuple[str, str], ...] = ()
    metric: str = ""
    wide: bool = False


def variable(colour: str) -> str:
    """The CSS variable behind one of this module's colours."""
    return _VARIABLES[colour]


def svg(draw: Callable[[Figure], None], size: tuple[float, float], alt: str) -> Markup:
    """Run `draw` on an empty figure of `size` inches and return it as an SVG element for an HTML page."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # A task name in a script that the bundled font lacks is drawn by the browser's own font; a panel may
        # be too small for its labels.
        warnings.filterwarnings("ignore", message=".*missing from.*font.*")
        warnings.filterwarnings("ignore", message=".*constrained_layout.*")
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    return Markup(_for_page(buffer.getvalue(), alt))


def _for_page(text: str, alt: str) -> str:
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    # Several pictures share a page, so ids must differ between them.
    prefix = f"f{next(_numbers)}-"
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = text.replace("url(#", f"url(#{prefix}").replace('href="#', f'href="#{prefix}')
    for colour, name in _VARIABLES.items():
        text = text.replace(colour, f"var(--{name})")
    label = str(escape(alt))
    text = re.sub(r'<svg[^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 role="img" aria-label="@">', text, count=1)
    return text.replace('aria-label="@"', f'aria-label="{label}"', 1)


def thin(
    x: NDArray[np.float64], y: NDArray[np.float64], limit: int = 110
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """At most `limit` points of a curve: mean x, mean y, least and greatest y of equal runs of points."""
    bins = np.array_split(np.arange(len(x)), min(limit, len(x)))
    mean_x = np.asarray([x[rows].mean() for rows in bins])
    mean_y = np.asarray([y[rows].mean() for rows in bins])
    return (
        mean_x,
        mean_y,
        np.asarray([y[rows].min() for rows in bins]),
        np.asarray([y[rows].max() for rows in bins]),
    )


def curve(axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], colour: str, style: str = "-") -> None:
    """A thinned line with a faint band from the least to the greatest value behind it.

    A single point becomes a dot.
    """
    x, y, low, high = thin(x, y)
    axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(x, y, style, color=colour, marker="o" if len(x) == 1 else None)


def plain_ticks(value: float, _: int | None = None) -> str:
    """Tick labels without an exponent: 20k, 1.5M."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"
