"""What the fleet starts from: demonstrations, a clone, rollouts, an offline policy. Made in the embedded mode, then moved."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from lwd.fleet.folder import RunFolder
from lwd.log.backup import backup, restore
from lwd.log.catalogue import Catalogue
from lwd.log.objects import ObjectStore

DONE = "prepared"


def prepare(folder: Path) -> None:
    """The stages before the deployment, in a run folder without any server; nothing to do where that was done before."""
    from rich.console import Console

    from benchmarks.chaos.recipe import experiment
    from lwd.episode import Source
    from lwd.fleet.collect import collect
    from lwd.fleet.folder import open_services
    from lwd.fleet.offline import train_offline, train_sft

    if (folder / DONE).exists():
        return
    x, quiet = experiment(), Console(quiet=True)
    with open_services(RunFolder(folder)) as services:
        collect(x, services, (Source.DEMO, Source.PLAY), quiet)
        train_sft(x, services, quiet)
        collect(x, services, (Source.ROLLOUT,), quiet)
        train_offline(x, services, quiet)
    (folder / DONE).touch()


def move(source: Path, run: RunFolder) -> None:
    """A copy of an embedded run, with its catalogue and its objects in a fleet's engines.

    Args:
        source: folder of the embedded run.
        run: where to; its catalogue and its objects are empty.
    """
    shutil.copytree(
        source, run.path, ignore=shutil.ignore_patterns("catalogue.db*", "objects", "replay", "jax")
    )
    saved = run.path / "catalogue.backup"
    with Catalogue(source / "catalogue.db") as catalogue:
        backup(catalogue, saved)
    restore(saved, run.catalogue)
    objects, held = ObjectStore(run.objects), source / "objects"
    for path in sorted(held.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            objects.put_once(path.relative_to(held).as_posix(), path.read_bytes())


if __name__ == "__main__":
    prepare(Path(sys.argv[1]))
