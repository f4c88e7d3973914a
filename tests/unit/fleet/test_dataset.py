"""The data set's table, with hours counted by hand."""

import dataclasses
import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from lwd.fleet.dataset import dataset_rows, print_dataset
from lwd.fleet.folder import RunFolder, open_services


def row(task, source, outcome, seconds):
    return SimpleNamespace(task=task, source=source, outcome=outcome, cycle_time_s=seconds)


ROWS = [
    row("near", "demo", "success", 1800.0),
    row("near", "demo", "failure", 900.0),
    row("near", "play", "success", 720.0),  # play fails by definition, whatever was noted
    row("far", "rollout", "failure", 3600.0),
    row("far", "rollout", "unjudged", 360.0),
    row("far", "rollout", "success", 2160.0),
]


@pytest.fixture
def services(tmp_path):
    with open_services(RunFolder(tmp_path / "run")) as real:
        catalogue = SimpleNamespace(episodes=lambda: ROWS)
        yield dataclasses.replace(real, catalogue=catalogue)


@pytest.fixture(autouse=True)
def _without_type_check(monkeypatch):
    """The rows above stand in for a catalogue's."""
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)


def test_hours_per_task_and_source_by_hand(services):
    found = {(r["task"], r["source"]): r for r in dataset_rows(services)}
    assert set(found) == {("near", "demo"), ("near", "play"), ("far", "rollout")}
    demo = found["near", "demo"]
    assert (demo["episodes"], demo["hours"]) == (2, 0.75)
    assert (demo["success_hours"], demo["failure_hours"]) == (0.5, 0.25)
    play = found["near", "play"]
    assert (play["success_hours"], play["failure_hours"]) == (0.0, 0.2)
    far = found["far", "rollout"]
    assert far["episodes"] == 3
    assert far["hours"] == pytest.approx(1.7)
    assert (far["success_hours"], far["failure_hours"]) == (0.6, 1.0), "unjudged hours are neither"


def test_the_table_shows_hours_and_the_share_that_failed(services):
    console = Console(width=100, record=True, file=io.StringIO())
    print_dataset(console, dataset_rows(services))
    lines = console.export_text().splitlines()

    def cells(name):
        return next(line for line in lines if name in line.split()).replace("│", " ").split()

    assert cells("near") == ["near", "0.75", "0.00", "0.20", "0.95", "47%"]  # 0.45 of 0.95
    assert cells("far") == ["far", "0.00", "1.70", "0.00", "1.70", "59%"]  # 1.0 of 1.7
    total = [line for line in lines if "2.65" in line]
    assert total[0].replace("│", " ").split() == [
        "all",
        "0.75",
        "1.70",
        "0.20",
        "2.65",
        "55%",
    ]  # 1.45 of 2.65
    assert lines[-1] == "6 episodes, 2.65 robot-hours"
