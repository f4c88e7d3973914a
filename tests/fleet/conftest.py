"""A whole demo on the fast tier, small enough for a test: four robots, two tasks, about a minute."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from lwd.config import Experiment
from lwd.evaluate.summary import Summary
from lwd.fleet.demo import Demo
from lwd.fleet.folder import RunFolder
from tests.fleet.small_experiment import fast_experiment


@dataclass(frozen=True)
class FinishedDemo:
    """A demo that has run."""

    experiment: Experiment
    folder: RunFolder
    summary: Summary


@pytest.fixture(scope="session")
def fast_demo(tmp_path_factory: pytest.TempPathFactory) -> FinishedDemo:
    """The demo's own program on the fast experiment, with its coordinator, learner and actor processes."""
    experiment = fast_experiment()
    folder = RunFolder(Path(tmp_path_factory.mktemp("fast")) / "run")
    summary = Demo(experiment, folder, Console(quiet=True), "test").run()
    return FinishedDemo(experiment, folder, summary)
