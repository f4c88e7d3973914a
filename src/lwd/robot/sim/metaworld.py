"""Meta-World's Sawyer arm with eight tasks: the fast tier, for sweeps and continuous integration.

Unlike the scene, the observation holds the place of the goal (three numbers), because Meta-World's goals are random places
that no sentence tells; which task it is follows from the instruction alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwd.episode import Outcome
from lwd.errors import RobotError, UnknownNameError
from lwd.robot.environment import Sensed
from lwd.robot.sim.scene_tasks import with_time_limits
from lwd.robot.sim.style import EXPERT, ExpertStyle, Hand
from lwd.spec import Horizon, RobotSpec, TaskSpec

METAWORLD_SPEC = RobotSpec(name="metaworld", proprio_dim=39, action_dim=4, control_hz=80.0, chunk_steps=5)
"""Proprio: hand xyz, gripper, objects 14, the same one control step earlier, goal xyz. Action: dx, dy, dz (1 cm), grip.
80 Hz: five physics steps of 2.5 ms per control step."""


def _task(
    name: str, horizon: Horizon, limit: int, instruction: str, milestones: tuple[str, ...]
) -> tuple[str, TaskSpec]:
    return name, TaskSpec(
        name=name, instruction=instruction, milestones=milestones, time_limit_steps=limit, horizon=horizon
    )


METAWORLD_TASKS: Mapping[str, TaskSpec] = dict(
    (
        _task("coffee-button", "short", 120, "Push the button of the coffee machine.", ("button pushed",)),
        _task("handle-press", "short", 120, "Press the handle down.", ("handle down",)),
        _task("plate-slide", "short", 150, "Slide the plate into the cabinet.", ("plate in cabinet",)),
        _task("button-press-topdown", "short", 150, "Press the button from above.", ("button pressed",)),
        _task(
            "drawer-open",
            "long",
            250,
            "Pull the drawer open by its handle.",
            ("handle reached", "drawer open"),
        ),
        _task(
            "stick-pull",
            "long",
            350,
            "Take the stick, hook it into the thermos and pull the thermos to its place.",
            ("stick reached", "stick grasped", "thermos in place"),
        ),
        _task(
            "bin-picking",
            "long",
            350,
            "Take the cube out of its bin and put it into the other bin.",
            ("cube reached", "cube grasped", "cube in the other bin"),
        ),
        _task("handle-pull", "long", 300, "Pull the handle up.", ("handle reached", "handle up")),
    )
)
"""The eight tasks by name, four short ones first."""

_SIGNALS: Mapping[int, tuple[str, ...]] = {
    1: ("success",),
    2: ("near_object", "success"),
    3: ("near_object", "grasp_success", "success"),
}
"""Entries of the simulator's `info` behind the milestones, by how many milestones a task has."""

_POOL: dict[str, list[Any]] = {}
"""Idle simulators of this process by task. Each task is its own model of some 45 MB, so robots hold one at a time."""


class MetaworldEnvironment:
    """One Sawyer robot; implements `lwd.robot.environment.Environment`. Not for use from several threads.

    Args:
        time_limits: control steps per task, in place of the defaults.
    """

    def __init__(self, time_limits: Mapping[str, int] | None = None) -> None:
        self._tasks = with_time_limits(METAWORLD_TASKS, time_limits)
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
        """The eight tasks, by name."""
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
            self.close()
            self._sim = _POOL[task].pop() if _POOL.get(task) else _build(task)
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
        signals = _SIGNALS[len(self._tasks[self._task].milestones)]
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
        """Give the simulator back to the process's other robots."""
        if self._sim is not None:
            _POOL.setdefault(self._task, []).append(self._sim)
            self._sim = None

    def _sensed(self) -> Sensed:
        return Sensed(self._observation.astype(np.float32))


class MetaworldOperator:
    """Meta-World's shipped scripted policies, moving in a given style (without mistakes: there is one object).

    Args:
        environment: the robot that it commands and watches.
        style: how it moves.
        name: written into episodes.
    """

    def __init__(
        self, environment: MetaworldEnvironment, style: ExpertStyle = EXPERT, name: str = "expert"
    ) -> None:
        with _quiet():
            from metaworld.policies import ENV_POLICY_MAP

        self._env, self._style, self._name = environment, style, name
        self._scripts: Mapping[str, Any] = ENV_POLICY_MAP
        self.begin("coffee-button", 0)

    @property
    def name(self) -> str:
        """Written into the episodes that this operator took part in."""
        return self._name

    def begin(self, task: str, seed: int) -> None:
        """Be ready to command from the present state; all randomness follows from the seed."""
        self._script: Any = self._scripts[f"{task}-v3"]()
        self._hand = Hand(self._style, np.random.default_rng([seed, 4]))
        self._hand.new_primitive(np.array([-0.15, 0.5, 0.15]), np.array([0.15, 0.7, 0.3]))

    def act(self) -> NDArray[np.float32]:
        """The action [4] for the next control step, in [-1, 1]."""
        observation = self._env.observation
        with _quiet():  # the scripts warn whenever they ask for more than the robot can do
            intended = np.clip(np.asarray(self._script.get_action(observation), np.float64), -1.0, 1.0)
        return self._hand.move(intended, observation[:3], 0.01).astype(np.float32)


def _build(task: str) -> Any:
    """A simulator of one task that draws its goals from its own seeded generator and shows them."""
    with _quiet():
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS

        sim: Any = ALL_V3_ENVIRONMENTS[f"{task}-v3"]()
    sim._freeze_rand_vec, sim.seeded_rand_vec, sim._set_task_called = False, True, True
    sim.max_path_length = 10**9  # the time limit is this environment's affair
    # Built without a task it hides the goal, and caches bounds that clip it to zero.
    sim._partially_observable = False
    sim.__dict__.pop("sawyer_observation_space", None)
    return sim


def _quiet() -> warnings.catch_warnings[None]:
    return warnings.catch_warnings(action="ignore")
