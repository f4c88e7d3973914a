"""The README's numbers are the committed ones, and its links and folders exist."""

from __future__ import annotations

import re

import pytest

from lwd.errors import ConfigError
from lwd.evaluate.scores import EvaluationRecord, score
from lwd.evaluate.summary import METHODS, Summary, summarise
from tools import make_table

README = make_table.ROOT / make_table.README


@pytest.mark.parametrize(("path", "each"), [(make_table.README, False), (make_table.PAGE, True)])
def test_table_is_up_to_date(path, each) -> None:
    text = (make_table.ROOT / path).read_text(encoding="utf-8")
    content = make_table.section(make_table.summaries(), each=each)
    assert text == make_table.fill(text, content, path), "run `make table`"


def test_links_exist() -> None:
    links = re.findall(r"(?:\]\(|srcset=\"|src=\")([^)\"#]+)", README.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (make_table.ROOT / link).exists()]
    assert links
    assert not missing


def test_content_replaces_what_stood_between_the_markers() -> None:
    begin, end = "<!-- table:demo -->", "<!-- /table:demo -->"
    once = make_table.fill(f"a\n{begin}\nold\n{end}\nb\n", "new\n")
    assert once == f"a\n{begin}\n\nnew\n\n{end}\nb\n"
    assert make_table.fill(once, "new\n") == once


def test_missing_marker_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected one"):
        make_table.fill("no markers", "new")


def run(seed: int, solved: dict[str, int]) -> Summary:
    """A run in which a method solves this many of ten episodes of one task."""
    methods = {}
    for name in METHODS:
        records = [
            EvaluationRecord(
                task="reach",
                seed=i,
                success=i < solved[name],
                stage_score=1.0,
                cycle_time_s=2.0,
                steps=20,
                interventions=0,
            )
            for i in range(10)
        ]
        methods[name] = summarise(score(records, {"reach": "short"}))
    return Summary(
        seed=seed,
        wall_s=600.0 + 60 * seed,
        tasks={"reach": "short"},
        commit="0123456789ab",
        hardware={"processor": "Test CPU", "cores": "2"},
        software={"jax": "0.10.2"},
        command="lwd demo",
        methods=methods,
    )


def test_section_says_how_much_on_what_and_by_which_command() -> None:
    runs = [run(seed, {"sft": 5, "lwd_offline": 7, "lwd_online": 9}) for seed in (0, 1)]
    text = make_table.section(runs)
    assert re.search(r"\| \*\*LWD online\*\*, mean \| 0\.90 ", text)
    assert "over 2 seeds" in text
    assert "LWD online, seed 1" not in text
    assert "reach" not in text, "the README has no columns of tasks"
    assert "| interventions | operator minutes | reach |" in make_table.section(runs, each=True)
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    assert "LWD online, seed 1" in make_table.section(runs, each=True)
    assert "Test CPU, 2 cores; minutes per run: 10.0 (seed 0), 11.0 (seed 1); jax 0.10.2;" in text
    assert "commit `0123456789ab`. Command: `lwd demo`." in text


def test_section_of_one_run_is_its_own_table() -> None:
    text = make_table.section([run(3, {"sft": 5, "lwd_offline": 7, "lwd_online": 9})])
    assert "Seed 3." in text
    assert "minutes per run: 13.0 (seed 3)" in text


def test_section_without_runs_says_so() -> None:
    assert make_table.section([]) == make_table.EMPTY
