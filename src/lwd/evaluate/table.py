"""The results table, as markdown and for a terminal: rows SFT, LWD offline, LWD online.

Columns: averages, cycle time, cost, tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from lwd.errors import ConfigError
from lwd.evaluate.seeds import Check, checks, in_order, mean_over_seeds
from lwd.evaluate.summary import METHODS, Line, MethodSummary, Summary

STYLES: Mapping[str, str] = {"sft": "bright_black", "lwd_offline": "blue", "lwd_online": "dark_orange"}
_NOTE_RUN = (
    "Success, mean of task means; 95 % intervals from {n} evaluation episodes per method. "
    "Cycle time in s of all episodes, failures included."
)
_NOTE_MEANS = "Success over {n} seeds; intervals of the mean rows: 95 % over seeds (Student's t)"
_NOTE_SEEDS = "; of a seed's rows: over its evaluation episodes"


@dataclass(frozen=True)
class Cell:
    """A number and, under or beside it, its interval."""

    main: str
    interval: str = ""


_SUMS = ("all", "short", "long", "cycle time", "robot-hours", "interventions", "operator minutes")


def header(tasks: Sequence[str]) -> list[str]:
    """Column names after the first one: what a reader looks for first, then the tasks."""
    return [*_SUMS, *tasks]


def _success(line: Line | None, interval: bool) -> Cell:
    if line is None:
        return Cell("-")
    return Cell(f"{line.success:.2f}", f"{line.low:.2f}-{line.high:.2f}" if interval else "")


def cells(method: MethodSummary) -> list[Cell]:
    """One row: averages with interval, cycle time, robot-hours, interventions, operator minutes, success per task."""
    return [
        *(_success(line, interval=True) for line in (method.average, method.short, method.long)),
        Cell(f"{method.average.cycle_time_s:.1f}"),
        Cell(f"{method.robot_hours:.1f}"),
        Cell(str(method.interventions)),
        Cell(f"{method.operator_minutes:.0f}"),
        *(_success(line, interval=False) for line in method.tasks.values()),
    ]


def _markdown_row(first: str, row: Sequence[Cell]) -> str:
    texts = [f"{cell.main} ({cell.interval})" if cell.interval else cell.main for cell in row]
    return "| " + " | ".join(_markdown_text(text) for text in (first, *texts)) + " |"


def _markdown_text(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _markdown_head(first: str, tasks: Sequence[str]) -> list[str]:
    names = header(tasks)
    return [_markdown_row(first, [Cell(name) for name in names]), "|---" + "|--:" * len(names) + "|"]


def table_markdown(summary: Summary) -> str:
    """The table of one run as markdown."""
    lines = _markdown_head("method", list(summary.tasks))
    lines += [_markdown_row(label, cells(summary.methods[name])) for name, label in METHODS.items()]
    note = _NOTE_RUN.format(n=summary.methods["sft"].average.episodes)
    return "\n".join([*lines, "", f"{note} Seed {summary.seed}."]) + "\n"


def seeds_markdown(summaries: Sequence[Summary], *, each: bool = True) -> str:
    """Several runs as markdown: mean over seeds and the three checks; each seed and task too, unless `each` is False."""
    runs = in_order(summaries)
    means = mean_over_seeds(runs)
    tasks = list(runs[0].tasks)
    lines = _markdown_head("method", tasks if each else [])
    for name, label in METHODS.items():
        row = cells(means[name])
        lines.append(_markdown_row(f"**{label}**, mean", row if each else row[: len(_SUMS)]))
    for run in runs if each else ():
        for name, label in METHODS.items():
            lines.append(_markdown_row(f"{label}, seed {run.seed}", cells(run.methods[name])))
    note = _NOTE_MEANS.format(n=len(runs)) + (_NOTE_SEEDS if each else "")
    lines += ["", f"{note}.", ""]
    lines += [
        f"- {'yes' if check.passed else '**no**'}: {check.claim}. {check.detail}" for check in checks(runs)
    ]
    return "\n".join(lines) + "\n"


def _rich_text(cell: Cell, style: str = "") -> Text:
    text = Text(cell.main, style=style)
    if cell.interval:
        text.append(f"\n{cell.interval}", style="dim")
    return text


def _wide(tasks: Sequence[str], rows: Sequence[tuple[str, str, MethodSummary]], title: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True, width=max(len(label) for label, _, _ in rows))
    columns = zip(*(cells(method) for _, _, method in rows), strict=True)
    for name, column in zip(header(tasks), columns, strict=True):
        # A long name breaks at its spaces; nothing is ever cut inside a word or a number.
        words = name.replace("_", " ").replace("-", " ").split()
        parts = [*words, *(cell.main for cell in column), *(cell.interval for cell in column)]
        table.add_column(escape(" ".join(words)), justify="right", width=max(map(len, parts)))
    for label, style, method in rows:
        table.add_row(Text(label, style=style), *(_rich_text(cell) for cell in cells(method)))
    return table


def _narrow(tasks: Sequence[str], rows: Sequence[tuple[str, str, MethodSummary]], title: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("success")
    for label, style, _ in rows:
        table.add_column(Text(label, style=style), justify="right", no_wrap=True)
    columns = [cells(method) for _, _, method in rows]
    for index, name in enumerate(header(tasks)):
        if index in (3, len(_SUMS)):
            table.add_section()
        table.add_row(escape(name), *(_rich_text(column[index]) for column in columns))
    return table


def results_table(console: Console, methods: Mapping[str, MethodSummary], title: str = "") -> Table:
    """The table for a terminal.

    Where a row does not fit, it lies on its side: a row per task, a column per method.
    """
    rows = [(label, STYLES[name], methods[name]) for name, label in METHODS.items()]
    tasks = list(rows[0][2].tasks)
    wide = _wide(tasks, rows, title)
    # Each column takes its least width, one space of padding and one of the frame.
    needed = sum((column.width or 0) + 2 for column in wide.columns) + 1
    return wide if needed <= console.width else _narrow(tasks, rows, title)


def _print_checks(console: Console, found: Sequence[Check]) -> None:
    for check in found:
        mark = "[green]yes[/]" if check.passed else "[bold red]no [/]"
        console.print(f"{mark} {escape(check.claim)}. [dim]{escape(check.detail)}[/]", highlight=False)


def print_results(console: Console, summary: Summary) -> None:
    """Print one run's table and checks."""
    console.print(results_table(console, summary.methods, f"Results, seed {summary.seed}"))
    console.print(_NOTE_RUN.format(n=summary.methods["sft"].average.episodes), style="dim", highlight=False)
    _print_checks(console, checks([summary]))


def between(text: str, name: str, content: str, where: str) -> str:
    """The text with `content` between the markers of this name.

    Raises:
        ConfigError: the markers are not there exactly once.
    """
    begin, end = f"<!-- table:{name} -->", f"<!-- /table:{name} -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ConfigError(f"{where}: expected one {begin} and after it one {end}.")
    before, rest = text.split(begin)
    return f"{before}{begin}\n\n{content}\n{end}{rest.split(end)[1]}"
