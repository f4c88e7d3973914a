"""What commands share: options, and how they print."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lwd.errors import ConfigError, LwdError

if TYPE_CHECKING:
    from lwd.cli.services import Service
    from lwd.config import Experiment
    from lwd.fleet.folder import RunFolder
    from lwd.log.catalogue import Catalogue, EpisodeRow
    from lwd.log.objects import ObjectStore

RUN = Path("runs/demo")
_BEGINNING = re.compile(r"[A-Za-z0-9_-]{0,64}")
"""Of an episode's id."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Which experiment, and where it keeps its files.

    Attributes:
        recipe: name of the experiment (`lwd show` lists them), or package.module:function, a function of the seed that returns
            a lwd.config.Experiment.
        seed: seed of everything random.
        out: run folder.
    """

    recipe: str = "scene"
    seed: int = 0
    out: Path = RUN


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Where the log is: a run folder, or a fleet's servers.

    Attributes:
        out: run folder.
        catalogue: postgresql://user@host/database, or a path, in place of the run folder's own.
        objects: s3://bucket/prefix?endpoint=http://host:port, or a folder, in place of the run folder's own.
    """

    out: Path = RUN
    catalogue: str | None = None
    objects: str | None = None

    @property
    def run_folder(self) -> RunFolder:
        """Where all of it is."""
        return folder(self.out, self.catalogue, self.objects)

    @contextmanager
    def opened(self) -> Generator[tuple[Catalogue, ObjectStore]]:
        """Catalogue and objects; ConfigError if there is no log."""
        from lwd.fleet.folder import check_objects
        from lwd.log.objects import ObjectStore

        with self.opened_catalogue() as catalogue:
            objects = self.run_folder.objects
            if self.catalogue is not None or self.objects is not None:
                check_objects(objects)  # those of a run folder of its own may not be there yet
            yield catalogue, ObjectStore(objects)

    @contextmanager
    def opened_catalogue(self) -> Generator[Catalogue]:
        """The catalogue alone, whatever became of the objects; ConfigError if there is none."""
        from lwd.log.catalogue import Catalogue

        self.check_catalogue()
        with Catalogue(self.run_folder.catalogue) as catalogue:
            yield catalogue

    def check_catalogue(self) -> None:
        """ConfigError if there is no catalogue; says nothing of a server's."""
        from lwd.fleet.folder import check_catalogue

        if self.catalogue is None:
            existing(self.out)
        check_catalogue(self.run_folder.catalogue)


@dataclass(frozen=True, kw_only=True)
class StageOptions(RunOptions, Stored):
    """A stage's experiment, and where its log is."""


@dataclass(frozen=True, kw_only=True)
class Read(Stored):
    """Options of the commands that only read.

    Attributes:
        json: print JSON instead of a table.
    """

    json: bool = False


def experiment(options: RunOptions | Service) -> Experiment:
    """The recipe that the options name; ConfigError if the run folder holds a run that it does not go on with."""
    from lwd.fleet.phases import check_goes_on
    from lwd.recipes import recipe

    made = recipe(options.recipe, options.seed)
    check_goes_on(options.out, made)
    return made


def folder(path: Path, catalogue: str | None = None, objects: str | None = None) -> RunFolder:
    """A run folder, absolute."""
    from lwd.fleet.folder import RunFolder

    return RunFolder(path.absolute(), catalogue, objects)


def existing(path: Path) -> RunFolder:
    """A run folder that is there; ConfigError otherwise."""
    if not (path / "catalogue.db").exists():
        raise ConfigError(f"{path} is no run folder: it has no catalogue.db. Name one with --out.")
    return folder(path)


def check_limit(limit: int | None) -> None:
    """ConfigError if fewer than no rows are asked for."""
    if limit is not None and limit < 0:
        raise ConfigError(f"--limit is {limit}; expected 0 or more.")


def command() -> str:
    """What the user typed."""
    return " ".join(["lwd", *sys.argv[1:]])


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=2, default=str))


def print_rows(rows: list[dict[str, Any]], columns: list[str], as_json: bool) -> None:
    """Print rows as a table, or all of them as JSON."""
    if as_json:
        print_json(rows)
        return
    table = Table(*columns)
    for row in rows:
        # As Text: robots wrote some of it, and "[" would begin rich's markup.
        table.add_row(*(Text(_shown(row[name])) for name in columns))
    Console().print(table)


def print_facts(facts: dict[str, Any], as_json: bool) -> None:
    """Print names and values, one per line, or as JSON."""
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        print(f"{name:<20} {_shown(value) or 'none'}")


def _shown(value: object) -> str:
    """A value for people: nothing for nothing, two decimals."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(one)}" for name, one in cast(Mapping[str, object], value).items())
    if isinstance(value, list | tuple):
        several = cast(Sequence[object], value)
        between = "; " if any(isinstance(one, Mapping) for one in several) else ", "
        return between.join(map(_shown, several))
    return str(value)


def find_episode(catalogue: Catalogue, beginning: str) -> EpisodeRow:
    """The one episode whose id begins so; LwdError if there is none, or more than one."""
    name = find_id(catalogue, beginning)
    row = catalogue.episode(name)
    if row is None:
        raise LwdError(f"episode {name} was deleted just now.")
    return row


def find_id(catalogue: Catalogue, beginning: str, *, deleted: bool = False) -> str:
    """The one episode whose id is this or begins so, of those that were deleted too if asked.

    Raises:
        LwdError: there is none, or more than one.
    """
    # Nothing else is in an id, and not every database takes every text.
    found = catalogue.ids(beginning, 4, deleted=deleted) if _BEGINNING.fullmatch(beginning) else []
    if not found:
        raise LwdError(f"no episode begins with {beginning!r}; `lwd log ls` lists them.")
    if len(found) > 1 and found[0] != beginning:
        some = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
        raise LwdError(f"several episodes begin with {beginning!r} ({some}); give more characters.")
    return found[0]


def log_to_stderr() -> None:
    """One line per event, for a log file or the journal."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(name)s %(levelname)s %(message)s",
        force=True,
    )
