"""The data set as a table: episodes, hours and failures per task and source (paper, Table IV)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from lwd.config import Experiment
from lwd.episode import Outcome, Source
from lwd.evaluate.jsonfile import write_json
from lwd.fleet.folder import Services

Row = dict[str, Any]


def dataset_rows(services: Services) -> list[Row]:
    """One row per task and source that has episodes, from the catalogue."""
    cells: dict[tuple[str, str], Row] = {}
    for episode in services.catalogue.episodes():
        cell = cells.setdefault(
            (episode.task, episode.source),
            {
                "task": episode.task,
                "source": episode.source,
                "episodes": 0,
                "hours": 0.0,
                "success_hours": 0.0,
                "failure_hours": 0.0,
            },
        )
        hours = episode.cycle_time_s / 3600.0
        cell["episodes"] += 1
        cell["hours"] += hours
        if episode.source == Source.PLAY.value or episode.outcome == Outcome.FAILURE.value:
            cell["failure_hours"] += hours
        elif episode.outcome == Outcome.SUCCESS.value:
            cell["success_hours"] += hours
    return list(cells.values())


def write_dataset(experiment: Experiment, services: Services) -> list[Row]:
    """Write dataset.json of a run and return its rows."""
    rows = dataset_rows(services)
    write_json(services.folder.path / "dataset.json", rows)
    return rows


def print_dataset(console: Console, rows: Sequence[Row]) -> None:
    """Hours per task and source, as in Table IV, with the share of hours that failed."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    sources = [s.value for s in Source if any(row["source"] == s.value for row in rows)]
    table = Table(title="Hours of robot time", title_justify="left")
    table.add_column("task")
    for name in (*sources, "all", "failed"):
        table.add_column(name, justify="right")
    for task in (*tasks, None):
        mine = [row for row in rows if task is None or row["task"] == task]
        hours = [sum(row["hours"] for row in mine if row["source"] == s) for s in sources]
        total = sum(hours)
        failed = sum(row["failure_hours"] for row in mine) / total if total else 0.0
        table.add_row(
            task or "all",
            *(f"{h:.2f}" for h in hours),
            f"{total:.2f}",
            f"{failed:.0%}",
            style="bold" if not task else "",
        )
    console.print(table)
    episodes = sum(row["episodes"] for row in rows)
    console.print(f"{episodes} episodes, {sum(row['hours'] for row in rows):.2f} robot-hours")
