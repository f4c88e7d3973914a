"""Meta-World's Sawyer arm with its fifty tasks: the fast tier, for sweeps and continuous integration.

Unlike the scene, the observation holds the place of the goal (three numbers), because Meta-World's goals are random places
that no sentence tells; which task it is follows from the instruction alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwd.episode import Outcome
from lwd.errors import RobotError, UnknownNameError
from lwd.robot.environment import Sensed
from lwd.robot.sim.fleet_spec import EVERYWHERE
from lwd.robot.sim.metaworld_model import build, quiet, scripts
from lwd.robot.sim.metaworld_tasks import METAWORLD_SPEC, METAWORLD_TASKS, MILESTONE_SIGNALS
from lwd.robot.sim.scene_tasks import with_time_limits
from lwd.robot.sim.style import EXPERT, ExpertStyle, Hand
from lwd.spec import RobotSpec, TaskSpec


class MetaworldEnvironment:
    """One Sawyer robot; implements `lwd.robot.environment.Environment`. Not for use from several threads.

    Args:
        time_limits: control steps per task, in place of the defaults.
        starts: the part of each side of Meta-World's box of places that episodes begin in.
    """

    def __init__(
        self, time_limits: Mapping[str, int] | None = None, starts: tuple[float, float] = EVERYWHERE
    ) -> None:
        self._tasks = with_time_limits(METAWORLD_TASKS, time_limits)
        self._starts = starts
        self._sim: Any = None
        self._task = ""
        self._steps, self._latched, self._done = 0, 0, False
        self._observation = np.zeros(METAWORLD_SPEC.proprio_dim)

    @property
    def spec(self) -> RobotSpec:
        """The kind of robot."""
        return METAWORLD_SPEC

    @property
    def tasks(self) -> Mapping[str, TaskSpec]:
        """All fifty tasks, by name."""
        return self._tasks

    @property
    def observation(self) -> NDArray[np.float64]:
        """The simulator's own observation [39] in double precision, for operators."""
        return self._observation

    def reset(self, task: str, seed: int) -> Sensed:
        """Begin an episode with a goal and object places drawn from the seed.

        Raises:
            UnknownNameError: no such task.
        """
        if task not in self._tasks:
            raise UnknownNameError("task", task, self._tasks)
        if task != self._task or self._sim is None:
            self._sim = build(task, self._starts)
        self._task, self._steps, self._latched, self._done = task, 0, 0, False
        self._sim.seed(seed)
        self._observation = np.asarray(self._sim.reset()[0], np.float64)
        return self._sensed()

    def apply(self, action: NDArray[np.float32]) -> Sensed:
        """Execute one control step of 12.5 ms with an action [4] in [-1, 1] and sense again."""
        if self._sim is None:
            raise RobotError("MetaworldEnvironment.apply: call reset first.")
        observation, _, _, _, info = self._sim.step(np.asarray(action, np.float32))
        self._observation = np.asarray(observation, np.float64)
        self._steps += 1
        signals = MILESTONE_SIGNALS[self._task]
        while self._latched < len(signals) and float(info[signals[self._latched]]) >= 0.5:
            self._latched += 1
        self._done = self._done or float(info["success"]) >= 0.5
        return self._sensed()

    def outcome(self) -> Outcome | None:
        """None while the attempt runs; SUCCESS as soon as the simulator says so, FAILURE at the time limit."""
        if self._done:
            return Outcome.SUCCESS
        return Outcome.FAILURE if self._steps >= self._tasks[self._task].time_limit_steps else None

    def milestones_reached(self) -> int:
        """How many milestones are latched; a success counts as all of them."""
        return len(self._tasks[self._task].milestones) if self._done else self._latched

    def close(self) -> None:
        """Let go of the simulator."""
        self._sim = None

    def _sensed(self) -> Sensed:
        return Sensed(self._observation.astype(np.float32))


class MetaworldOperator:
    """Meta-World's shipped scripted policies, moving in a given style (without mistakes: there is one object).

    Args:
        environment: the robot that it commands and watches.
        style: how it moves.
    """

    def __init__(self, environment: MetaworldEnvironment, style: ExpertStyle = EXPERT) -> None:
        self._env, self._style = environment, style
        self._scripts = scripts()
        self.begin("coffee-button", 0)

    def begin(self, task: str, seed: int) -> None:
        """Be ready to command from the present state; all randomness follows from the seed."""
        self._script: Any = self._scripts[f"{task}-v3"]()
        self._hand = Hand(self._style, np.random.default_rng([seed, 4]))
        self._hand.new_primitive(np.array([-0.15, 0.5, 0.15]), np.array([0.15, 0.7, 0.3]))

    def act(self) -> NDArray[np.float32]:
        """The action [4] for the next control step, in [-1, 1]."""
        observation = self._env.observation
        with quiet():
            intended = np.clip(np.asarray(self._script.get_action(observation), np.float64), -1.0, 1.0)
        return self._hand.move(intended, observation[:3], 0.01).astype(np.float32)
