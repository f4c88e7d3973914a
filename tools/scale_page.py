"""Writes the tables of docs/explanation/scale.md from the benchmarks' results, and from nothing else.

Run with `python -m tools.scale_page`; `--check` only says whether the page is up to date.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lwd.fleet.service import STATUS_EVERY_S

ROOT = Path(__file__).resolve().parents[1]
PAGE = Path("docs/explanation/scale.md")
RESULTS = Path("benchmarks/results")
BEGIN, END = "<!-- scale: begin -->\n", "<!-- scale: end -->"
FLEETS = (16, 1_000, 100_000)

MEASURED = {
    "coordinator_cpu_ms": ("coordinator, CPU per episode", "ms", "scale", "clients_1000_coordinator_cpu_ms"),
    "coordinator_mib": ("coordinator, memory", "MiB", "scale", "clients_1000_coordinator_memory_mib"),
    "catalogue_bytes": (
        "catalogue, growth per episode",
        "B",
        "scale",
        "clients_1000_catalogue_bytes_per_episode",
    ),
    "rate": (
        "episodes through one machine that is also all clients",
        "/s",
        "scale",
        "clients_1000_episodes_per_s",
    ),
    "status_cpu_ms": ("coordinator, CPU per status of a robot", "ms", "scale", "status_cpu_ms"),
    "slope": ("CPU per episode, 1,000 clients over 10", "x", "scale", "coordinator_cpu_ms_ratio_10_to_1000"),
    "sampleable_s": ("episode end -> sampleable, P50", "s", "latency", "folder_episode_p50_s"),
    "verify_s": (
        "600 MB snapshot announced -> loaded, worst",
        "s",
        "latency",
        "folder_snapshot_600mb_worst_s",
    ),
}
ASSUMED = {
    "episode_every_s": (300.0, "s", "between two episodes of a robot: 4 minutes and a reset"),
    "episode_mb": (45.0, "MB", "an episode: 30 Hz, three cameras as H.264"),
    "snapshot_mb": (600.0, "MB", "a snapshot, taken at every episode boundary: the worst case"),
    "site": (20.0, "", "robots behind one site cache and one leaf node"),
    "messages": (
        10.0,
        "",
        "messages on the broker per episode: grant, event, acknowledgements",
    ),
    "status_every_s": (STATUS_EVERY_S, "s", "between two statuses of a process, `src/lwd/fleet/service.py`"),
    "learner_mb_s": (
        8.0,
        "MB/s",
        "what one learner reads: batch 256, half online, 1 step/s, three JPEG cameras",
    ),
    "busy": (0.5, "", "share of a core that a coordinator is planned for"),
}


@dataclass(frozen=True)
class Constants:
    """What the arithmetic uses: measured ones may be missing until the benchmarks have run."""

    measured: Mapping[str, float]

    def __getattr__(self, name: str) -> float:
        return ASSUMED[name][0] if name in ASSUMED else self.measured[name]


def read(root: Path = ROOT) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """The measured constants that exist, and the files that they come from."""
    files: dict[str, dict[str, Any]] = {}
    for name in ("scale", "latency"):
        path = root / RESULTS / f"{name}.json"
        if path.exists():
            files[name] = json.loads(path.read_text(encoding="utf-8"))
    found = {
        key: float(files[file]["numbers"][number])
        for key, (_, _, file, number) in MEASURED.items()
        if number in files.get(file, {}).get("numbers", {})
    }
    return found, files


def section(root: Path = ROOT) -> str:
    """What stands between the markers."""
    found, files = read(root)
    lines = ["| constant | value | from |", "|---|---|---|"]
    for key, (what, unit, file, number) in MEASURED.items():
        value = f"{_short(found[key])} {unit}".strip() if key in found else "not measured yet"
        lines.append(f"| {what} | {value} | `{(RESULTS / file).as_posix()}.json`, `{number}` |")
    for value, unit, what in ASSUMED.values():
        where = "its code" if "`" in what else "assumed"
        lines.append(f"| {what} | {f'{_short(value)} {unit}'.strip()} | {where} |")
    for name, content in files.items():
        load = content.get("load", {})
        lines += [
            "",
            f"`{name}.json`: commit `{content['commit']}`, {content['hardware'].get('cores', '?')} cores, load "
            f"{load.get('start', math.nan):.1f} at its start and {load.get('end', math.nan):.1f} at its end, "
            f"`{content['command']}`.",
        ]
    lines += [
        "",
        f"| | {' | '.join(f'{size:,} robots' for size in FLEETS)} |",
        "|---|" + "---|" * len(FLEETS),
    ]
    lines += [f"| {what} | {' | '.join(cells)} |" for what, cells in arithmetic(found)]
    return "\n".join(lines) + "\n"


def arithmetic(measured: Mapping[str, float]) -> list[tuple[str, list[str]]]:
    """The rows of the second table: what, and its value for each fleet."""
    c = Constants(measured)

    def row(what: str, unit: str, of: Any) -> tuple[str, list[str]]:
        cells: list[str] = []
        for robots in FLEETS:
            try:
                cells.append(f"{_short(of(robots))} {unit}".strip())
            except KeyError:  # its constant is not measured yet
                cells.append("-")
        return what, cells

    def rate(robots: int) -> float:
        return robots / c.episode_every_s

    def cores(robots: int) -> float:
        return rate(robots) * c.coordinator_cpu_ms / 1000

    return [
        row("episodes / s = robots / 300", "/s", rate),
        row("upload = episodes / s x 45 MB", "MB/s", lambda n: rate(n) * c.episode_mb),
        row("stored in a day", "TB", lambda n: rate(n) * c.episode_mb * 86400 / 1e6),
        row(
            "read by one learner, share of the upload",
            "%",
            lambda n: min(100.0, 100 * c.learner_mb_s / (rate(n) * c.episode_mb)),
        ),
        row("snapshot download, each robot by itself", "MB/s", lambda n: rate(n) * c.snapshot_mb),
        row(
            "snapshot download with a cache per site",
            "MB/s",
            lambda n: rate(n) * c.snapshot_mb / min(c.site, n),
        ),
        row("messages of episodes on the broker", "/s", lambda n: rate(n) * c.messages),
        row("statuses on the broker = robots / 2 s", "/s", lambda n: n / c.status_every_s),
        row("coordinator, cores for statuses", "", lambda n: n / c.status_every_s * c.status_cpu_ms / 1000),
        row("connections to the broker", "", lambda n: n),
        row("connections with a leaf node per site", "", lambda n: math.ceil(n / c.site)),
        row("coordinator, cores for episodes = episodes / s x CPU per episode", "", cores),
        row("partitions = cores for episodes / 0.5, rounded up", "", lambda n: math.ceil(cores(n) / c.busy)),
        row("catalogue growth in a day", "GB", lambda n: rate(n) * 86400 * c.catalogue_bytes / 1e9),
    ]


def _short(value: float) -> str:
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.2g}"


def fill(text: str, content: str) -> str:
    """The text with `content` between its markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{PAGE}: the markers {BEGIN.strip()} and {END} are missing.")
    return f"{before}{BEGIN}{content}{END}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, or check it; 1 if it is out of date."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.scale_page", description="Write the page of scale."
    )
    parser.add_argument("--check", action="store_true", help="only compare")
    check = parser.parse_args(arguments).check
    old = (ROOT / PAGE).read_text(encoding="utf-8")
    new = fill(old, section())
    if check:
        print("up to date" if new == old else f"{PAGE} is out of date; run python -m tools.scale_page")
        return int(new != old)
    (ROOT / PAGE).write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
