"""Figures as inline SVG that follow the page's light or dark colours.

Painters name colours by their role. Matplotlib needs fixed colours while it draws, so each role has a fixed
stand-in, and the finished SVG gets a CSS variable in its place: the same picture is then right in a light and
in a dark page. A picture in a file of its own is drawn in the light colours. Text stays text: small files,
selectable, in the page's font.
"""

from __future__ import annotations

import io
import itertools
import re
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.colors import get_named_colors_mapping
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lwd.evaluate.curves import thin
from lwd.evaluate.intervals import Estimate

INK, MUTED, GRID, SURFACE = "lwd ink", "lwd muted", "lwd grid", "lwd surface"
SFT, OFFLINE, ONLINE = "lwd sft", "lwd offline", "lwd online"
SUCCESS, FAILURE, PLAY = "lwd success", "lwd failure", "lwd play"
_STAND_INS = {
    name: f"#0a0b{number:02x}"
    for number, name in enumerate(
        (INK, MUTED, GRID, SURFACE, SFT, OFFLINE, ONLINE, SUCCESS, FAILURE, PLAY), start=1
    )
}
"""Colours while a picture for the page is drawn."""
_LIGHT = {
    INK: "#1b1f24",
    MUTED: "#5c6570",
    GRID: "#e1e5ea",
    SURFACE: "#ffffff",
    SFT: "#7b838d",
    OFFLINE: "#0a6fb8",
    ONLINE: "#d97400",
    SUCCESS: "#00876a",
    FAILURE: "#b8457f",
    PLAY: "#8f7bd0",
}
"""Colours of a picture in a file of its own: those of page.css in the light."""
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
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
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
    return colour.removeprefix("lwd ")


def svg(draw: Callable[[Figure], None], size: tuple[float, float], alt: str) -> Markup:
    """Run `draw` on an empty figure of `size` inches and return it as an SVG element for an HTML page."""
    buffer = io.StringIO()
    with _style(_STAND_INS):
        _figure(draw, size).savefig(buffer, format="svg", metadata=_NO_METADATA)
    return Markup(_for_page(buffer.getvalue(), alt))


def save(draw: Callable[[Figure], None], size: tuple[float, float], path: Path) -> None:
    """Run `draw` on an empty figure of `size` inches and write it to a file; its ending (.svg, .png) is the format."""
    with _style(_LIGHT):
        metadata = _NO_METADATA if path.suffix == ".svg" else None
        _figure(draw, size).savefig(path, facecolor=_LIGHT[SURFACE], dpi=150, metadata=metadata)


def _figure(draw: Callable[[Figure], None], size: tuple[float, float]) -> Figure:
    figure = Figure(figsize=size, layout="constrained")
    draw(figure)
    return figure


@contextmanager
def _style(colours: Mapping[str, str]) -> Generator[None]:
    """Draw with these colours behind the names."""
    known = get_named_colors_mapping()
    for name, colour in colours.items():
        known[name] = colour  # one by one: only this way matplotlib forgets what it made of the name before
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # A task name in a script that the bundled font lacks is drawn by the browser's own font; a panel may
        # be too small for its labels.
        warnings.filterwarnings("ignore", message=".*missing from.*font.*")
        warnings.filterwarnings("ignore", message=".*constrained_layout.*")
        yield


def _for_page(text: str, alt: str) -> str:
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    # Several pictures share a page, so ids must differ between them.
    prefix = f"f{next(_numbers)}-"
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = text.replace("url(#", f"url(#{prefix}").replace('href="#', f'href="#{prefix}')
    for name, colour in _STAND_INS.items():
        text = text.replace(colour, f"var(--{variable(name)})")
    label = str(escape(alt))
    text = re.sub(r'<svg[^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 role="img" aria-label="@">', text, count=1)
    return text.replace('aria-label="@"', f'aria-label="{label}"', 1)


def curve(axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], colour: str, style: str = "-") -> None:
    """A thinned line with a faint band from the least to the greatest value behind it.

    A single point becomes a dot.
    """
    x, y, low, high = thin(x, y)
    axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(x, y, style, color=colour, marker="o" if len(x) == 1 else None)


def estimate(axes: Axes, y: int | float, found: Estimate, colour: str) -> None:
    """A dot at the value on its interval, in row `y`."""
    axes.plot([found.low, found.high], [y, y], color=colour, alpha=0.45, linewidth=2.4)
    axes.plot([found.value], [y], "o", color=colour, markersize=4.5)


def plain_ticks(value: float, _: int | None = None) -> str:
    """Tick labels without an exponent: 20k, 1.5M."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"
