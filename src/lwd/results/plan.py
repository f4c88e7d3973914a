"""Which runs the evidence consists of: rows (a method at a stage) times seeds, and which run goes on from which."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Literal

from lwd.config import Experiment
from lwd.errors import UnknownNameError
from lwd.recipes import recipe
from lwd.recipes.ablations import (
    BEYOND_THE_PAPER,
    OFFLINE_ABLATIONS,
    ONLINE_ABLATIONS,
    SCENE_OFFLINE,
    WIDE_WINDOWS,
    patient_operators,
)
from lwd.recipes.methods import METHODS
from lwd.recipes.once_more import LONGER, ONCE_MORE
from lwd.recipes.search import CANDIDATES

Stage = Literal["sft", "offline", "online", "consolidated"]
Change = Callable[[Experiment], Experiment]

MAIN_SEEDS, OTHER_SEEDS = 5, 3
"""Training seeds of SFT and LWD, and of everything else."""


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What a benchmark compares; every benchmark has SFT.

    Attributes:
        methods: name -> change from LWD's experiment, each with its offline and its online row.
        offline_ablations, online_ablations: rows of LWD with one thing changed.
        once_more: row -> the row that it goes on from after its online stage, and the change.
        online_after: row -> the row that it goes on from, and the change: after an offline stage with a setting of its own, or
            after an online stage for more of the fleet's hours.
        candidates: rows of the search, one seed each, up to the first stage in which they learn.
        main_seeds: training seeds of SFT and LWD.
        first_look: rows that are wanted with one training seed: a look at what may pay.
        shown: whether it belongs into the committed tables.
        superseded_by: benchmark that took its place, "" for none; then its runs stay, and no more are wanted.
        ended: no more of its runs are wanted, though nothing took its place; whoever has the time can go on with it.
        varies: benchmark whose deployment it puts under other conditions, "" for none; it is shown beside that one.
        conditions: what the deployment has that the demonstrations had not, as tables name it; where that was varied.
    """

    methods: Mapping[str, Change] = field(default_factory=lambda: METHODS)
    offline_ablations: Mapping[str, Change] = field(default_factory=dict[str, Change])
    online_ablations: Mapping[str, Change] = field(default_factory=dict[str, Change])
    once_more: Mapping[str, tuple[str, Change]] = field(default_factory=dict[str, tuple[str, Change]])
    online_after: Mapping[str, tuple[str, Change]] = field(default_factory=dict[str, tuple[str, Change]])
    candidates: Mapping[str, Change] = field(default_factory=dict[str, Change])
    main_seeds: int = MAIN_SEEDS
    first_look: tuple[str, ...] = ()
    shown: bool = True
    superseded_by: str = ""
    ended: bool = False
    varies: str = ""
    conditions: str = ""

    @property
    def wanted(self) -> bool:
        """Whether the runs that are missing are wanted."""
        return not (self.superseded_by or self.ended)


SCENE = Scope(
    offline_ablations=SCENE_OFFLINE,
    online_ablations={
        name: BEYOND_THE_PAPER[name]
        for name in ("takeover_fails", "takeover_fails_in_turns", "best_of_16_acting")
    },
    first_look=("takeover_fails_in_turns",),
    conditions="other starts, less time",
)
"""Every method, the options beyond the paper that promise most there, and what its short tasks may want.

A run in turns takes longer than an hour of a core there.
"""
AGAIN = "lwd_offline_again"
"""LWD offline under its own settings, in another folder, with a clone of its own: what two runs of one thing differ by."""
WHOLE = Scope(
    offline_ablations={**OFFLINE_ABLATIONS, AGAIN: lambda x: x},
    online_ablations={**ONLINE_ABLATIONS, **BEYOND_THE_PAPER},
    online_after=WIDE_WINDOWS,
    once_more=ONCE_MORE,
    first_look=("lwd_refitted_once_more",),
    conditions="less time",
)
"""The ablations too, and everything that goes beyond the paper."""
HOURS = Scope(
    methods={name: METHODS[name] for name in ("lwd", "rft")},
    online_ablations={
        "fleet_1": ONLINE_ABLATIONS["fleet_1"],
        "frozen_in_turns": BEYOND_THE_PAPER["frozen_in_turns"],
        "refitted_in_turns": BEYOND_THE_PAPER["refitted_in_turns"],
        "best_of_16_acting": BEYOND_THE_PAPER["best_of_16_acting"],
    },
    once_more={"lwd_refitted_once_more": ONCE_MORE["lwd_refitted_once_more"]},
    main_seeds=OTHER_SEEDS,
    ended=True,
)
"""LWD and the strongest baseline, the options that paid, and how much of it is experience. A run takes up to 50 minutes."""
SCENE_HOURS = Scope(
    methods={name: METHODS[name] for name in ("lwd", "rft", "hg_dagger")},
    online_ablations={
        "patient_operators": patient_operators,
        "no_interventions": ONLINE_ABLATIONS["no_interventions"],
        "refitted_reference": BEYOND_THE_PAPER["refitted_reference"],
        "frozen_in_turns": BEYOND_THE_PAPER["frozen_in_turns"],
        "refitted_in_turns": BEYOND_THE_PAPER["refitted_in_turns"],
    },
    once_more=ONCE_MORE,
    online_after=LONGER,
    superseded_by="scene_evidence",
)
"""Nine robot-hours of the demo's tasks, with a clone that had not converged: what decision records 0030 to 0033 measured."""
LWD_ALONE = Scope(methods={"lwd": METHODS["lwd"]}, main_seeds=OTHER_SEEDS)
LOOK = replace(LWD_ALONE, main_seeds=1)
"""A first look: an hour and a half of a core for each on the scene."""
SHIFTED = Scope(
    methods={name: METHODS[name] for name in ("lwd", "hg_dagger")},
    online_ablations={
        "no_interventions": ONLINE_ABLATIONS["no_interventions"],
        **{
            name: BEYOND_THE_PAPER[name]
            for name in ("refitted_reference", "frozen_in_turns", "refitted_in_turns")
        },
    },
    main_seeds=OTHER_SEEDS,
)
"""LWD, who imitates the corrections too, what interventions teach and what a refitted reference adds there."""

SEARCH = "metaworld_search"
BENCHMARKS: Mapping[str, Scope] = {
    "scene_evidence": SCENE,
    "metaworld": WHOLE,
    "metaworld_hours": HOURS,
    "metaworld50": LWD_ALONE,
    "metaworld_shifted": replace(SHIFTED, varies="metaworld", conditions="other starts, less time"),
    "metaworld_no_hurry": replace(LWD_ALONE, varies="metaworld", conditions="nothing else"),
    "metaworld_shifted_no_hurry": replace(
        SHIFTED,
        online_ablations={"refitted_reference": BEYOND_THE_PAPER["refitted_reference"]},
        varies="metaworld",
        conditions="other starts",
    ),
    "scene_unshifted": replace(LOOK, varies="scene_evidence", conditions="less time"),
    "scene_no_hurry": replace(LOOK, varies="scene_evidence", conditions="other starts"),
    "scene_hours": SCENE_HOURS,
    "scene_evidence_quick": replace(SCENE, shown=False),
    "metaworld_quick": replace(WHOLE, shown=False),
    SEARCH: Scope(methods={}, candidates={one.name: one for one in CANDIDATES}, shown=False),
}
"""Recipes that can be run as a benchmark.

Ablations of one setting are the fast tier's, where a run costs a quarter of the scene's. The quick ones only show that
everything works; the search has a page of its own.
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a results table.

    Attributes:
        name: of the row, in files and tables.
        stages: what its runs do themselves; the last one is evaluated.
        parent: the row whose run it goes on from, None for the first.
        seeds: how many training seeds.
        change: from the benchmark's experiment to this row's.
    """

    name: str
    stages: tuple[Stage, ...]
    parent: str | None
    seeds: int
    change: Change


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run: a row with a seed.

    Attributes:
        method: name of the row.
        plain: the benchmark's own experiment; `experiment`: this row's, both with the cell's seed.
        parent: id of the cell whose run folder it goes on from.
    """

    benchmark: str
    method: str
    seed: int
    stages: tuple[Stage, ...]
    experiment: Experiment
    plain: Experiment
    parent: str | None

    @property
    def id(self) -> str:
        """Name of the cell, and its place below every folder of the evidence."""
        return f"{self.benchmark}/{self.method}/seed_{self.seed}"

    @property
    def stage(self) -> Stage:
        """The stage that is evaluated."""
        return self.stages[-1]


@dataclass(frozen=True)
class Places:
    """Where the evidence keeps its files.

    Attributes:
        runs: run folders, locks and logs; large, not committed.
        results: run files and what is made from them; small, committed.
    """

    runs: Path
    results: Path

    def folder(self, cell_id: str) -> Path:
        """The run folder of a cell."""
        return self.runs / cell_id

    def lock(self, cell_id: str) -> Path:
        """Held by the process that runs the cell."""
        return self.runs / f"{cell_id}.lock"

    def log(self, cell_id: str) -> Path:
        """What the cell's process printed."""
        return self.runs / f"{cell_id}.log"

    def run_file(self, cell_id: str) -> Path:
        """What is kept of a cell."""
        return self.results / "runs" / f"{cell_id}.json"


def rows(make: Callable[[int], Experiment], scope: Scope = WHOLE) -> list[Row]:
    """The rows of a benchmark, parents before those that go on from them."""
    seeds = 1 if scope.candidates else scope.main_seeds
    found = [Row(name="sft", stages=("sft",), parent=None, seeds=seeds, change=lambda x: x)]
    for name, change in scope.methods.items():
        found += _method_rows(name, change, make(0), seeds if name == "lwd" else OTHER_SEEDS)
    for name, change in scope.offline_ablations.items():
        found.append(Row(name=name, stages=("offline",), parent="sft", seeds=OTHER_SEEDS, change=change))
    for name, change in scope.online_ablations.items():
        found.append(
            Row(name=name, stages=("online",), parent="lwd_offline", seeds=OTHER_SEEDS, change=change)
        )
    for name, (parent, change) in scope.online_after.items():
        found.append(Row(name=name, stages=("online",), parent=parent, seeds=OTHER_SEEDS, change=change))
    for name, (parent, change) in scope.once_more.items():
        found.append(
            Row(name=name, stages=("consolidated",), parent=parent, seeds=OTHER_SEEDS, change=change)
        )
    for name, change in scope.candidates.items():
        learns_offline = change(make(0)).offline.steps > 0
        stages: tuple[Stage, ...] = ("offline",) if learns_offline else ("offline", "online")
        found.append(Row(name=name, stages=stages, parent="sft", seeds=1, change=change))
    return [replace(row, seeds=1) if row.name in scope.first_look else row for row in found]


def _method_rows(name: str, change: Change, plain: Experiment, seeds: int) -> list[Row]:
    online = Row(
        name=f"{name}_online", stages=("online",), parent=f"{name}_offline", seeds=seeds, change=change
    )
    if change(plain).offline.steps == 0:  # nothing is learned offline: its offline policy is SFT's
        return [replace(online, stages=("offline", "online"), parent="sft")]
    return [
        Row(name=f"{name}_offline", stages=("offline",), parent="sft", seeds=seeds, change=change),
        online,
    ]


def cells(benchmark: str, make: Callable[[int], Experiment], planned: Sequence[Row]) -> list[Cell]:
    """Every row with each of its seeds; the first seeds of every row first, and parents before their children."""
    found: list[Cell] = []
    for seed in range(max(row.seeds for row in planned)):
        for row in planned:
            if seed < row.seeds:
                plain = make(seed)
                found.append(
                    Cell(
                        benchmark=benchmark,
                        method=row.name,
                        seed=seed,
                        stages=row.stages,
                        experiment=row.change(plain),
                        plain=plain,
                        parent=None if row.parent is None else f"{benchmark}/{row.parent}/seed_{seed}",
                    )
                )
    return found


def plain(benchmark: str, seed: int) -> Experiment:
    """A benchmark's own experiment: its recipe with one worker process, since a cell has one core."""
    x = recipe(benchmark, seed)
    return replace(x, fleet=replace(x.fleet, workers=1))


def rows_of(benchmark: str) -> list[Row]:
    """The rows of a named benchmark.

    Raises:
        UnknownNameError: there is none of this name; the nearest is in the message.
    """
    if benchmark not in BENCHMARKS:
        raise UnknownNameError("benchmark", benchmark, BENCHMARKS)
    return rows(partial(plain, benchmark), BENCHMARKS[benchmark])


def plan(benchmark: str) -> list[Cell]:
    """The cells of a named benchmark; raises as `rows_of`."""
    return cells(benchmark, partial(plain, benchmark), rows_of(benchmark))


def chosen(planned: Sequence[Cell], pattern: str) -> list[Cell]:
    """Cells whose id, or a part of it between slashes, matches a shell pattern.

    Raises:
        UnknownNameError: there is none.
    """
    found = [c for c in planned if any(fnmatchcase(name, pattern) for name in (c.id, *c.id.split("/")))]
    if not found:
        raise UnknownNameError("cell", pattern, [cell.id for cell in planned])
    return found
