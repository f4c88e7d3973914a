"""summary.json, the table and the checks over seeds."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lwd.errors import ConfigError
from lwd.evaluate.jsonfile import ResultError
from lwd.evaluate.provenance import current_commit, describe_hardware, describe_software
from lwd.evaluate.seeds import checks, mean_over_seeds
from lwd.evaluate.summary import Line, MethodSummary, Summary, read_summary, write_summary
from lwd.evaluate.table import print_results, seeds_markdown, table_markdown
from tests.unit.evaluate.fake_run import TASKS, fake_summary


def line(success: float, episodes: int = 10) -> Line:
    return Line(
        success=success,
        low=max(0.0, success - 0.1),
        high=min(1.0, success + 0.1),
        stage_score=success,
        cycle_time_s=12.0,
        episodes=episodes,
    )


def method(short: float, long: float, **costs: Any) -> MethodSummary:
    values = {"robot_hours": 0.0, "interventions": 0, "operator_minutes": 0.0, **costs}
    return MethodSummary(
        tasks={"a": line(short), "b": line(long)},
        average=line((short + long) / 2, 20),
        short=line(short),
        long=line(long),
        **values,
    )


def summary(seed: int, sft: float, offline: float, online: float) -> Summary:
    return Summary(
        seed=seed,
        wall_s=60.0,
        tasks={"a": "short", "b": "long"},
        commit="abc",
        hardware={"cores": "2"},
        software={"python": "3.11"},
        command="lwd demo",
        methods={
            "sft": method(sft + 0.1, sft - 0.1),
            "lwd_offline": method(offline + 0.1, offline - 0.1),
            "lwd_online": method(online + 0.1, online - 0.1, robot_hours=2.0, interventions=7),
        },
    )


def test_summary_comes_back_as_written(tmp_path: Path):
    written = fake_summary(episodes=10)
    write_summary(tmp_path / "summary.json", written)
    assert read_summary(tmp_path / "summary.json") == written
    content = json.loads((tmp_path / "summary.json").read_text())
    assert (
        content["lwd_online"]["restock"]["success"] == written.methods["lwd_online"].tasks["restock"].success
    )
    assert content["sft"]["average"]["success"] == written.methods["sft"].average.success
    assert list(content["tasks"]) == list(TASKS)


def test_a_summary_that_would_not_be_read_back_takes_no_others_place(tmp_path: Path):
    path, written = tmp_path / "summary.json", fake_summary(episodes=10)
    write_summary(path, written)
    methods = {name: method for name, method in written.methods.items() if name != "sft"}
    with pytest.raises(ResultError, match="sft: is missing"):
        write_summary(path, replace(written, methods=methods))
    assert read_summary(path) == written
    assert list(tmp_path.iterdir()) == [path]


def _set(*path: str, to: object) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = to

    return change


def _drop(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in path[:-1]:
            content = content[key]
        del content[path[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("schema", to=9), "schema: expected 1, got 9"),
        (_drop("lwd_online"), "lwd_online: is missing"),
        (_drop("sft", "a"), "sft.a: is missing"),
        (_set("sft", "a", "success", to=1.2), r"sft.a.success: expected a number in \[0, 1\], got 1.2"),
        (_set("sft", "a", "success", to="0.5"), "sft.a.success: expected a number"),
        (_set("sft", "a", "success", to=True), "sft.a.success: expected a number"),
        (_set("sft", "a", "low", to=0.99), "sft.a.success: .* is not inside"),
        (_set("sft", "b", "success", to=0.45), "sft.average.success: .* is not the mean of the tasks"),
        (_set("sft", "long", to=None), "sft.long: expected null exactly where no task"),
        (_set("sft", "sucess", to=1), "sft.sucess: unknown field"),
        (_set("lwd_online", "interventions", to=1.5), "interventions: expected a whole number"),
        (_set("tasks", "a", "horizon", to="medium"), "expected the horizon short or long, got 'medium'"),
        (_set("tasks", "average", to={"horizon": "short"}), "tasks.average: cannot be a task"),
        (_set("tasks", to={}), "expected at least one task"),
        (_set("hardware", "cores", to=2), "hardware.cores: expected a text"),
        (_set("wall_s", to=-1), "wall_s: expected a number"),
    ],
)
def test_reader_names_the_field_that_does_not_fit(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
):
    path = tmp_path / "summary.json"
    write_summary(path, summary(0, 0.5, 0.6, 0.7))
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ResultError, match=message):
        read_summary(path)


def test_writer_refuses_not_a_number(tmp_path: Path):
    with pytest.raises(ResultError, match="must be finite"):
        write_summary(tmp_path / "summary.json", replace(summary(0, 0.5, 0.6, 0.7), wall_s=float("nan")))
    assert not (tmp_path / "summary.json").exists()


def test_table_markdown_has_rows_columns_and_intervals():
    lines = table_markdown(summary(3, 0.5, 0.6, 0.7)).splitlines()
    assert (
        lines[0]
        == "| method | all | short | long | cycle time | robot-hours | interventions | operator minutes | a | b |"
    )
    assert lines[2].startswith("| SFT | 0.50 (0.40-0.60) | 0.60 (0.50-0.70) | ")
    assert "| 12.0 | 2.0 | 7 | " in lines[4]
    assert lines[2].endswith("| 0.60 | 0.40 |"), "tasks come last"
    assert "Seed 3" in lines[-1]


def test_mean_over_seeds_by_hand():
    # Online averages 0.7, 0.8, 0.9: t interval 0.8 -+ 4.3027 * 0.1 / sqrt(3) = 0.8 -+ 0.248416; above 1 it is cut.
    runs = [summary(seed, 0.5, 0.6, 0.7 + 0.1 * seed) for seed in range(3)]
    mean = mean_over_seeds(runs)["lwd_online"].average
    assert (mean.success, mean.low, mean.high) == pytest.approx((0.8, 0.551584, 1.0), abs=1e-6)
    assert mean.episodes == 60


def test_checks_pass_and_fail_where_they_should():
    assert [c.passed for c in checks([summary(0, 0.5, 0.6, 0.6), summary(1, 0.5, 0.55, 0.7)])] == [
        True,
        True,
        True,
    ]
    assert [c.passed for c in checks([summary(0, 0.5, 0.6, 0.7), summary(1, 0.5, 0.5, 0.7)])] == [
        False,
        True,
        True,
    ]
    assert [c.passed for c in checks([summary(0, 0.5, 0.6, 0.7), summary(1, 0.5, 0.6, 0.59)])] == [
        True,
        False,
        True,
    ]
    # One seed may fall below offline as long as the mean does not.
    assert [c.passed for c in checks([summary(0, 0.5, 0.6, 0.8), summary(1, 0.5, 0.65, 0.64)])] == [
        True,
        True,
        True,
    ]
    assert [c.passed for c in checks([summary(0, 0.5, 0.7, 0.65), summary(1, 0.5, 0.65, 0.64)])] == [
        True,
        True,
        False,
    ]


def test_exactly_the_gain_counts_in_spite_of_rounding():
    assert checks([summary(0, 0.5, 0.55, 0.6)])[1].passed
    # As floating-point numbers the gain is 0.09999999999999998.
    runs = [summary(0, 0.5, 0.55, 0.6)]
    methods = runs[0].methods
    assert methods["lwd_online"].average.success - methods["sft"].average.success < 0.1
    assert checks(runs)[1].passed


def test_seeds_markdown_has_means_seeds_and_checks():
    text = seeds_markdown([summary(1, 0.5, 0.6, 0.7), summary(0, 0.4, 0.4, 0.7)])
    assert "| **LWD online**, mean |" in text
    assert text.index("LWD online, seed 0") < text.index("LWD online, seed 1")
    assert "- **no**: Offline above SFT in each seed. offline - SFT: +0.000 (seed 0), +0.100 (seed 1)" in text
    assert "- yes: Online at least 0.10 above SFT in each seed." in text


def test_runs_that_cannot_be_averaged_are_refused():
    with pytest.raises(ConfigError, match="each seed counts once"):
        mean_over_seeds([summary(0, 0.5, 0.6, 0.7), summary(0, 0.5, 0.6, 0.7)])
    with pytest.raises(ConfigError, match="different tasks"):
        checks([summary(0, 0.5, 0.6, 0.7), fake_summary(seed=1, episodes=4)])
    with pytest.raises(ConfigError, match="no summaries"):
        seeds_markdown([])


@pytest.mark.parametrize("width", [80, 140, 147, 150, 200])
def test_terminal_table_fits_and_shows_every_number(width: int):
    console = Console(width=width, record=True, force_terminal=False)
    with console.capture() as capture:
        print_results(console, fake_summary(episodes=10))
    text = capture.get()
    assert max(len(row) for row in text.splitlines()) <= width
    for word in ("SFT", "LWD offline", "LWD online", "143", "7.4", "yes"):
        assert word in text
    assert "…" not in text
    # The checks' sentences may break over lines, a number of the table must not.
    for whole in ("interventions", "robot", f"{fake_summary(episodes=10).methods['sft'].average.low:.2f}-"):
        assert whole in text


def test_task_names_are_not_markup():
    console = Console(width=160)
    odd = summary(0, 0.5, 0.6, 0.7)
    odd = replace(
        odd,
        tasks={"[red]x|y": "short", "b": "long"},
        methods={
            name: replace(found, tasks={"[red]x|y": found.tasks["a"], "b": found.tasks["b"]})
            for name, found in odd.methods.items()
        },
    )
    with console.capture() as capture:
        print_results(console, odd)
    assert "[red]x|y" in capture.get()
    assert "[red]x\\|y" in table_markdown(odd)


def test_a_commit_with_changes_says_so_where_they_can_change_a_number(tmp_path: Path):
    def git(*arguments: str) -> None:
        who = ("-c", "user.name=t", "-c", "user.email=t@t")
        subprocess.run(
            ["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True, timeout=20
        )

    files = [tmp_path / name for name in ("results/runs/a.json", "docs/a.md", "src/a.py")]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_text("before")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "a")
    clean = current_commit(tmp_path / "src")
    assert re.fullmatch("[0-9a-f]{12}", clean)
    for file in files[:2]:
        file.write_text("after")
    assert current_commit(tmp_path / "src") == clean
    files[2].write_text("after")
    assert current_commit(tmp_path / "src") == f"{clean}+changes"


def test_provenance_says_what_it_can(tmp_path: Path):
    assert current_commit(tmp_path) == "unknown"
    assert all(isinstance(text, str) and text for text in describe_hardware().values())
    assert "numpy" in describe_software()
