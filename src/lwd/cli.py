"""The command line: nouns, then verbs; `--json` on everything that only reads."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.pretty import pretty_repr
from rich.table import Table

from lwd.errors import ConfigError, LwdError

RUN = Path("runs/demo")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Which experiment, and where it keeps its files.

    Attributes:
        recipe: name of the experiment (`lwd show` lists them).
        seed: of everything random.
        out: run folder.
    """

    recipe: str = "scene"
    seed: int = 0
    out: Path = RUN


@dataclass(frozen=True, kw_only=True)
class Demo(RunOptions):
    """The whole loop: collect, SFT, LWD offline, LWD online, evaluations, report. Goes on where a cut run stopped."""

    def run(self) -> None:
        """Run it."""
        from lwd.evaluate.report import write_report
        from lwd.fleet.demo import Demo as Phases

        console = Console()
        Phases(_experiment(self), _folder(self.out), console, _command()).run()
        report = write_report(self.out)
        console.print(f"\nreport: {report}\nsummary: {self.out / 'summary.json'}")


@dataclass(frozen=True, kw_only=True)
class Collect(RunOptions):
    """Make offline data: demonstrations and play first, rollouts once the SFT policy exists.

    Attributes:
        sources: which sources to make now.
    """

    sources: tuple[Literal["demo", "play", "rollout"], ...] = ("demo", "play")

    def run(self) -> None:
        """Run it."""
        from lwd.episode import Source
        from lwd.fleet.collect import collect
        from lwd.fleet.dataset import print_dataset, write_dataset
        from lwd.fleet.folder import open_services

        console, experiment = Console(), _experiment(self)
        with open_services(_folder(self.out)) as services:
            collect(experiment, services, [Source(name) for name in self.sources], console)
            print_dataset(console, write_dataset(experiment, services))


@dataclass(frozen=True, kw_only=True)
class TrainSft(RunOptions):
    """Clone the demonstrations: the SFT policy, which is the reference of everything after it. Resumes."""

    def run(self) -> None:
        """Run it."""
        from lwd.fleet.folder import open_services
        from lwd.fleet.offline import train_sft

        with open_services(_folder(self.out)) as services:
            snapshot = train_sft(_experiment(self), services, Console())
        print(f"published snapshot {snapshot.number}")


@dataclass(frozen=True, kw_only=True)
class TrainOffline(RunOptions):
    """Offline RL (DIVL and QAM) from the SFT policy on everything collected. Resumes."""

    def run(self) -> None:
        """Run it."""
        from lwd.fleet.folder import open_services
        from lwd.fleet.offline import train_offline

        with open_services(_folder(self.out)) as services:
            snapshot = train_offline(_experiment(self), services, Console())
        print(f"published snapshot {snapshot.number}")


@dataclass(frozen=True, kw_only=True)
class FleetUp(RunOptions):
    """Online RL: coordinator, learner and robots run at the same time until the experience is collected."""

    def run(self) -> None:
        """Run it."""
        from lwd.fleet.online import online

        snapshot = online(_experiment(self), _folder(self.out), Console())
        print(f"newest snapshot {snapshot.number} at learner step {snapshot.learner_step}")


@dataclass(frozen=True, kw_only=True)
class Evaluate(RunOptions):
    """Evaluate the newest policy of a stage on held-out starts.

    Attributes:
        stage: whose newest snapshot.
        json: print the scores as JSON.
    """

    stage: tyro.conf.Positional[Literal["sft", "offline", "online"]]
    json: bool = False

    def run(self) -> None:
        """Run it."""
        from lwd.fleet.demo import run_evaluation
        from lwd.fleet.folder import open_services

        with open_services(_folder(self.out)) as services:
            scores = run_evaluation(_experiment(self), services, self.stage, Console(stderr=self.json))
        if self.json:
            _print_json(asdict(scores))


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
class Read:
    """Options of the commands that only read.

    Attributes:
        out: run folder.
        json: print JSON instead of a table.
    """

    out: Path = RUN
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class LogLs(Read):
    """List episodes, newest last, or with --quarantine what was refused and why.

    Attributes:
        task, source: only these.
        limit: how many of the newest.
        quarantine: list refused episodes instead.
    """

    task: str | None = None
    source: Literal["demo", "rollout", "play", "online"] | None = None
    limit: int = 50
    quarantine: bool = False

    def run(self) -> None:
        """Run it."""
        from lwd.fleet.folder import open_services

        with open_services(_existing(self.out)) as services:
            catalogue = services.catalogue
            if self.quarantine:
                rows = [asdict(row) for row in catalogue.quarantined()]
                columns = ["episode_id", "reason", "detail", "robot"]
            else:
                rows = [asdict(row) for row in catalogue.episodes(task=self.task, source=self.source)]
                columns = ["seq", "episode_id", "task", "source", "snapshot", "outcome", "stage_score", "steps",
                           "intervention_steps"]  # fmt: skip
        _print_rows(rows[-self.limit :], columns, self.json)


@dataclass(frozen=True, kw_only=True)
class LogShow(Read):
    """Everything the catalogue knows of one episode, and whether its file is intact.

    Attributes:
        episode_id: id of the episode; the first characters are enough if they are unique.
    """

    episode_id: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="EPISODE-ID")]

    def run(self) -> None:
        """Run it."""
        from lwd.fleet.folder import open_services
        from lwd.log.codec import decode

        with open_services(_existing(self.out)) as services:
            rows = [r for r in services.catalogue.episodes() if r.episode_id.startswith(self.episode_id)]
            if not rows:
                raise LwdError(f"no episode begins with {self.episode_id!r}; `lwd log ls` lists them.")
            if len(rows) > 1:
                some = ", ".join(row.episode_id for row in rows[:3])
                raise LwdError(
                    f"{len(rows)} episodes begin with {self.episode_id!r} ({some}, ...); give more characters."
                )
            episode = decode(services.objects.get(rows[0].key))
        facts: dict[str, Any] = asdict(rows[0]) | {
            "proprio": list(episode.proprio.shape),
            "actions": list(episode.actions.shape),
            "cameras": sorted(episode.images),
        }
        _print_facts(facts, self.json)


@dataclass(frozen=True, kw_only=True)
class LogVerify(Read):
    """Read every catalogued episode again: its hash, its format, its fields. Exit code 1 if one is damaged."""

    def run(self) -> None:
        """Run it."""
        from lwd.fleet.folder import open_services
        from lwd.log.verify import verify

        with open_services(_existing(self.out)) as services:
            found = verify(services.catalogue, services.objects)
        _print_facts(asdict(found), self.json)
        if found.problems:
            raise SystemExit(1)


@dataclass(frozen=True, kw_only=True)
class LogMigrate:
    """Bring a catalogue of an older version up to this program's. A SQLite file is copied first.

    Attributes:
        catalogue: path or URL of the catalogue, for example runs/demo/catalogue.db.
    """

    catalogue: str

    def run(self) -> None:
        """Run it."""
        from lwd.log.migrations import migrate

        done = migrate(self.catalogue)
        copy = f"; the copy from before is {done.backup}" if done.backup else ""
        print(f"schema version {done.before} -> {done.after}{copy}")


@dataclass(frozen=True, kw_only=True)
class SnapshotLs(Read):
    """List published policies, newest last.

    Attributes:
        limit: how many of the newest.
    """

    limit: int = 50

    def run(self) -> None:
        """Run it."""
        from lwd.fleet.folder import open_services

        with open_services(_existing(self.out)) as services:
            rows = [
                asdict(s) | {"stage": s.meta.get("stage"), "sha256": s.sha256[:12]}
                for s in services.snapshots.list()
            ]
        columns = ["number", "stage", "parent", "learner_step", "manifest", "sha256", "size", "status"]
        _print_rows(rows[-self.limit :], columns, self.json)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Options of the commands that work on the evidence.

    Attributes:
        benchmark: recipe that the methods are compared on.
        only: shell pattern; only cells whose id, or a part of it, matches.
        out: run folders of the cells.
        results: run files, and the tables made from them.
        jobs: cells at a time.
    """

    benchmark: str = "scene_evidence"
    only: str = "*"
    out: Path = Path("runs/results")
    results: Path = Path("results")
    jobs: int = 2


@dataclass(frozen=True, kw_only=True)
class ResultsRun(Evidence):
    """Run the missing cells of the evidence (a method at a stage with a seed), each on its own core. Resumes."""

    def run(self) -> None:
        """Run it."""
        from lwd.results.plan import Places, chosen, plan
        from lwd.results.runner import Runner
        from lwd.results.state import to_run

        planned = plan(self.benchmark)
        places = Places(self.out.absolute(), self.results.absolute())
        todo = to_run(planned, chosen(planned, self.only), places)
        console = Console()
        console.print(f"{len(todo)} cells to run, {self.jobs} at a time", highlight=False)
        progress = Runner(todo, planned, places, self.jobs).run(console)
        if progress.failed or progress.waiting:
            raise LwdError(
                f"{len(progress.failed)} cells failed, {len(progress.waiting)} could not start. Their logs are beside "
                f"their folders in {self.out}; the same command tries again."
            )


@dataclass(frozen=True, kw_only=True)
class ResultsStatus(Evidence):
    """Show which cells of the evidence are done, run, were cut or are missing, and the time left.

    Attributes:
        json: print JSON instead of a table.
    """

    json: bool = False

    def run(self) -> None:
        """Run it."""
        from lwd.results.plan import Places, chosen, plan
        from lwd.results.state import states
        from lwd.results.status import print_status, status_json

        found = states(chosen(plan(self.benchmark), self.only), Places(self.out, self.results))
        if self.json:
            _print_json(status_json(found))
        else:
            print_status(Console(), found, self.jobs)


@dataclass(frozen=True, kw_only=True)
class Checkout:
    """Options of the commands that write committed pages and pictures.

    Attributes:
        root: of the checkout.
    """

    root: Path = Path()


@dataclass(frozen=True, kw_only=True)
class ResultsTable(Checkout):
    """Write results/summary.json, docs/reference/results.md and the README's table from the committed run files."""

    def run(self) -> None:
        """Run it."""
        from lwd.results.pages import write_pages

        for path in write_pages(self.root):
            print(f"wrote {path}")


@dataclass(frozen=True, kw_only=True)
class ResultsFigures(Checkout):
    """Redraw the paper's figures 5, 6, 8 and 9 from the committed run files.

    Attributes:
        png: PNG instead of SVG.
    """

    png: bool = False

    def run(self) -> None:
        """Run it."""
        from lwd.results.figures import write_figures

        for path in write_figures(self.root, "png" if self.png else "svg"):
            print(f"wrote {path}")


@dataclass(frozen=True, kw_only=True)
class Show(RunOptions):
    """Print a recipe, whole."""

    def run(self) -> None:
        """Run it."""
        Console().print(pretty_repr(_experiment(self)))


COMMANDS: Mapping[str, type[Any]] = {
    "demo": Demo,
    "collect": Collect,
    "train sft": TrainSft,
    "train offline": TrainOffline,
    "fleet up": FleetUp,
    "evaluate": Evaluate,
    "report": Report,
    "log ls": LogLs,
    "log show": LogShow,
    "log verify": LogVerify,
    "log migrate": LogMigrate,
    "snapshot ls": SnapshotLs,
    "results run": ResultsRun,
    "results status": ResultsStatus,
    "results table": ResultsTable,
    "results figures": ResultsFigures,
    "show": Show,
}


def parse(arguments: Sequence[str]) -> Any:
    """The command that these arguments name, ready to run; prints help and exits where they name none."""
    commands, program, rest = COMMANDS, "lwd", list(arguments)
    group = rest[0] if rest else ""
    if any(name.startswith(f"{group} ") for name in COMMANDS):
        commands = {name.split()[1]: made for name, made in COMMANDS.items() if name.startswith(f"{group} ")}
        program, rest = f"lwd {group}", rest[1:]
    return tyro.extras.subcommand_cli_from_dict(
        dict(commands),
        prog=program,
        description="Robots that learn while they are deployed. Every command works on a run folder, --out.",
        args=rest,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )


def main() -> None:
    """Entry point of `lwd`."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    try:
        parse(sys.argv[1:]).run()
    except LwdError as error:
        print(f"lwd: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("lwd: stopped; run the same command again to go on.", file=sys.stderr)
        raise SystemExit(130) from None


def _experiment(options: RunOptions) -> Any:
    from lwd.recipes import recipe

    return recipe(options.recipe, options.seed)


def _folder(path: Path) -> Any:
    from lwd.fleet.folder import RunFolder

    return RunFolder(path.absolute())


def _existing(path: Path) -> Any:
    if not (path / "catalogue.db").exists():
        raise ConfigError(f"{path} is no run folder: it has no catalogue.db. Name one with --out.")
    return _folder(path)


def _command() -> str:
    return " ".join(["lwd", *sys.argv[1:]])


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str))


def _print_rows(rows: list[dict[str, Any]], columns: list[str], as_json: bool) -> None:
    if as_json:
        _print_json(rows)
        return
    table = Table(*columns)
    for row in rows:
        table.add_row(*("" if row[name] is None else str(row[name]) for name in columns))
    Console().print(table)


def _print_facts(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(facts)
        return
    for name, value in facts.items():
        print(f"{name:<20} {value}")


if __name__ == "__main__":
    main()
