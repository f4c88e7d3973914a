"""From a finished run folder to its run file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np

from lwd.evaluate.curves import thin
from lwd.evaluate.provenance import current_commit, describe_hardware, describe_software
from lwd.evaluate.records import read_records
from lwd.evaluate.report.run import (
    FleetEpisode,
    FleetGroup,
    Metrics,
    Missing,
    ValueTrace,
    online_groups,
    read_run,
)
from lwd.fleet.demo import FLEET_EPISODES, METHOD_OF_STAGE, fleet_totals, horizons
from lwd.fleet.folder import RunFolder, open_services
from lwd.fleet.policies import find_snapshot
from lwd.results.plan import Cell
from lwd.results.runfile import Costs, Curve, FleetCurve, RunFile
from lwd.results.settings import differences, settings

CURVES = ("value/entropy", "value/tau", "value/quantile", "policy/path_kl")
"""Learner metrics that are kept, where the method has them."""
_POINTS = 40
_GROUPS = 24
_ATOMS = 51
"""How finely curves, the fleet's progress and value distributions are kept."""


def gather(cell: Cell, folder: Path, timing: dict[str, float], command: str) -> RunFile:
    """What is kept of a cell whose phases are all done."""
    run = read_run(folder)
    online = cell.stage == "online"
    after_online = online or cell.stage == "consolidated"
    return RunFile(
        benchmark=cell.benchmark,
        method=cell.method,
        stage=cell.stage,
        seed=cell.seed,
        command=command,
        commit=current_commit(Path(__file__).parent),
        hardware=describe_hardware(),
        software=describe_software(),
        timing=timing,
        settings=settings(cell.experiment, cell.stage),
        differs=differences(cell.plain, cell.experiment),
        tasks=horizons(cell.experiment),
        costs=Costs(**fleet_totals(folder / FLEET_EPISODES)) if after_online else Costs(),
        records=read_records(folder / "evaluations" / f"{METHOD_OF_STAGE[cell.stage]}.json"),
        sft_policy=_sft_policy(folder),
        dataset=() if cell.stage != "sft" or isinstance(run.dataset, Missing) else run.dataset,
        fleet=fleet_curve(run.episodes) if online and not isinstance(run.episodes, Missing) else None,
        learner={} if isinstance(run.metrics, Missing) else learner_curves(run.metrics, cell.stage),
        traces=() if isinstance(run.traces, Missing) else [coarse(trace) for trace in run.traces],
    )


def _sft_policy(folder: Path) -> str:
    """Which SFT policy the run goes on from: training again gives another one wherever the processor is another."""
    with open_services(RunFolder(folder)) as services:
        return find_snapshot(services, "sft").sha256[:12]


def learner_curves(metrics: Metrics, stage: str) -> dict[str, Curve]:
    """The kept metrics of a stage, thinned."""
    found: dict[str, Curve] = {}
    for name in CURVES:
        steps, values = metrics.series(stage, name)
        if len(steps):
            x, y, _, _ = thin(steps, values, _POINTS)
            found[name] = Curve(x=x.round(1).tolist(), y=y.round(5).tolist())
    return found


def fleet_curve(episodes: Sequence[FleetEpisode]) -> FleetCurve | None:
    """How well the fleet did over its robot-hours; None without an online episode.

    An episode counts as a success of the policy alone only if nobody took over. Leaving helped episodes out instead would
    flatter the policy, because help comes where it stalls.
    """
    groups = online_groups(episodes, _GROUPS)
    if not groups:
        return None

    def share(chosen: Callable[[FleetEpisode], bool]) -> list[float]:
        return [round(fmean(chosen(e) for e in group.episodes), 4) for group in groups]

    def human(group: FleetGroup) -> float:
        steps = sum(e.steps for e in group.episodes)
        return round(sum(e.intervention_steps for e in group.episodes) / max(1, steps), 4)

    return FleetCurve(
        robot_hours=[round(group.robot_hours, 4) for group in groups],
        alone=share(lambda e: e.outcome == "success" and e.takeovers == 0),
        helped=share(lambda e: e.outcome == "success"),
        human=[human(group) for group in groups],
    )


def coarse(trace: ValueTrace) -> ValueTrace:
    """The trace with neighbouring atoms joined."""
    groups = np.array_split(np.arange(len(trace.atoms)), min(_ATOMS, len(trace.atoms)))
    return replace(
        trace,
        probabilities=np.stack([trace.probabilities[:, rows].sum(axis=1) for rows in groups], axis=1),
        atoms=np.asarray([trace.atoms[rows].mean() for rows in groups]),
    )
