"""Our curves beside published ones at equal updates, as markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from lwd.evaluate.intervals import wilson
from lwd.evaluate.table import between
from lwd.results.ogbench.runfile import FOLDER, MAY_GROW, OgbenchRun, Point, read_runs
from lwd.results.ogbench.tasks import PUBLISHED_EVERY, TASK_POINTS, task

PAGE = Path("docs/reference/ogbench.md")
NONE = "No run is committed yet.\n"
MISSING = "-"

Settings = frozenset[tuple[str, str]]
"""Name and value of each."""


def write_page(root: Path) -> None:
    """Write what stands between the page's markers."""
    path = root / PAGE
    path.write_text(page(root), encoding="utf-8")


def page(root: Path) -> str:
    """The page as the committed run files make it."""
    text = (root / PAGE).read_text(encoding="utf-8")
    return between(text, "ogbench", tables(read_runs(root / FOLDER)), str(PAGE))


def tables(runs: Sequence[OgbenchRun]) -> str:
    """One table for each size, task, data and settings; runs that differ in them are never averaged."""
    groups: dict[tuple[str, str, str], dict[Settings, list[OgbenchRun]]] = {}
    for run in runs:
        same = groups.setdefault((run.size, run.task, run.data), {})
        same.setdefault(_settings(run), []).append(run)
    return (
        "\n".join(
            _table(*group, sorted(settings - frozenset.intersection(*alike)), found)
            for group, alike in groups.items()
            for settings, found in alike.items()
        )
        or NONE
    )


def _settings(run: OgbenchRun) -> Settings:
    """In which runs of one table may not differ: all but the seed and how far a run goes."""
    return frozenset(item for item in run.settings.items() if item[0] not in ("run.seed", *MAY_GROW))


def _table(
    size: str, name: str, data: str, own: Sequence[tuple[str, str]], runs: Sequence[OgbenchRun]
) -> str:
    """`own`: settings that not all tables of this size, task and data have."""
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
    apart = f" Settings of its own: {', '.join(' '.join(item) for item in own)}." if own else ""
    made = ", ".join(sorted({f"`{run.commit}` on {run.hardware.get('processor', '?')}" for run in runs}))
    return (
        f"### {name}, size {size}\n\n"
        f"Data: {data}.{apart} Seeds {seeds}; hours {hours}; {made}.{note}\n\n"
        + "\n".join("| " + " | ".join(line) + " |" for line in lines)
        + "\n"
    )


def _lines(name: str, runs: Sequence[OgbenchRun]) -> Iterator[list[str]]:
    curve = task(name).domain.curve
    alike: dict[tuple[int, int], list[Point]] = {}
    for run in runs:
        for point in run.curve:
            alike.setdefault((point.updates, _offline(run, point)), []).append(point)
    for (updates, _), points in sorted(alike.items(), key=lambda item: (item[0][0], -item[0][1])):
        won, of = (sum(getattr(point, column) for point in points) for column in ("successes", "episodes"))
        found = wilson(won, of)
        at = updates // PUBLISHED_EVERY - 1
        domain = curve[at] if updates % PUBLISHED_EVERY == 0 and 0 <= at < len(curve) else None
        alone = TASK_POINTS.get(name, {}).get(updates)
        yield [
            f"{updates:,}",
            _control_steps(points),
            f"{100 * found.value:.0f} ({100 * found.low:.0f} to {100 * found.high:.0f})",
            str(len(points)),
            *(MISSING if value is None else str(value) for value in (alone, domain)),
        ]


def _offline(run: OgbenchRun, point: Point) -> int:
    """How many of a point's learner steps were offline."""
    return int(run.settings["run.updates"]) if point.control_steps else point.updates


def _control_steps(points: Sequence[Point]) -> str:
    """Of each seed; an episode that ends within a chunk leaves a few that are not learned from yet."""
    found = [point.control_steps for point in points]
    return " to ".join(f"{steps:,}" for steps in sorted({min(found), max(found)}))
