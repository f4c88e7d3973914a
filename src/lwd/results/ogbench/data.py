"""OGBench's data as rows, and batches of chunks drawn from them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ogbench.relabel_utils import relabel_dataset

from lwd.errors import ConfigError
from lwd.results.ogbench.tasks import CHUNK_STEPS, GAMMA, Domain, Task
from lwd.transition import Observation, Transition

Floats = NDArray[np.float32]
LARGEST_ACTION = 1.0 - 1e-5
"""As in the public QAM: recorded actions stay off the edge of the box."""
_NEEDED = ("observations", "actions", "terminals", "qpos")


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A file's rows with a task's rewards.

    Attributes:
        origin: what it is, in words: "own play of N transitions", or the file and its fingerprint.
        transitions: rows that have a successor.
    """

    observation: Floats
    action: Floats
    reward: Floats
    mask: Floats
    last: NDArray[np.bool_]
    origin: str

    @property
    def transitions(self) -> int:
        """Rows that have a successor."""
        return int((~self.last).sum())


def load(path: Path, task: Task, env: Any) -> DataSet:
    """Read a file of the published form and reward it for this task; own play and downloaded files alike.

    Raises:
        ConfigError: the file lacks an array, or is of another domain.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if name not in ("qvel", "note")}
            note = json.loads(str(file["note"])) if "note" in file.files else None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no OGBench data set: {error}") from error
    missing = [name for name in _NEEDED if name not in arrays]
    if missing:
        raise ConfigError(f"{path} lacks {', '.join(missing)}. Expected the form of OGBench's own npz files.")
    width = env.observation_space.shape[0]
    if arrays["observations"].shape[1] != width:
        raise ConfigError(
            f"{path} has observations of {arrays['observations'].shape[1]} numbers, {task.environment} has {width}: "
            "it is of another domain."
        )
    relabel_dataset(task.environment, env, arrays)  # at s_t, as success_timing "pre" has it
    last = arrays["terminals"].astype(bool)
    transitions = int((~last).sum())
    origin = (
        f"own play of {transitions} transitions, {note['episodes']} episodes, seed {note['seed']}"
        if note
        else f"{path.name} of {transitions} transitions, sha256 {_fingerprint(path)}"
    )
    return DataSet(
        observation=arrays["observations"].astype(np.float32),
        action=np.clip(arrays["actions"], -LARGEST_ACTION, LARGEST_ACTION).astype(np.float32),
        reward=reward(arrays["rewards"], task.domain),
        mask=arrays["masks"].astype(np.float32),
        last=last,
        origin=origin,
    )


def reward(counted: Any, domain: Domain) -> Any:
    """OGBench's reward, minus the number of parts that are not as wanted; -1 for any number in a sparse domain."""
    found = np.asarray(counted, np.float32)
    return np.where(found < 0.0, -1.0, 0.0).astype(np.float32) if domain.sparse else found


def _fingerprint(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:12]


class Rows:
    """Rows of a data set, and after them those of the robot's own episodes; chunks are drawn from all alike.

    Every episode ends with a row of its last state, which is only ever led to. A chunk that would cross an episode's end is
    drawn too, and marked not valid: losses of chunks leave it out, those of states keep it, as in the public QAM.
    """

    def __init__(self, data: DataSet, room: int = 0) -> None:
        """`room`: rows that can be added."""
        self._given = self.size = len(data.last)
        self._columns: dict[str, NDArray[Any]] = {
            name: np.concatenate([column, np.zeros((room, *column.shape[1:]), column.dtype)])
            for name in ("observation", "action", "reward", "mask", "last")
            for column in (getattr(data, name),)
        }

    def add(self, observation: Any, action: Any, reward: float, mask: float, last: bool) -> None:
        """One row.

        Raises:
            ConfigError: there is no room for it.
        """
        if self.size >= len(self._columns["last"]):
            raise ConfigError(f"Rows: no room for more than {self.size} rows.")
        row = {"observation": observation, "action": action, "reward": reward, "mask": mask, "last": last}
        for name, value in row.items():
            self._columns[name][self.size] = value
        self.size += 1

    def added(self) -> dict[str, NDArray[Any]]:
        """The rows since the beginning."""
        return {name: column[self._given : self.size] for name, column in self._columns.items()}

    def restore(self, rows: dict[str, NDArray[Any]]) -> None:
        """Put back what `added` returned, in place of what was added."""
        self.size = self._given + len(rows["last"])
        for name, column in rows.items():
            self._columns[name][self._given : self.size] = column

    def sample(self, rng: np.random.Generator, blocks: int, batch: int) -> Transition:
        """Batches of chunks from uniformly drawn rows: leaves are [blocks, batch, ...]."""
        starts = self._starts(rng, blocks * batch)
        index = starts[:, None] + np.arange(CHUNK_STEPS)
        columns = {name: column[index] for name, column in self._columns.items() if name != "observation"}
        within = ~np.logical_or.accumulate(columns["last"], axis=1)
        powers = np.float32(GAMMA) ** np.arange(CHUNK_STEPS, dtype=np.float32)
        discount = np.float32(GAMMA**CHUNK_STEPS) * columns["mask"].min(axis=1)

        def shaped(values: NDArray[Any]) -> NDArray[Any]:
            return values.reshape(blocks, batch, *values.shape[1:])

        return Transition(
            observation=self._observation(shaped(starts)),
            chunk=shaped(columns["action"]),
            valid=shaped(np.broadcast_to(within.all(axis=1, keepdims=True), within.shape)),
            reward=shaped((columns["reward"] * powers).sum(axis=1).astype(np.float32)),
            discount=shaped(discount.astype(np.float32)),
            next_observation=self._observation(shaped(starts + CHUNK_STEPS)),
            intervention=np.zeros((blocks, batch), bool),
            exemplary=np.zeros((blocks, batch), bool),
            task=np.zeros((blocks, batch), np.int32),
        )

    def _starts(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Rows with a successor, far enough from the end of everything that the arrays hold the chunk."""
        highest = self.size - CHUNK_STEPS
        if highest < 1:
            raise ConfigError(f"Rows: {self.size} rows hold no chunk of {CHUNK_STEPS} steps.")
        starts = rng.integers(0, highest, count)
        last = self._columns["last"]
        while (ends := last[starts]).any():
            starts[ends] = rng.integers(0, highest, int(ends.sum()))
        return starts

    def _observation(self, index: NDArray[np.int64]) -> Observation:
        return observed(self._columns["observation"][index])


def observed(proprio: Any) -> Observation:
    """An observation without an instruction: the networks get one zero for it."""
    proprio = np.asarray(proprio, np.float32)
    return Observation(proprio, np.zeros((*proprio.shape[:-1], 1), np.float32), {})
