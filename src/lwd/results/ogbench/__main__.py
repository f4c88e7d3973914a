"""`python -m lwd.results.ogbench run | play | table`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import tyro

from lwd.results.ogbench.page import write_page
from lwd.results.ogbench.play import PlaySettings, write_play
from lwd.results.ogbench.run import RunSettings, run_task
from lwd.results.ogbench.runfile import FOLDER

_say = partial(print, flush=True)


@dataclass(frozen=True, kw_only=True)
class RunCommand:
    """Run a task with a seed, or what is left of it.

    Attributes:
        settings: what is run.
        out: folder of play data, checkpoints and the robot's rows; results: of run files.
    """

    settings: tyro.conf.OmitArgPrefixes[RunSettings]
    out: Path = Path("runs/ogbench")
    results: Path = FOLDER

    def run(self) -> None:
        """Run it."""
        run_task(self.settings, self.out, self.results, _say)


@dataclass(frozen=True, kw_only=True)
class PlayCommand:
    """Make play data of our own ahead of the runs.

    Attributes:
        settings: how much, of which domain.
        out: folder of the runs.
    """

    settings: tyro.conf.OmitArgPrefixes[PlaySettings]
    out: Path = Path("runs/ogbench")

    def run(self) -> None:
        """Make it."""
        write_play(self.settings, self.out / "data" / self.settings.file_name, _say)


@dataclass(frozen=True, kw_only=True)
class TableCommand:
    """Write the tables of docs/reference/ogbench.md from the committed run files.

    Attributes:
        root: of the checkout.
    """

    root: Path = field(default_factory=Path)

    def run(self) -> None:
        """Write them."""
        write_page(self.root)


COMMANDS: Mapping[str, type[Any]] = {"run": RunCommand, "play": PlayCommand, "table": TableCommand}


def main() -> None:
    """Parse the command line and run."""
    tyro.extras.subcommand_cli_from_dict(dict(COMMANDS), description=__doc__).run()


if __name__ == "__main__":
    main()
