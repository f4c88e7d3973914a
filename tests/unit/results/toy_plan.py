"""A plan of toy cells: SFT, a method with both stages, a method without an offline one, for two seeds."""

from __future__ import annotations

from dataclasses import replace

import toy_fleet

from lwd.config import Experiment
from lwd.results.plan import Cell, Row, cells


def make(seed: int) -> Experiment:
    return toy_fleet.experiment(seed=seed)


def keener(x: Experiment) -> Experiment:
    return replace(x, gamma=0.9)


ROWS = [
    Row(name="sft", stages=("sft",), parent=None, seeds=2, change=lambda x: x),
    Row(name="lwd_offline", stages=("offline",), parent="sft", seeds=2, change=lambda x: x),
    Row(name="lwd_online", stages=("online",), parent="lwd_offline", seeds=2, change=lambda x: x),
    Row(name="hg_dagger_online", stages=("offline", "online"), parent="sft", seeds=1, change=keener),
]


def plan() -> list[Cell]:
    return cells("toy", make, ROWS)


def cell(cell_id: str) -> Cell:
    """The cell of this id, without its benchmark."""
    (found,) = [one for one in plan() if one.id == f"toy/{cell_id}"]
    return found
