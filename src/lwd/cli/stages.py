"""Commands of the loop, stage by stage: collect, train, evaluate, report."""

from __future__ import annotations

import inspect
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console
from rich.pretty import pretty_repr

from lwd.cli.job import JobOptions, joined, watch
from lwd.cli.options import (
    RUN,
    RunOptions,
    StageOptions,
    command,
    experiment,
    folder,
    log_to_stderr,
    print_json,
)


@dataclass(frozen=True, kw_only=True)
class Demo(RunOptions):
    """The whole loop: collect, SFT, LWD offline, LWD online, evaluations, report. Goes on where a cut run stopped."""

    def run(self) -> None:
        """Run it."""
        from lwd.evaluate.report import write_report
        from lwd.fleet.demo import Demo as Phases

        console = Console()
        Phases(experiment(self), folder(self.out), console, command()).run()
        report = write_report(self.out)
        console.print(f"\nreport: {report}\nsummary: {self.out / 'summary.json'}", markup=False)


@dataclass(frozen=True, kw_only=True)
class Collect(StageOptions):
    """Make offline data: demonstrations and play first, rollouts once the SFT policy exists.

    Attributes:
        sources: which sources to make now.
    """

    sources: tuple[Literal["demo", "play", "rollout"], ...] = ("demo", "play")

    def run(self) -> None:
        """Run it."""
        from lwd.episode import Source
        from lwd.fleet.collect import check_operators, collect
        from lwd.fleet.dataset import print_dataset, write_dataset
        from lwd.fleet.folder import open_services
        from lwd.fleet.phases import claim, unclaimed

        console, chosen, sources = Console(), experiment(self), [Source(name) for name in self.sources]
        check_operators(chosen, sources)
        if unclaimed(self.out):
            claim(self.out, repr(chosen), command(), self.seed)
        with open_services(self.run_folder) as services:
            collect(chosen, services, sources, console)
            print_dataset(console, write_dataset(chosen, services))


@dataclass(frozen=True, kw_only=True)
class TrainSft(JobOptions, StageOptions):
    """Clone the demonstrations: the SFT policy, which is the reference of everything after it. Resumes."""

    def run(self) -> None:
        """Run it, or watch over the processes that do."""
        _train(self, "sft")


@dataclass(frozen=True, kw_only=True)
class TrainOffline(JobOptions, StageOptions):
    """Offline RL (DIVL and QAM) from the SFT policy on everything collected. Resumes."""

    def run(self) -> None:
        """Run it, or watch over the processes that do."""
        _train(self, "offline")


@dataclass(frozen=True, kw_only=True)
class TrainConsolidated(JobOptions, StageOptions):
    """Learn once more after the online stage, on everything recorded, as the recipe's `consolidated` says. Resumes."""

    def run(self) -> None:
        """Run it, or watch over the processes that do."""
        _train(self, "consolidated")


def _train(
    options: TrainSft | TrainOffline | TrainConsolidated, stage: Literal["sft", "offline", "consolidated"]
) -> None:
    """All of a stage, as one process or as one of several."""
    from lwd.fleet.folder import no_demonstrations

    chosen = experiment(options)
    if stage != "sft":
        options.check_catalogue()
    elif options.catalogue is None and not (options.out / "catalogue.db").exists():
        raise no_demonstrations(options.out)
    if options.is_watched:
        print(f"{options.processes} processes train; their logs are in {options.out / 'logs'}")
        code = watch(options, options.out)
        if code:
            print("lwd: stopped; run the same command again to go on.", file=sys.stderr)
            raise SystemExit(code)
        return
    if options.heartbeat is not None:
        from lwd.fleet.supervisor import end_with_parent

        log_to_stderr()
        end_with_parent()  # what was learned since the last checkpoint is learned again
    with joined(options) as team:
        from lwd.fleet import offline
        from lwd.fleet.folder import open_services

        train = {
            "sft": offline.train_sft,
            "offline": offline.train_offline,
            "consolidated": offline.train_consolidated,
        }[stage]
        with open_services(options.run_folder) as services:
            snapshot = train(chosen, services, Console(), team)
    if snapshot is not None:
        print(f"published snapshot {snapshot.number}")


@dataclass(frozen=True, kw_only=True)
class Evaluate(StageOptions):
    """Evaluate the newest policy of a stage on held-out starts.

    Attributes:
        stage: whose newest snapshot.
        json: print the scores as JSON.
    """

    stage: tyro.conf.Positional[Literal["sft", "offline", "online", "consolidated"]]
    json: bool = False

    def run(self) -> None:
        """Run it."""
        from lwd.fleet.demo import run_evaluation
        from lwd.fleet.folder import open_services

        chosen = experiment(self)
        self.check_catalogue()
        with open_services(self.run_folder) as services:
            scores = run_evaluation(chosen, services, self.stage, Console(stderr=self.json))
        if self.json:
            print_json(asdict(scores))


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write report.html from what a run folder holds.

    Attributes:
        out: run folder.
    """

    out: Path = RUN

    def run(self) -> None:
        """Run it."""
        from lwd.evaluate.report import write_report

        print(write_report(self.out))


@dataclass(frozen=True, kw_only=True)
class Show:
    """List the recipes, or print one whole.

    Attributes:
        recipe: name of the one to print, or package.module:function; without it all are listed.
        seed: seed of everything random.
    """

    recipe: str | None = None
    seed: int = 0

    def run(self) -> None:
        """Run it."""
        from lwd.recipes import RECIPES, recipe

        if self.recipe is not None:
            Console().print(pretty_repr(recipe(self.recipe, self.seed)), markup=False)
            return
        for name, make in RECIPES.items():
            print(f"{name:<28} {inspect.getdoc(make) or ''}".splitlines()[0].rstrip())
