"""Whose a replay folder is: one process at a time, one robot kind, one list of tasks."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lwd.errors import StoreError
from lwd.replay.images import PICTURES_FORMAT
from lwd.spec import RobotSpec, TaskSpec

FORMAT = 2
"""Version of the folder's layout; another version is refused, and the folder rebuilt from the log."""


def folder_lock(folder: Path) -> int:
    """Hold the folder for this process until the returned file descriptor closes; StoreError if another holds
    it.
    """
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise StoreError(
            f"{folder} is in use by another replay; give each process its own folder."
        ) from error
    return fd


def check_meta(folder: Path, spec: RobotSpec, tasks: Sequence[TaskSpec]) -> None:
    """Refuse a folder of another format, robot kind or task order; note a new or longer task list."""
    path, names = folder / "meta.json", [task.name for task in tasks]
    meta: dict[str, Any] = {"format": FORMAT, "spec": json.loads(json.dumps(asdict(spec))), "tasks": names}
    if spec.cameras:
        meta["pictures"] = PICTURES_FORMAT
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else meta
    same = all(found.get(key) == meta.get(key) for key in ("format", "spec", "pictures"))
    if not same or names[: len(found["tasks"])] != found["tasks"]:
        raise StoreError(
            f"{folder} was written for format {found['format']}, robot {found['spec']} and tasks "
            f"{found['tasks']}, not for {meta}. Use another folder, or delete this one; it is rebuilt from "
            "the log."
        )
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(meta))
    scratch.replace(path)
