"""Export: episodes as files in a folder, with one list of what they are. Can be cut off and run again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lwd.errors import StoreError
from lwd.log.catalogue import Catalogue, EpisodeRow
from lwd.log.manifest import read
from lwd.log.objects import MissingObjectError, ObjectSource, TooLargeError
from lwd.log.verify import Problem

log = logging.getLogger(__name__)

EXPORT_VERSION = 1
LIST = "export.json"


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """How many episodes are in the folder, how many of them were there already, their bytes, and what is not there."""

    episodes: int
    kept: int
    size: int
    problems: tuple[Problem, ...]


def export(
    catalogue: Catalogue,
    objects: ObjectSource,
    folder: Path,
    *,
    manifest: int | None = None,
    task: str | None = None,
    source: str | None = None,
    limit: int | None = None,
) -> ExportReport:
    """Write `<folder>/<episode id>.mcap` for each episode, then `<folder>/export.json` with their rows.

    Every file is whole, has the catalogued hash and appears at once. What is there already with the right hash is kept, so
    a second run goes on where the first was cut off. The list is written last: without it the export is not complete.

    Args:
        catalogue: the fleet's.
        objects: holds the episodes.
        folder: made if missing.
        manifest: only what this manifest holds; else all that is catalogued.
        task: only this one.
        source: only this one.
        limit: at most so many, in the catalogue's order.

    Raises:
        StoreError: no such manifest, the store or the catalogue cannot be reached, or the folder cannot be written.
    """
    rows = chosen(catalogue, manifest=manifest, task=task, source=source, limit=limit)
    kept, problems, whole = 0, list[Problem](), list[EpisodeRow]()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for row in rows:
            path = folder / f"{row.episode_id}.mcap"
            if _same(path, row):
                kept += 1
            elif (problem := _write(path, objects, row)) is not None:
                problems.append(problem)
                continue
            whole.append(row)
        _write_list(folder, whole, manifest)
    except OSError as error:
        raise StoreError(
            f"export: {str(folder)!r} cannot be written: {error.strerror or error}. Make room and run it again; it goes on."
        ) from error
    size = sum(row.size for row in whole)
    log.info("log_exported episodes=%d kept=%d bytes=%d problems=%d", len(whole), kept, size, len(problems))
    return ExportReport(episodes=len(whole), kept=kept, size=size, problems=tuple(problems))


def chosen(
    catalogue: Catalogue,
    *,
    manifest: int | None = None,
    task: str | None = None,
    source: str | None = None,
    limit: int | None = None,
) -> list[EpisodeRow]:
    """The rows that an export is asked for, as in `export`; StoreError if there is no such manifest."""
    upto = None if manifest is None else read(catalogue, manifest).upto_seq
    return catalogue.episodes(upto_seq=upto, task=task, source=source, limit=limit)


def fetch(objects: ObjectSource, row: EpisodeRow) -> bytes | Problem:
    """One episode's bytes, or what is wrong with them if they are not as catalogued. StoreError if nobody answers."""
    try:
        data = objects.get(row.key, row.size)
    except MissingObjectError as error:
        return Problem(episode_id=row.episode_id, key=row.key, reason="missing", detail=str(error))
    except TooLargeError as error:
        return Problem(episode_id=row.episode_id, key=row.key, reason="hash", detail=str(error))
    digest = hashlib.sha256(data).hexdigest()
    if digest != row.sha256:
        detail = f"sha256 {digest}, catalogued was {row.sha256}."
        return Problem(episode_id=row.episode_id, key=row.key, reason="hash", detail=detail)
    return data


def _same(path: Path, row: EpisodeRow) -> bool:
    if not path.is_file() or path.stat().st_size != row.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == row.sha256


def _write(path: Path, objects: ObjectSource, row: EpisodeRow) -> Problem | None:
    data = fetch(objects, row)
    if isinstance(data, Problem):
        return data
    _replace(path, data)
    return None


def _write_list(folder: Path, rows: Sequence[EpisodeRow], manifest: int | None) -> None:
    content = {
        "version": EXPORT_VERSION,
        "manifest": manifest,
        "episodes": [{**asdict(row), "file": f"{row.episode_id}.mcap"} for row in rows],
    }
    _replace(folder / LIST, json.dumps(content, indent=1).encode())


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
