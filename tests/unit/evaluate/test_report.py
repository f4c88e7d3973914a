"""The HTML report: complete, self-contained, escaped, and patient with missing files."""

from __future__ import annotations

import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lwd.errors import LwdError
from lwd.evaluate.jsonfile import ResultError
from lwd.evaluate.report import write_report
from lwd.evaluate.report.run import ValueTrace, read_run
from tests.unit.evaluate.fake_run import write_fake_run

SECTIONS = ("result", "tasks", "learning", "value", "data", "fleet", "timing")


class Balance(HTMLParser):
    """Every element that is opened is closed, and ids are unique."""

    VOID = frozenset({"meta", "br", "hr", "img", "link", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_run(tmp_path_factory.mktemp("runs") / "demo-seed-0")


@pytest.fixture(scope="module")
def html(run_dir: Path) -> str:
    return write_report(run_dir).read_text(encoding="utf-8")


def test_every_section_has_its_figures(html: str):
    for key in SECTIONS:
        assert f'<section id="{key}">' in html
    assert "Not shown" not in html
    for title in (
        "Fleet online",
        "Flow-matching loss",
        "Critic loss",
        "Value cross-entropy",
        "Adjoint norm",
        "Path KL to the reference",
        "Value along an episode (Fig 6)",
        "Entropy over training (Fig 8)",
        "Tau over training (Fig 8)",
        "Value distribution, failure of",
        "Hours by source",
        "Fleet timeline",
    ):
        assert title in html
    for fact in ("lwd demo --seed 0", "d8c0480a12f3", "17 min 23 s", "Intel Xeon"):
        assert fact in html


def test_nothing_is_loaded_from_elsewhere(html: str):
    assert "http" not in html
    assert "//" not in re.sub(r"data:image/png;base64,[A-Za-z0-9+/=\s]*", "", html)
    for reference in re.findall(r'(?:href|src)="([^"]*)"', html):
        assert reference.startswith(("#", "data:image/png;base64,"))
    for inside in re.findall(r"url\(([^)]*)\)", html):
        assert inside.startswith("#")
    assert "<script" not in html
    assert "@import" not in html


def test_page_is_well_formed_and_ids_are_unique(html: str):
    parser = Balance()
    parser.feed(html)
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))
    targets = {t.removeprefix("#") for t in re.findall(r'href="(#[^"]*)"', html)} | set(
        re.findall(r"url\(#([^)]*)\)", html)
    )
    assert targets <= set(parser.ids)


def test_colours_follow_the_page(html: str):
    assert "#0a0b" not in html
    assert "var(--online)" in html
    assert "prefers-color-scheme: dark" in html
    used = set(re.findall(r"var\(--(\w+)\)", html))
    defined = set(re.findall(r"--(\w+):", html))
    assert used <= defined


def test_missing_files_leave_a_sentence(tmp_path: Path):
    html = write_report(tmp_path).read_text()
    for key in SECTIONS:
        assert f'<section id="{key}">' in html
    for name in (
        "summary.json",
        "metrics/",
        "episodes.jsonl",
        "value_traces.json",
        "dataset.json",
        "timing.json",
    ):
        assert f"Not shown: {name} is not in the run directory." in html
    assert "<svg" not in html


def test_damaged_files_leave_their_error_and_the_rest_is_shown(run_dir: Path, tmp_path: Path):
    broken = tmp_path / "broken"
    shutil.copytree(run_dir, broken)
    for stage in ("offline", "online"):
        (broken / "metrics" / f"{stage}.jsonl").unlink()
    (broken / "summary.json").write_text('{"schema": 1, "tasks"')
    (broken / "episodes.jsonl").write_text('{"episode_id": "x", "robot": 3}\n')
    (broken / "value_traces.json").write_text(
        '[{"task": "a", "outcome": "success", "times_s": [0, 1], "atoms": [0]}]'
    )
    (broken / "metrics" / "sft.jsonl").write_text(
        '{"learner_step": 1, "policy/flow_matching_loss": 1.0}\n{"torn'
    )
    html = write_report(broken).read_text()
    assert "summary.json cannot be shown" in html
    assert "episodes.jsonl: line 1: " in html
    assert "value_traces.json: [0].quantile: is missing" in html
    assert "Flow-matching loss" in html
    assert "Hours by source" in html


def test_text_from_the_run_is_escaped(run_dir: Path, tmp_path: Path):
    evil = '<script>alert("x")</script>$a_b$&'
    target = tmp_path / "<b>run</b>"
    shutil.copytree(run_dir, target)
    shutil.rmtree(target / "metrics")  # no text of it is shown, and its figures take seconds
    summary = (target / "summary.json").read_text()
    quoted = json.dumps(evil)[1:-1]
    (target / "summary.json").write_text(
        summary.replace("rearrange_hard", quoted).replace("lwd demo", quoted)
    )
    for name in ("episodes.jsonl", "dataset.json", "value_traces.json"):
        text = (target / name).read_text()
        (target / name).write_text(
            text.replace("rearrange", quoted).replace("robot-1", quoted).replace("play", quoted)
        )
    (target / "timing.json").write_text(json.dumps({evil: 1.0}))
    html = write_report(target).read_text()
    assert "<script" not in html
    assert "<b>run" not in html
    assert "&lt;script&gt;" in html
    Balance().feed(html)


def test_odd_but_possible_runs_are_shown(run_dir: Path, tmp_path: Path):
    odd = tmp_path / "odd"
    (odd / "metrics").mkdir(parents=True)
    rows = [json.loads(text) for text in (run_dir / "episodes.jsonl").read_text().splitlines()[:3]]
    for row in rows:
        row["snapshot"] = None
        del row["cycle_time_s"]
    (odd / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    traces = json.loads((run_dir / "value_traces.json").read_text())
    one = {**traces[1], "task": "箱を置く"}
    for key in ("times_s", "quantile", "entropy", "tau", "probabilities"):
        one[key] = one[key][:1]
    (odd / "value_traces.json").write_text(json.dumps([one]))
    (odd / "metrics" / "m.jsonl").write_text(
        '{"stage": "offline", "learner_step": 0, "critic/loss": null, "value/tau": 0.5, "policy/adjoint_norm": 0.0}\n'
    )
    (odd / "timing.json").write_text("{}")
    (odd / "dataset.json").write_text(
        '[{"task": "箱を置く", "source": "wild", "episodes": 0, "hours": 0, "success_hours": 0, "failure_hours": 0}]'
    )
    html = write_report(odd).read_text()
    assert "failure of 箱を置く" in html
    assert "Critic loss" not in html
    assert "timing.json names no phase" in html


def test_not_a_directory(tmp_path: Path):
    with pytest.raises(ResultError, match="not a directory"):
        write_report(tmp_path / "none")


def test_without_the_extra_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "lwd.evaluate.report.page", raising=False)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(LwdError, match=r"lwd\[report\]"):
        write_report(tmp_path)


def test_traces_of_wrong_shape_say_which_field(tmp_path: Path):
    trace = {
        "task": "a",
        "outcome": "failure",
        "times_s": [0, 1],
        "quantile": [0, 1],
        "entropy": [0, 1],
        "tau": [0, 1],
    }
    trace |= {"probabilities": [[1.0, 0.0]], "atoms": [0.0, 1.0]}
    (tmp_path / "value_traces.json").write_text(json.dumps([trace]))
    assert "probabilities: expected the shape (2, 2), got (1, 2)" in read_run(tmp_path).traces.reason  # type: ignore[union-attr]
    trace["probabilities"] = [[1.0, 0.0], [0.5, 0.5]]
    (tmp_path / "value_traces.json").write_text(json.dumps([trace]))
    traces = read_run(tmp_path).traces
    assert isinstance(traces, list)
    assert isinstance(traces[0], ValueTrace)
