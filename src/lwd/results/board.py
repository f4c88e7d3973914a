"""All committed runs of one benchmark, row by row, and what is compared with what."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

from lwd.errors import UnknownNameError
from lwd.recipes.methods import METHODS
from lwd.results.plan import BENCHMARKS, Cell, plan
from lwd.results.runfile import RunFile, read_run_files
from lwd.results.scores import Paired, RowScore, paired, row_score
from lwd.results.settings import agree, completed

log = logging.getLogger(__name__)

LABELS: Mapping[str, str] = {
    "lwd": "LWD",
    "rft": "RFT",
    "hg_dagger": "HG-DAgger",
    "recap": "RECAP",
    "iql_qam": "IQL with QAM",
    "awac": "AWAC",
    "best_of_n": "Best of N",
}
"""Methods as pages call them."""


def label(row: str) -> str:
    """A row's name on a page."""
    method, _, stage = row.rpartition("_")
    return f"{LABELS.get(method, method)} {stage}" if method in METHODS else {"sft": "SFT"}.get(row, row)


@dataclass(frozen=True)
class Ablation:
    """A group of rows that differ in one thing, each with the name of its setting; one of them is LWD itself.

    Attributes:
        title: what differs; rows: (setting, row); against: the row that the paired differences are taken against.
    """

    title: str
    rows: Sequence[tuple[str, str]]
    against: str


BEYOND = "Beyond the paper: "
"""Begins the titles of options that the paper does not have."""
ABLATIONS = (
    Ablation(
        "What deployment adds",
        (
            ("the offline policy", "lwd_offline"),
            ("online, n = 10 on long tasks", "lwd_online"),
            ("online, n = 1 (the paper's)", "n_step_1_online"),
            ("online, n = 1 and tau_base 0.9 (both the paper's)", "as_the_paper_online"),
        ),
        "lwd_offline",
    ),
    Ablation(
        "Value, offline (Table II)",
        (("DIVL", "lwd_offline"), ("scalar expectile", "iql_qam_offline")),
        "lwd_offline",
    ),
    Ablation(
        "Value, online (Table II)",
        (("DIVL", "lwd_online"), ("scalar expectile", "iql_qam_online")),
        "lwd_online",
    ),
    Ablation(
        "Quantile level, offline (Table III)",
        (("adaptive", "lwd_offline"), ("constant 0.52", "constant_tau")),
        "lwd_offline",
    ),
    Ablation(
        "Return window on long tasks, offline",
        (("n = 10", "lwd_offline"), ("n = 1", "n_step_1")),
        "lwd_offline",
    ),
    Ablation(
        "Return window on long tasks, online",
        (("n = 10", "lwd_online"), ("n = 1 (the paper's)", "n_step_1_online")),
        "lwd_online",
    ),
    Ablation(
        "Return window on short tasks, offline",
        (("n = 1 (the paper's)", "lwd_offline"), ("n = 10", "n_step_10_short")),
        "lwd_offline",
    ),
    Ablation(
        "Return window on short tasks, offline, from one clone",
        (("n = 1 (the paper's)", "lwd_offline_again"), ("n = 10", "n_step_10_short")),
        "lwd_offline_again",
    ),
    Ablation(
        "Return window on short tasks, online",
        (("n = 1 (the paper's)", "lwd_online"), ("n = 10, offline too", "n_step_10_short_online")),
        "lwd_online",
    ),
    Ablation(
        "tau_base, online",
        (("0.6", "lwd_online"), ("0.9 (the paper's)", "tau_base_0.9_online")),
        "lwd_online",
    ),
    Ablation(
        "QAM's paths, offline",
        (("from the policy", "lwd_offline"), ("from the reference", "reference_paths")),
        "lwd_offline",
    ),
    Ablation(
        "Temperature, offline",
        (
            ("a tenth", "temperature_0.1x"),
            ("0.3 times", "temperature_0.3x"),
            ("the recipe's", "lwd_offline"),
            ("twice", "temperature_2x"),
            ("3 times", "temperature_3x"),
            ("10 times", "temperature_10x"),
            ("by target_kl = 1", "temperature_by_kl"),
        ),
        "lwd_offline",
    ),
    Ablation(
        "Flow steps, offline",
        (("3", "flow_steps_3"), ("5", "flow_steps_5"), ("10", "lwd_offline")),
        "lwd_offline",
    ),
    Ablation(
        "Two runs of the same, offline",
        (("once", "lwd_offline"), ("another day's, from a clone of its own", "lwd_offline_again")),
        "lwd_offline",
    ),
    Ablation(
        "Learning rates and the acting policy, offline",
        (
            ("cosine, averaged", "lwd_offline_again"),
            ("constant, averaged", "constant_rates"),
            ("cosine, live", "live_policy"),
            ("constant, live", "constant_rates_live_policy"),
        ),
        "lwd_offline_again",
    ),
    Ablation(
        "Offline data",
        (("with failures", "lwd_offline"), ("successes only", "without_failures")),
        "lwd_offline",
    ),
    Ablation(
        "Interventions, online",
        (
            ("as in the recipe", "lwd_online"),
            ("after 5 s without a milestone, not 3", "patient_operators"),
            ("never", "no_interventions"),
        ),
        "lwd_online",
    ),
    Ablation(
        "Robots, online, same wall-clock",
        (("1", "fleet_1"), ("4", "fleet_4"), ("16", "lwd_online")),
        "lwd_online",
    ),
    Ablation(
        "Learner steps between snapshots, online",
        (("10", "publish_10"), ("50", "lwd_online"), ("250", "publish_250")),
        "lwd_online",
    ),
    Ablation(
        f"{BEYOND}what a takeover says of the policy, online",
        (("nothing", "lwd_online"), ("that it failed", "takeover_fails")),
        "lwd_online",
    ),
    Ablation(
        f"{BEYOND}the reference, online",
        (("frozen", "lwd_online"), ("refitted", "refitted_reference")),
        "lwd_online",
    ),
    Ablation(
        f"{BEYOND}learner and robots in turns",
        (
            ("at the same time", "lwd_online"),
            ("three turns, the reference frozen", "frozen_in_turns"),
            ("three turns, refitted in each", "refitted_in_turns"),
            ("three turns, refitted in each, a takeover is a failure", "takeover_fails_in_turns"),
            ("three turns, refitted in each, robots choose among 16 chunks", "choosing_in_turns"),
        ),
        "lwd_online",
    ),
    Ablation(
        f"{BEYOND}more turns and more of the fleet's hours",
        (("three turns", "refitted_in_turns"), ("six turns, twice the hours", "refitted_in_six_turns")),
        "refitted_in_turns",
    ),
    Ablation(
        f"{BEYOND}chunks that the robot chooses from, online",
        (("1", "lwd_online"), ("16", "best_of_16_acting")),
        "lwd_online",
    ),
    Ablation(
        f"{BEYOND}whose 16 chunks the robot chooses from, online",
        (("the frozen reference's (best of n)", "best_of_n_online"), ("the policy's", "best_of_16_acting")),
        "best_of_n_online",
    ),
    Ablation(
        f"{BEYOND}chunks that the robot chooses from, with n = 10 on short tasks, online",
        (("1", "n_step_10_short_online"), ("16", "n_step_10_short_best_of_16")),
        "n_step_10_short_online",
    ),
    Ablation(
        f"{BEYOND}chunks that the robot chooses from, in turns with the learner",
        (("1", "refitted_in_turns"), ("16", "choosing_in_turns")),
        "refitted_in_turns",
    ),
    Ablation(
        f"{BEYOND}turns for robots that choose, with n = 10 on short tasks",
        (
            ("learner and robots at the same time", "n_step_10_short_best_of_16"),
            ("three turns, refitted in each", "n_step_10_short_choosing_in_turns"),
        ),
        "n_step_10_short_best_of_16",
    ),
    Ablation(
        f"{BEYOND}learning once more when the fleet's hours are over",
        (
            ("no", "lwd_online"),
            ("cloning", "lwd_cloned_once_more"),
            ("LWD offline on everything", "lwd_offline_once_more"),
            ("the same, its reference refitted first", "lwd_refitted_once_more"),
        ),
        "lwd_online",
    ),
    Ablation(
        "Learning once more after HG-DAgger's hours",
        (("no", "hg_dagger_online"), ("cloning", "hg_dagger_cloned_once_more")),
        "hg_dagger_online",
    ),
)


class Board:
    """One benchmark's rows.

    Args:
        wanted: row -> how many seeds it should have, in the order of the tables.

    Raises:
        UnknownNameError: there are run files of a row that is not wanted.
    """

    def __init__(self, benchmark: str, wanted: Mapping[str, int], runs: Sequence[RunFile]) -> None:
        self.benchmark, self.wanted = benchmark, dict(wanted)
        self.runs: dict[str, list[RunFile]] = {row: [] for row in wanted}
        for run in sorted(runs, key=lambda run: run.seed):  # every row in the order of its seeds
            if run.method not in self.runs:
                raise UnknownNameError("row of the evidence", run.method, self.runs)
            self.runs[run.method].append(run)
        self._paired: dict[tuple[str, str], Paired] = {}

    @cached_property
    def scores(self) -> dict[str, RowScore]:
        """The rows that have at least one run."""
        return {row: row_score(runs) for row, runs in self.runs.items() if runs}

    @property
    def methods(self) -> list[str]:
        """Rows that are methods, not ablations."""
        return [row for row in self.wanted if label(row) != row]

    @property
    def superseded_by(self) -> str:
        """The benchmark that took its place, "" for none."""
        return BENCHMARKS[self.benchmark].superseded_by if self.benchmark in BENCHMARKS else ""

    @property
    def ended(self) -> bool:
        """Whether no more of its runs are wanted, though nothing took its place."""
        return self.benchmark in BENCHMARKS and BENCHMARKS[self.benchmark].ended

    @property
    def varies(self) -> str:
        """The benchmark whose deployment this one puts under other conditions, "" for none."""
        return BENCHMARKS[self.benchmark].varies if self.benchmark in BENCHMARKS else ""

    @property
    def conditions(self) -> str:
        """What the deployment has that the demonstrations had not, in words; "" where that was not varied."""
        return BENCHMARKS[self.benchmark].conditions if self.benchmark in BENCHMARKS else ""

    @property
    def ablations(self) -> list[Ablation]:
        """The groups with the settings that this benchmark has rows for, where those are at least two."""
        own = (
            replace(one, rows=[(name, row) for name, row in one.rows if row in self.wanted])
            for one in ABLATIONS
            if one.against in self.wanted
        )
        return [one for one in own if len(one.rows) > 1]

    def paired(self, below: str, above: str) -> Paired | None:
        """`above` minus `below` on the attempts that both made; None while they share no training seed."""
        if not self._shared_seeds(below, above):
            return None
        pair = below, above
        if pair not in self._paired:  # several tables and pictures ask for the same one
            self._paired[pair] = paired(self.runs[below], self.runs[above])
        return self._paired[pair]

    def on_shared_seeds(self, first: str, second: str) -> tuple[RowScore, RowScore] | None:
        """Both rows' scores over the training seeds that both have; None while there are none.

        A seed brings its own offline data and SFT policy: rows of different seeds differ in more than the method.
        """
        seeds = self._shared_seeds(first, second)
        if not seeds:
            return None
        a, b = (row_score([run for run in self.runs[row] if run.seed in seeds]) for row in (first, second))
        return a, b

    def _shared_seeds(self, first: str, second: str) -> set[int]:
        a, b = ({run.seed for run in self.runs.get(row, [])} for row in (first, second))
        return a & b


def read_board(root: Path, benchmark: str) -> Board:
    """A benchmark's board from its run files under `root`/results; of one that has ended, what has run is what is wanted.

    Of another one, runs whose settings are not their cell's are left out, as the planner does, and a warning names them.
    """
    planned = {cell.id: cell for cell in plan(benchmark)}
    wanted = Counter(cell.method for cell in planned.values())
    runs = read_run_files(root / "results" / "runs" / benchmark)
    if not BENCHMARKS[benchmark].wanted:
        wanted = {row: count for row in wanted if (count := sum(run.method == row for run in runs))}
    else:
        runs = _that_count(runs, planned)
    return Board(benchmark, wanted, [_completed(run, planned.get(run.id)) for run in runs])


def _that_count(runs: Sequence[RunFile], planned: Mapping[str, Cell]) -> list[RunFile]:
    """Those that agree with their cell, and those of no cell."""
    other = [
        run.id
        for run in runs
        if (cell := planned.get(run.id)) and not agree(run.settings, cell.experiment, cell.stage)
    ]
    if other:
        _say_left_out(", ".join(other))
    return [run for run in runs if run.id not in other]


@cache
def _say_left_out(cells: str) -> None:
    """Once for all tables and figures of a process."""
    cause = "their settings are not the plan's: `lwd results run` makes them anew"
    log.warning("runs_left_out cells=%s cause=%r", cells, cause)


def _completed(run: RunFile, cell: Cell | None) -> RunFile:
    """The run file with the options that were added since it was written; as it is where no cell of the plan has made it."""
    if cell is None or cell.stage != run.stage:
        return run
    return replace(run, settings=completed(run.settings, cell.experiment, cell.stage))


def boards(root: Path) -> list[Board]:
    """The benchmarks that belong into the tables."""
    return [read_board(root, name) for name, scope in BENCHMARKS.items() if scope.shown]
