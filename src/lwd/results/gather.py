"""From a finished run folder to its run file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lwd.evaluate.curves import thin
from lwd.evaluate.provenance import current_commit, describe_hardware, describe_software
from lwd.evaluate.records import read_records
from lwd.evaluate.report.run import FleetEpisode, Metrics, Missing, ValueTrace, read_run
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
    # By their beginning: of those that end first, most are short, and short ones are the successes.
    online = sorted((e for e in episodes if e.source == "online"), key=lambda e: e.started_s)
    if not online:
        return None
    hours = np.cumsum([e.cycle_time_s for e in online]) / 3600
    success = np.asarray([e.outcome == "success" for e in online], float)
    alone = success * np.asarray([e.takeovers == 0 for e in online])
    steps = np.asarray([[e.steps, e.intervention_steps] for e in online], float)
    groups = np.array_split(np.arange(len(online)), min(_GROUPS, max(1, len(online) // 8)))
    return FleetCurve(
        robot_hours=[round(float(hours[rows].mean()), 4) for rows in groups],
        alone=[round(float(alone[rows].mean()), 4) for rows in groups],
        helped=[round(float(success[rows].mean()), 4) for rows in groups],
        human=[round(float(steps[rows, 1].sum() / max(1.0, steps[rows, 0].sum())), 4) for rows in groups],
    )


def coarse(trace: ValueTrace) -> ValueTrace:
    """The trace with neighbouring atoms joined."""
    groups = np.array_split(np.arange(len(trace.atoms)), min(_ATOMS, len(trace.atoms)))
    return replace(
        trace,
        probabilities=np.stack([trace.probabilities[:, rows].sum(axis=1) for rows in groups], axis=1),
        atoms=np.asarray([trace.atoms[rows].mean() for rows in groups]),
    )
