"""Any Gymnasium environment as an `lwd` robot. Needs the `gymnasium` package, which the base install leaves out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.spaces.utils import flatdim, flatten
from numpy.typing import NDArray

from lwd.episode import Outcome
from lwd.errors import ConfigError, RobotError, UnknownNameError
from lwd.robot.environment import Sensed
from lwd.spec import RobotSpec, TaskSpec


class GymnasiumEnvironment:
    """Implements `lwd.robot.environment.Environment` over one Gymnasium environment with a bounded Box action.

    The observation is flattened into the proprio vector. An attempt ends in SUCCESS when `success_key` of the step's info
    is true, or, without a key, when the environment says terminated; every other end is a FAILURE.

    Args:
        env: the Gymnasium environment.
        tasks: the tasks that it can be asked to do, by name.
        name: the kind of robot, written into episodes.
        control_hz: control steps per second.
        chunk_steps: H, control steps per action chunk.
        success_key: entry of `info` that tells success; None: terminated means success.
        reset_options: per task, what to pass to `env.reset(options=...)` to get that task.
        milestones: how many milestones of the task hold, from the step's info; they are latched here. None: only
            success counts, as the one milestone.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        *,
        tasks: Mapping[str, TaskSpec],
        name: str,
        control_hz: float,
        chunk_steps: int,
        success_key: str | None = None,
        reset_options: Mapping[str, dict[str, Any]] | None = None,
        milestones: Callable[[Mapping[str, Any]], int] | None = None,
    ) -> None:
        space = env.action_space
        if not isinstance(space, Box) or not space.is_bounded():
            raise ConfigError(
                f"GymnasiumEnvironment: needs a bounded Box action space to rescale, got {space}."
            )
        self._env, self._tasks = env, dict(tasks)
        self._low, self._high = space.low.astype(np.float64), space.high.astype(np.float64)
        self._action_shape, self._action_type = space.shape, space.dtype
        self._success_key, self._options, self._progress = success_key, dict(reset_options or {}), milestones
        self._spec = RobotSpec(
            name=name,
            proprio_dim=flatdim(env.observation_space),
            action_dim=int(np.prod(space.shape)),
            control_hz=control_hz,
            chunk_steps=chunk_steps,
        )
        self._task: TaskSpec | None = None
        self._steps, self._latched = 0, 0
        self._outcome: Outcome | None = None

    @property
    def spec(self) -> RobotSpec:
        """The kind of robot."""
        return self._spec

    @property
    def tasks(self) -> Mapping[str, TaskSpec]:
        """The tasks it can be asked to do, by name."""
        return self._tasks

    def reset(self, task: str, seed: int) -> Sensed:
        """Begin an episode; as reproducible as the wrapped environment is for a seed.

        Raises:
            UnknownNameError: no such task.
        """
        if task not in self._tasks:
            raise UnknownNameError("task", task, self._tasks)
        self._task, self._steps, self._latched, self._outcome = self._tasks[task], 0, 0, None
        observation, _ = self._env.reset(seed=seed, options=self._options.get(task))
        return self._sensed(observation)

    def apply(self, action: NDArray[np.float32]) -> Sensed:
        """Execute one control step with an action [A] in [-1, 1], rescaled to the Box, and sense again."""
        if self._task is None:
            raise RobotError("GymnasiumEnvironment.apply: call reset first.")
        unit = (np.clip(np.asarray(action, np.float64), -1.0, 1.0).reshape(self._action_shape) + 1) / 2
        command = (self._low + unit * (self._high - self._low)).astype(self._action_type)
        observation, _, terminated, truncated, info = self._env.step(command)
        self._steps += 1
        self._judge(self._task, terminated, truncated, info)
        return self._sensed(observation)

    def outcome(self) -> Outcome | None:
        """None while the attempt runs; then its verdict."""
        return self._outcome

    def milestones_reached(self) -> int:
        """How many milestones of the task are latched so far; all of them after a success."""
        return self._latched

    def close(self) -> None:
        """Close the wrapped environment."""
        self._env.close()

    def _judge(self, task: TaskSpec, terminated: bool, truncated: bool, info: Mapping[str, Any]) -> None:
        success = bool(info.get(self._success_key, False)) if self._success_key is not None else terminated
        if self._progress is not None:
            self._latched = min(max(self._latched, self._progress(info)), len(task.milestones))
        if success:
            self._outcome, self._latched = Outcome.SUCCESS, len(task.milestones)
        elif terminated or truncated or self._steps >= task.time_limit_steps:
            self._outcome = Outcome.FAILURE

    def _sensed(self, observation: Any) -> Sensed:
        return Sensed(np.asarray(flatten(self._env.observation_space, observation), np.float32))
