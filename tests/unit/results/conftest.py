"""The toy fleet's module for these tests and for the processes that they start."""

import os
import sys
from pathlib import Path

import pytest
from rich.console import Console

from lwd.results.plan import Places

FLEET = str(Path(__file__).parents[1] / "fleet")
sys.path.insert(0, FLEET)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [FLEET, os.environ.get("PYTHONPATH", "")]))


@pytest.fixture
def console():
    return Console(quiet=True)


@pytest.fixture
def places(tmp_path):
    return Places(tmp_path / "runs", tmp_path / "results")
