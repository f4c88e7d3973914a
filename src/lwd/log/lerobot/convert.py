"""A LeRobot episode as one of ours: which feature is the state, which sentence is the task, what an action's units are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from lwd.episode import Episode, EpisodeHeader, Outcome, Source, Verdict
from lwd.errors import ConfigError, EpisodeError, UnknownNameError
from lwd.log.lerobot.frames import EpisodeFrames, Reader
from lwd.log.lerobot.layout import ACTION, INTERVENTION, PICTURES, STATE, SUCCESS, Dataset, Entry
from lwd.spec import RobotSpec, TaskSpec


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a data set is to be read.

    Attributes:
        source: what its episodes are. In demonstrations a person commands every step; elsewhere where the data set flags it.
        outcome: how its episodes ended, where the data set has no feature `next.success`.
        robot: the robot's name in the log; operator: who demonstrated or intervened.
        state: features that make up the state, in their order.
        action: the feature that was commanded.
        low, high: what -1 and 1 of an action's coordinates mean in the data set's units, one number for all or one for each;
            None where its actions are normalised already.
        tasks: sentence in the data set by name of the fleet's task, where it is not the task's own instruction.
        cameras: feature by name of the robot's camera, where it is not `observation.images.<camera>`.
    """

    source: Source = Source.DEMO
    outcome: Outcome | None = None
    robot: str = "lerobot"
    operator: str = "lerobot"
    state: tuple[str, ...] = (STATE,)
    action: str = ACTION
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    tasks: Mapping[str, str] = field(default_factory=dict[str, str])
    cameras: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None):
            raise ConfigError("low and high belong together: give both, or none for actions in [-1, 1].")
        if self.source is Source.ONLINE:
            raise ConfigError("an imported episode cannot be online: no policy of this fleet drove it.")


class Converter:
    """Makes episodes of a data set for one kind of robot and its tasks.

    A data set has an action for each of its L frames and no state after the last action. So an episode has T = L - 1 control
    steps: its last frame is the state in which it ended, and the action that was commanded there is left out.

    Raises:
        ConfigError: features, rate, sentences or cameras do not fit; nothing has been read of the frames then.
    """

    def __init__(
        self, dataset: Dataset, reading: Reading, spec: RobotSpec, tasks: Mapping[str, TaskSpec]
    ) -> None:
        self.dataset, self.spec, self.tasks = dataset, spec, tasks
        self._reading = reading
        if abs(dataset.fps - spec.control_hz) > 1e-6 * spec.control_hz:
            raise ConfigError(
                f"{dataset.root} has {dataset.fps:g} frames a second, robot {spec.name!r} {spec.control_hz:g} control steps. "
                "Resample the data set, or set the robot's control_hz."
            )
        self._cameras = {
            camera.name: reading.cameras.get(camera.name, PICTURES + camera.name) for camera in spec.cameras
        }
        for name in reading.cameras:
            if name not in self._cameras:
                raise UnknownNameError("camera", name, self._cameras)
        self._success = SUCCESS if SUCCESS in dataset.features else None
        if self._success is None and reading.outcome is None:
            raise ConfigError(
                f"{dataset.root} does not say how its episodes ended: it has no {SUCCESS}. Say it: --outcome."
            )
        self._flags = next((name for name in INTERVENTION if name in dataset.features), None)
        self._check_features()
        self._task_of = _tasks(dataset.entries, reading, tasks)
        self._scale = _scale(reading, spec)
        optional = [name for name in (self._success, self._flags) if name is not None]
        columns = [*reading.state, reading.action, *self._cameras.values(), *optional]
        self._reader = Reader(dataset, list(dict.fromkeys(columns)))

    def episode(self, entry: Entry) -> Episode:
        """One episode. Raises as `without_pictures`."""
        return self.with_pictures(entry, self.without_pictures(entry))

    def without_pictures(self, entry: Entry) -> Episode:
        """One episode but for its pictures, which are most of the work and not needed to know whether it is there already.

        Its id follows from what was recorded, so that importing it twice counts once.

        Raises:
            EpisodeError: its frames cannot be read or do not fit; `episode_id` is its number in the data set.
            ConfigError: their file cannot be read.
        """
        frames, reading = self._reader.frames(entry), self._reading
        if entry.length < 2:
            raise EpisodeError(
                str(entry.index), "shape", f"it has {entry.length} frames, expected at least 2."
            )
        state = np.concatenate([frames.numbers(name) for name in reading.state], axis=1)
        raw = frames.numbers(reading.action)
        task = self._task_of[entry.tasks]
        return Episode(
            header=self._header(task, identity(task.instruction, state, raw)),
            verdict=self._verdict(frames),
            proprio=self._of_width(state, self.spec.proprio_dim, " + ".join(reading.state), entry),
            actions=self._normalised(raw, entry)[:-1],
            interventions=self._interventions(frames, entry.length - 1),
            times_s=np.arange(entry.length) / self.spec.control_hz,
        )

    def with_pictures(self, entry: Entry, episode: Episode) -> Episode:
        """The whole of what `without_pictures` made of the same entry; EpisodeError if a picture is missing or does not fit."""
        if not self.spec.cameras:
            return episode
        frames = self._reader.frames(entry)
        images = {
            camera.name: frames.pictures(self._cameras[camera.name], camera) for camera in self.spec.cameras
        }
        return replace(episode, images=images)

    def _check_features(self) -> None:
        features = self.dataset.features
        for name in (*self._reading.state, self._reading.action, *self._cameras.values()):
            if name not in features:
                raise UnknownNameError(f"feature of {self.dataset.root}", name, features)
        for name in self._cameras.values():
            if name not in self.dataset.cameras:
                raise ConfigError(f"feature {name} of {self.dataset.root} is no picture.")

    def _header(self, task: TaskSpec, episode_id: str) -> EpisodeHeader:
        return EpisodeHeader(
            episode_id=episode_id,
            task=task.name,
            instruction=task.instruction,
            source=self._reading.source,
            robot=self._reading.robot,
            spec=self.spec.name,
            control_hz=self.spec.control_hz,
            snapshot=None,
            software=f"LeRobot data set {self.dataset.version}",
            operator=self._reading.operator,
        )

    def _verdict(self, frames: EpisodeFrames) -> Verdict:
        if self._success is None:
            outcome = self._reading.outcome or Outcome.UNJUDGED
        else:
            outcome = Outcome.SUCCESS if frames.numbers(self._success).any() else Outcome.FAILURE
        return Verdict(outcome=outcome, stage_score=float(outcome is Outcome.SUCCESS))

    def _interventions(self, frames: EpisodeFrames, steps: int) -> NDArray[np.bool_]:
        if self._reading.source in (Source.DEMO, Source.PLAY):  # a person commands all of it
            return np.ones(steps, np.bool_)
        if self._flags is None:
            return np.zeros(steps, np.bool_)
        return frames.numbers(self._flags)[:steps, 0] != 0

    def _normalised(self, raw: NDArray[np.float32], entry: Entry) -> NDArray[np.float32]:
        """Actions in [-1, 1]. One that is outside is an error: what the robot would make of it is not what was recorded."""
        raw = self._of_width(raw, self.spec.action_dim, self._reading.action, entry)
        low, high = self._scale
        given = self._reading.low is not None  # as it is otherwise, to the last bit
        actions = ((raw - low) / (high - low) * 2 - 1).astype(np.float32) if given else raw
        worst = np.abs(actions).max(axis=0)
        if worst.max() > 1 + _SLACK:
            i = int(worst.argmax())
            detail = (
                f"{self._reading.action}[{i}] goes from {raw[:, i].min():.6g} to {raw[:, i].max():.6g}, expected "
                f"{low[i]:.6g} to {high[i]:.6g}; --low and --high say what the robot's -1 and 1 are in the data set's units."
            )
            raise EpisodeError(str(entry.index), "spec", detail)
        return np.clip(actions, -1.0, 1.0)

    def _of_width(
        self, values: NDArray[np.float32], width: int, name: str, entry: Entry
    ) -> NDArray[np.float32]:
        if values.shape[1] != width:
            detail = f"{name} has {values.shape[1]} numbers, robot {self.spec.name!r} has {width}."
            raise EpisodeError(str(entry.index), "shape", detail)
        return values


_SLACK = 1e-3
"""How far beyond [-1, 1] an action may be: limits are often given with three digits. It is clipped."""


def identity(instruction: str, state: NDArray[np.float32], action: NDArray[np.float32]) -> str:
    """An episode's id: a hash of its sentence, states [L, P] and commanded actions [L, A] in the data set's own units."""
    digest = hashlib.sha256(instruction.encode())
    for array in (state, action):
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array, "<f4").tobytes())
    return f"lerobot-{digest.hexdigest()[:40]}"


def _tasks(
    entries: Sequence[Entry], reading: Reading, tasks: Mapping[str, TaskSpec]
) -> dict[tuple[str, ...], TaskSpec]:
    """The fleet's task for each sentence, or sentences, that an episode has."""
    for name in reading.tasks:
        if name not in tasks:
            raise UnknownNameError("task", name, tasks)
    known = {_plain(reading.tasks.get(name, task.instruction)): task for name, task in tasks.items()}
    found: dict[tuple[str, ...], TaskSpec] = {}
    for sentences in dict.fromkeys(entry.tasks for entry in entries):
        meant = {known[_plain(sentence)].name for sentence in sentences if _plain(sentence) in known}
        if len(meant) != 1 or not all(_plain(sentence) in known for sentence in sentences):
            said = "; ".join(map(repr, sentences))[:300] or "no sentence"
            sayings = "; ".join(f"{name}={task.instruction!r}" for name, task in tasks.items())
            raise ConfigError(
                f"an episode's task is {said}, which is none of the fleet's ({sayings[:600]}). Say which it is: --tasks "
                'NAME="its sentence".'
            )
        found[sentences] = tasks[meant.pop()]
    return found


def _plain(sentence: str) -> str:
    return " ".join(sentence.lower().split()).rstrip(".")


def _scale(reading: Reading, spec: RobotSpec) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The data set's values of -1 and 1, float64 [A] each."""
    ends: list[NDArray[np.float64]] = []
    for name, given in (("--low", reading.low or (-1.0,)), ("--high", reading.high or (1.0,))):
        if len(given) not in (1, spec.action_dim):
            raise ConfigError(
                f"{name} has {len(given)} numbers, expected 1 or {spec.action_dim}, one for each coordinate."
            )
        ends.append(np.broadcast_to(np.asarray(given, np.float64), spec.action_dim))
    if not (np.isfinite(ends).all() and (ends[0] < ends[1]).all()):
        raise ConfigError("--low must be below --high in each coordinate.")
    return ends[0], ends[1]
