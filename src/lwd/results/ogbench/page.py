"""Our curves beside published ones at equal updates, as markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from lwd.evaluate.intervals import wilson
from lwd.evaluate.table import between
from lwd.results.ogbench.runfile import FOLDER, OgbenchRun, read_runs
from lwd.results.ogbench.tasks import PUBLISHED_EVERY, TASK_POINTS, task

PAGE = Path("docs/reference/ogbench.md")
NONE = "No run is committed yet.\n"
MISSING = "-"


def write_page(root: Path) -> None:
    """Write what stands between the page's markers."""
    path = root / PAGE
    path.write_text(page(root), encoding="utf-8")


def page(root: Path) -> str:
    """The page as the committed run files make it."""
    text = (root / PAGE).read_text(encoding="utf-8")
    return between(text, "ogbench", tables(read_runs(root / FOLDER)), str(PAGE))


def tables(runs: Sequence[OgbenchRun]) -> str:
    """One table for each size, task and data; runs that learned from different data are never averaged."""
    groups: dict[tuple[str, str, str], list[OgbenchRun]] = {}
    for run in runs:
        groups.setdefault((run.size, run.task, run.data), []).append(run)
    return "\n".join(_table(*group, found) for group, found in groups.items()) or NONE


def _table(size: str, name: str, data: str, runs: Sequence[OgbenchRun]) -> str:
    head = [
        "updates",
        "online control steps",
        "ours",
        "seeds",
        "published, this task",
        "published, domain's five tasks",
    ]
    rule = ["--:"] * len(head)
    lines = [head, rule, *_lines(name, runs)]
    seeds = ", ".join(str(run.seed) for run in runs)
    hours = ", ".join(f"{run.seconds / 3600:.1f}" for run in runs)
    unfinished = [str(run.seed) for run in runs if not run.complete]
    note = f" Not finished: seed {', '.join(unfinished)}." if unfinished else ""
    made = ", ".join(sorted({f"`{run.commit}` on {run.hardware.get('processor', '?')}" for run in runs}))
    return (
        f"### {name}, size {size}\n\n"
        f"Data: {data}. Seeds {seeds}; hours {hours}; {made}.{note}\n\n"
        + "\n".join("| " + " | ".join(line) + " |" for line in lines)
        + "\n"
    )


def _lines(name: str, runs: Sequence[OgbenchRun]) -> Iterator[list[str]]:
    curve = task(name).domain.curve
    for updates in sorted({point.updates for run in runs for point in run.curve}):
        points = [point for run in runs for point in run.curve if point.updates == updates]
        won, of = (sum(getattr(point, column) for point in points) for column in ("successes", "episodes"))
        found = wilson(won, of)
        at = updates // PUBLISHED_EVERY - 1
        domain = curve[at] if updates % PUBLISHED_EVERY == 0 and 0 <= at < len(curve) else None
        alone = TASK_POINTS.get(name, {}).get(updates)
        yield [
            f"{updates:,}",
            f"{points[0].control_steps:,}",
            f"{100 * found.value:.0f} ({100 * found.low:.0f} to {100 * found.high:.0f})",
            str(len(points)),
            *(MISSING if value is None else str(value) for value in (alone, domain)),
        ]
