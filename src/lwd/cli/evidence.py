"""Commands of the evidence: run its cells, show what is done, write tables and figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from lwd.cli.options import print_json
from lwd.errors import LwdError


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
class ResultsTogether(Evidence):
    """Train the missing offline stages, all seeds of a row at once on one GPU; `lwd results run` then ends their cells."""

    def run(self) -> None:
        """Run it."""
        from lwd.results.plan import Places, chosen, plan
        from lwd.results.together import train_rows_together

        planned = plan(self.benchmark)
        places = Places(self.out.absolute(), self.results.absolute())
        for row in train_rows_together(planned, chosen(planned, self.only), places, Console()):
            print(f"trained {row}; `lwd results run` ends its cells")


@dataclass(frozen=True, kw_only=True)
class ResultsStatus(Evidence):
    """Show which cells of the evidence are done, run, were cut or are missing, and the time left.

    Attributes:
        json: print JSON instead of a table.
    """

    json: bool = False

    def run(self) -> None:
        """Run it."""
        from lwd.results.plan import BENCHMARKS, Places, chosen, plan
        from lwd.results.state import states
        from lwd.results.status import print_status, status_json

        found = states(chosen(plan(self.benchmark), self.only), Places(self.out, self.results))
        if self.json:
            print_json(status_json(found))
        else:
            print_status(Console(), found, self.jobs)
            if not BENCHMARKS[self.benchmark].wanted:
                print(
                    f"{self.benchmark} has ended: its tables want no more, lwd results run adds them all the same."
                )


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
