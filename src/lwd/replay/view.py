"""What a sampler may see: the replay frozen at one manifest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lwd.episode import Source
from lwd.replay.returns import OUTCOMES
from lwd.replay.store import STEP_HUMAN, Columns
from lwd.replay.table import SOURCES, Table
from lwd.spec import RobotSpec, TaskSpec

Embed = Callable[[str], NDArray[np.float32]]
"""Instruction text -> vector float32 [E]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """The first episodes of a store, as many as one manifest contains. Nothing in it changes when the store
    grows.

    Attributes:
        manifest: number of the manifest.
        spec: the robot kind.
        tasks: the fleet's tasks.
        gamma: discount per control step.
        takeover_fails: whether a takeover ends a return as a failure (`returns.window`).
        episodes: rows of `table.ROW`.
        columns: the step arrays.
        instructions: float32 [I, E], the embedded sentences that the table's `instruction` points into.
        pictures: decodes the pictures at places [..., 2] of `Columns.pictures`, to uint8 [..., h, w, 3] per
            camera.
        sentences: the instructions themselves, in the same order; only prompts are made of them.
    """

    manifest: int
    spec: RobotSpec
    tasks: tuple[TaskSpec, ...]
    gamma: float
    takeover_fails: bool
    episodes: Table
    columns: Columns
    instructions: NDArray[np.float32]
    pictures: Callable[[NDArray[np.int64]], dict[str, NDArray[np.uint8]]]
    sentences: Sequence[str] = ()

    @property
    def steps(self) -> int:
        """Control steps, which is the number of transitions."""
        return int(self.episodes["steps"].sum())

    def steps_from(self, source: Source) -> int:
        """Control steps of the episodes from one source."""
        return int(self.episodes["steps"][self.episodes["source"] == SOURCES.index(source)].sum())

    def human_spans(self, episode: int) -> list[tuple[int, int]]:
        """The interventions of an episode: (first control step, length) of each run of steps that a human
        commanded.
        """
        row = self.episodes[episode]
        flags = self.columns.flags[int(row["first"]) : int(row["first"]) + int(row["steps"])] & STEP_HUMAN
        edges = np.flatnonzero(np.diff(np.concatenate(([0], flags, [0])).astype(np.int8)))
        return [(int(start), int(stop - start)) for start, stop in edges.reshape(-1, 2)]


@dataclass(frozen=True, kw_only=True)
class SummaryRow:
    """One line of the collection table.

    Attributes:
        task: the task's name.
        source: demo, rollout, play or online.
        episodes: how many.
        hours: recorded, from reset to outcome.
        success: share of episodes judged a success.
        failure_hours: share of the hours in episodes that failed.
        human: share of control steps that a human commanded.
    """

    task: str
    source: str
    episodes: int
    hours: float
    success: float
    failure_hours: float
    human: float


def summary(view: View) -> list[SummaryRow]:
    """Per task and source, in the fleet's order of tasks and Table IV's order of sources; cells without
    episodes are left out.

    Paper: Table IV.
    """
    rows: list[SummaryRow] = []
    outcomes = np.array([str(outcome) for outcome in OUTCOMES])
    for task_index, task in enumerate(view.tasks):
        for source_index, source in enumerate(SOURCES):
            cell = view.episodes[
                (view.episodes["task"] == task_index) & (view.episodes["source"] == source_index)
            ]
            if not len(cell):
                continue
            outcome, seconds = outcomes[cell["outcome"]], cell["seconds"]
            total = float(seconds.sum())
            rows.append(
                SummaryRow(
                    task=task.name,
                    source=str(source),
                    episodes=len(cell),
                    hours=total / 3600,
                    success=float(np.mean(outcome == "success")),
                    failure_hours=float(seconds[outcome == "failure"].sum()) / total if total else 0.0,
                    human=float(cell["human_steps"].sum() / cell["steps"].sum()),
                )
            )
    return rows


def embed_all(instructions: Sequence[str], embed: Embed) -> NDArray[np.float32]:
    """The vectors of all sentences, float32 [I, E]; [0, 0] without any."""
    if not instructions:
        return np.empty((0, 0), np.float32)
    return np.stack([np.asarray(embed(sentence), np.float32) for sentence in instructions])
