"""The episode table: one fixed-size sealed row per episode, appended last, so that a torn append is never
visible.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwd.episode import Episode, Outcome, Source
from lwd.replay.returns import OUTCOMES

SOURCES: tuple[Source, ...] = (Source.DEMO, Source.ROLLOUT, Source.PLAY, Source.ONLINE)
"""Sources as the table numbers them."""

Table = NDArray[Any]
"""A structured array of ROW."""

ID_BYTES = 64

ROW = np.dtype(
    [
        ("first", "<i8"),  # row of the step arrays where the episode begins; it takes steps + 1 rows
        ("number", "<i8"),  # the episode's place in the log
        ("manifest", "<i8"),  # the first manifest that contains it
        ("closes", "?"),  # it is the last episode of its manifest
        ("steps", "<i4"),  # T
        ("instruction", "<i4"),  # index into the store's instructions
        ("task", "<i4"),  # index into the fleet's tasks
        ("snapshot", "<i4"),  # number of the policy that drove, -1 without one
        ("human_steps", "<i4"),  # steps that a human commanded
        ("source", "u1"),  # index into SOURCES
        ("outcome", "u1"),  # index into OUTCOMES
        ("stage_score", "<f4"),
        ("seconds", "<f8"),  # from reset to outcome
        ("episode_id", f"S{ID_BYTES}"),
        ("data_crc", "<u4"),  # of the episode's step arrays
        ("row_crc", "<u4"),  # of all bytes before; must stay last
    ]
)


def outcome_code(episode: Episode) -> int:
    """Index into OUTCOMES. Play is a human's exploration of failure modes and always counts as failure (Table
    IV).
    """
    if episode.header.source is Source.PLAY:
        return OUTCOMES.index(Outcome.FAILURE)
    return OUTCOMES.index(episode.verdict.outcome)


def seal(row: Table) -> Table:
    """The row [1] with its checksum filled in."""
    row["row_crc"] = zlib.crc32(row.tobytes()[:-4])
    return row


def read(path: Path) -> Table:
    """The rows of a table file up to the first that is torn; empty if there is no file. O(episodes)."""
    if not path.exists():
        return np.empty(0, ROW)
    data = path.read_bytes()
    rows = np.frombuffer(data[: len(data) // ROW.itemsize * ROW.itemsize], ROW)
    for index, row in enumerate(rows):
        if zlib.crc32(row.tobytes()[:-4]) != int(row["row_crc"]):
            return rows[:index].copy()
    return rows.copy()
