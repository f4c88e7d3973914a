"""Puts the page together: sections with their figures, or with what is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import jinja2
from markupsafe import Markup

from lwd.errors import LwdError
from lwd.evaluate.records import EvaluationRecord
from lwd.evaluate.report import figures_fleet as fleet
from lwd.evaluate.report import figures_results as results
from lwd.evaluate.report import figures_value as value
from lwd.evaluate.report.draw import METHOD_COLOURS, Plate, variable
from lwd.evaluate.report.run import Missing, Run
from lwd.evaluate.scores import paired_difference
from lwd.evaluate.seeds import checks
from lwd.evaluate.summary import METHODS, Summary
from lwd.evaluate.table import cells, header

_HERE = Path(__file__).parent
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of the page: figures, or why there are none."""

    key: str
    title: str
    plates: Sequence[Plate]
    missing: Sequence[str]


def render(run: Run, name: str) -> str:
    """The whole page as HTML. Every text that comes from the run is escaped by the template engine."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    summary = None if isinstance(run.summary, Missing) else run.summary
    return environment.get_template("page.html").render(
        name=name,
        css=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        summary=summary,
        summary_missing=run.summary.reason if isinstance(run.summary, Missing) else "",
        facts=_facts(summary),
        cards=_cards(summary),
        checks=checks([summary]) if summary else (),
        head=header(list(summary.tasks)) if summary else (),
        rows=[
            (label, variable(METHOD_COLOURS[key]), cells(summary.methods[key]))
            for key, label in METHODS.items()
        ]
        if summary
        else (),
        stages=_stage_scores(summary),
        paired=_paired(run.records),
        sections=_sections(run),
        timing=None if isinstance(run.timing, Missing) else _shares(run.timing),
        timing_missing=run.timing.reason if isinstance(run.timing, Missing) else "",
    )


def duration(seconds: float) -> str:
    """Seconds for people: 42 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _facts(summary: Summary | None) -> list[tuple[str, str]]:
    if summary is None:
        return []
    hardware = ", ".join(f"{key} {text}" for key, text in summary.hardware.items())
    software = ", ".join(f"{key} {text}" for key, text in summary.software.items())
    return [
        ("Command", summary.command),
        ("Commit", summary.commit),
        ("Seed", str(summary.seed)),
        ("Wall time", duration(summary.wall_s)),
        ("Hardware", hardware),
        ("Software", software),
    ]


def _cards(summary: Summary | None) -> list[dict[str, str]]:
    if summary is None:
        return []
    base = summary.methods["sft"].average.success
    cards: list[dict[str, str]] = []
    for key, label in METHODS.items():
        method = summary.methods[key]
        gain = method.average.success - base
        cards.append(
            {
                "label": label,
                "colour": variable(METHOD_COLOURS[key]),
                "value": f"{method.average.success:.2f}",
                "interval": f"{method.average.low:.2f} to {method.average.high:.2f}",
                "gain": "behaviour cloning, the start" if key == "sft" else f"{gain:+.2f} against SFT",
                "cost": _cost(method.robot_hours, method.interventions, method.operator_minutes),
            }
        )
    return cards


def _cost(robot_hours: float, interventions: int, minutes: float) -> str:
    if not robot_hours:
        return "no robot time online"
    return f"{robot_hours:.1f} robot-hours, {interventions} interventions ({minutes:.0f} min)"


def _stage_scores(summary: Summary | None) -> list[tuple[str, list[str]]]:
    """Per method: stage score and cycle time for all, short and long tasks."""
    if summary is None:
        return []
    rows: list[tuple[str, list[str]]] = []
    for key, label in METHODS.items():
        method = summary.methods[key]
        lines = (method.average, method.short, method.long)
        scores = ["-" if line is None else f"{line.stage_score:.2f}" for line in lines]
        times = ["-" if line is None else f"{line.cycle_time_s:.1f}" for line in lines]
        rows.append((label, scores + times))
    return rows


def _paired(records: Mapping[str, Sequence[EvaluationRecord]] | Missing) -> list[tuple[str, str, str, str]]:
    """Differences between methods on the same attempts: name, difference, interval, number of pairs."""
    if isinstance(records, Missing):
        return []
    rows: list[tuple[str, str, str, str]] = []
    for below, above in (("sft", "lwd_offline"), ("sft", "lwd_online"), ("lwd_offline", "lwd_online")):
        if below not in records or above not in records:
            continue
        try:
            found = paired_difference(records[below], records[above])
        except LwdError:
            continue  # no attempt in common: there is no pair to report on
        d = found.difference
        name = f"{METHODS[above]} - {METHODS[below]}"
        rows.append(
            (
                name,
                f"{d.value:+.3f}",
                f"{d.low:+.3f} to {d.high:+.3f}",
                f"{found.pairs} attempts made by both",
            )
        )
    return rows


def _shares(timing: Mapping[str, float]) -> list[tuple[str, str, float]]:
    """Phase, time, share of the longest phase in percent (the length of its bar)."""
    longest = max(timing.values(), default=0.0) or 1.0
    return [(phase, duration(seconds), 100 * seconds / longest) for phase, seconds in timing.items()]


def _plates(
    data: T | Missing, make: Callable[[T], Sequence[Plate | None]], nothing: str, missing: list[str]
) -> list[Plate]:
    """The figures of one file; when there are none, the reason is added to `missing`."""
    if isinstance(data, Missing):
        missing.append(data.reason)
        return []
    made = [plate for plate in make(data) if plate is not None]
    if not made:
        missing.append(nothing)
    return made


def _sections(run: Run) -> list[Section]:
    return [_tasks(run), _learning(run), _value(run), _data(run), _fleet(run)]


def _tasks(run: Run) -> Section:
    missing: list[str] = []
    plates = _plates(run.summary, results.per_task, "", missing)
    return Section(key="tasks", title="Per task", plates=plates, missing=missing)


def _learning(run: Run) -> Section:
    missing: list[str] = []
    online = _plates(
        run.episodes,
        lambda episodes: [results.online_progress(episodes)],
        "episodes.jsonl has no online episode.",
        missing,
    )
    curves = _plates(
        run.metrics, results.learning_curves, "metrics/*.jsonl has none of the known metrics.", missing
    )
    return Section(key="learning", title="Learning", plates=[*online, *curves], missing=missing)


def _value(run: Run) -> Section:
    missing: list[str] = []
    nothing = "value_traces.json has neither a success nor a failure."
    along = _plates(run.traces, value.along_episodes, nothing, missing)
    nothing = "metrics/*.jsonl has neither value/entropy nor value/tau."
    training = _plates(run.metrics, value.entropy_and_tau, nothing, missing)
    return Section(key="value", title="What the value learned", plates=[*along, *training], missing=missing)


def _data(run: Run) -> Section:
    missing: list[str] = []
    plates = _plates(run.dataset, fleet.composition, "", missing)
    return Section(key="data", title="Data", plates=plates, missing=missing)


def _fleet(run: Run) -> Section:
    missing: list[str] = []
    plates = _plates(run.episodes, lambda episodes: [fleet.timeline(episodes)], "", missing)
    return Section(key="fleet", title="Fleet", plates=plates, missing=missing)
