"""A second run that goes on from a finished one: its own folder, the same data."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from lwd.errors import ConfigError

_COPIED = ("keys", "checkpoints", "metrics", "evaluations", "replay", "dataset.json", "episodes.jsonl")
"""Everything else belongs to the first run alone (its timing, its logs), or is empty between runs (the spool)."""


def fork(parent: Path, folder: Path) -> None:
    """Make `folder` a copy of the finished run in `parent`, whole or not at all. Objects are shared as hard links.

    Raises:
        ConfigError: `folder` exists, or `parent` is no run folder.
    """
    if not (parent / "catalogue.db").exists():
        raise ConfigError(
            f"{parent} is no run folder: it has no catalogue.db. Run the cell that makes it first."
        )
    if folder.exists():
        raise ConfigError(
            f"{folder} exists already; a fork begins in a new folder. Delete it to begin again."
        )
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # what a fork that was cut left
    part.mkdir(parents=True)
    _copy_catalogue(parent / "catalogue.db", part / "catalogue.db")
    shutil.copytree(parent / "objects", part / "objects", copy_function=_link)
    for name in _COPIED:
        if (parent / name).is_dir():
            shutil.copytree(parent / name, part / name)
        elif (parent / name).exists():
            shutil.copy2(parent / name, part / name)
    part.rename(folder)


def _copy_catalogue(source: Path, target: Path) -> None:
    """SQLite's own backup: rows that are still in the write-ahead log come along, which a copy of the file would lose."""
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


def _link(source: str, target: str) -> None:
    """Objects never change once they are written, so two runs may share one file. Copied where links are not possible."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
