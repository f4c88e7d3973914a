"""Commands that bring episodes in from other programs' files, and write them out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from lwd.cli.options import StageOptions, Stored, check_limit, command, experiment
from lwd.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LogImport(StageOptions):
    """Import a LeRobot data set (2.0 to 3.0). Goes on where it was cut off; what is there already is kept.

    Attributes:
        dataset: folder of the data set, with data/ and meta/ in it.
        source: what its episodes are; demonstrations are what `lwd train sft` clones.
        outcome: how its episodes ended, where it has no feature next.success.
        state: features that make up the robot's state, in their order.
        action: feature that was commanded.
        low: what -1 of the robot's actions is in the data set's units, one number for all coordinates or one for each.
        high: the same of 1.
        tasks: NAME=SENTENCE for tasks whose sentence in the data set is not the recipe's instruction.
        cameras: NAME=FEATURE for cameras whose feature is not observation.images.NAME.
        robot: name of the robot that these episodes are filed under.
        operator: who demonstrated, or may have intervened.
    """

    dataset: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATASET")]
    source: Literal["demo", "rollout", "play"] = "demo"
    outcome: Literal["success", "failure", "unjudged"] | None = None
    state: tuple[str, ...] = ("observation.state",)
    action: str = "action"
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    tasks: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    robot: str = "lerobot"
    operator: str = "lerobot"

    def run(self) -> None:
        """Run it."""
        from lwd.episode import Outcome, Source
        from lwd.fleet.dataset import print_dataset, write_dataset
        from lwd.fleet.folder import open_services
        from lwd.fleet.importing import import_lerobot
        from lwd.fleet.phases import claim, unclaimed
        from lwd.fleet.services import fleet_description
        from lwd.log.lerobot.convert import Converter, Reading
        from lwd.log.lerobot.layout import open_dataset

        console, chosen = Console(), experiment(self)
        reading = Reading(
            source=Source(self.source),
            outcome=None if self.outcome is None else Outcome(self.outcome),
            robot=self.robot,
            operator=self.operator,
            state=self.state,
            action=self.action,
            low=self.low,
            high=self.high,
            tasks=_pairs("--tasks", self.tasks),
            cameras=_pairs("--cameras", self.cameras),
        )
        converter = Converter(open_dataset(self.dataset), reading, *fleet_description(chosen))
        if unclaimed(self.out):
            claim(self.out, repr(chosen), command(), self.seed)
        with open_services(self.run_folder) as services:
            done = import_lerobot(chosen, services, converter, console)
            print_dataset(console, write_dataset(chosen, services))
        more = f", {done.deleted} were deleted from this log and stay out of it" if done.deleted else ""
        print(
            f"{done.imported} episodes imported, {done.kept} were there{more}, {len(done.problems)} refused"
        )
        for problem in done.problems:
            print(
                f"episode {problem.episode_id} of {self.dataset}: {problem.reason}: {problem.detail}",
                file=sys.stderr,
            )
        if done.problems:
            raise SystemExit(1)


@dataclass(frozen=True, kw_only=True)
class LogExport(Stored):
    """Copy episodes into a folder: as MCAP files with export.json beside them, or as a LeRobot data set.

    Attributes:
        folder: made if missing, and gone on with where an export as mcap was cut off; must be new for lerobot.
        format: mcap copies each episode byte for byte, lerobot writes a data set of format 3.0.
        kind: only this kind of robot's, with lerobot, which needs it where the log holds several.
        manifest: only what this manifest holds.
        task: only this one's.
        source: only this one's.
        limit: at most so many, the oldest first.
    """

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    format: Literal["mcap", "lerobot"] = "mcap"
    kind: str | None = None
    manifest: int | None = None
    task: str | None = None
    source: Literal["demo", "rollout", "play", "online"] | None = None
    limit: int | None = None

    def run(self) -> None:
        """Run it."""
        from lwd.log.export import export
        from lwd.log.lerobot.write import export_lerobot

        check_limit(self.limit)
        if self.kind is not None and self.format != "lerobot":
            raise ConfigError(
                "--kind belongs to --format lerobot; MCAP files of several kinds may share a folder."
            )
        with self.opened() as (catalogue, objects):
            write = export if self.format == "mcap" else partial(export_lerobot, kind=self.kind)
            done = write(
                catalogue,
                objects,
                self.folder,
                manifest=self.manifest,
                task=self.task,
                source=self.source,
                limit=self.limit,
            )
        print(f"{done.episodes} episodes in {self.folder} ({done.kept} were there), {done.size} bytes")
        for problem in done.problems:
            print(f"{problem.episode_id}: {problem.reason}: {problem.detail}", file=sys.stderr)
        if done.problems:
            raise SystemExit(1)


def _pairs(option: str, given: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE, several times."""
    pairs = dict[str, str]()
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name or not value or name in pairs:
            raise ConfigError(f"{option} has {text!r:.200}, expected NAME=VALUE, each name once.")
        pairs[name] = value
    return pairs
