"""The scene workspace: a UR5e arm with a gripper, a cube, two lock buttons, a drawer and a window (ogbench scene-v0)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwd.episode import Outcome
from lwd.errors import UnknownNameError
from lwd.robot.environment import Sensed
from lwd.robot.sim.scene_conditions import STOCK, Conditions, SceneStart, sample_start
from lwd.robot.sim.scene_model import (
    GRIPPER_DOWN,
    HOME_QPOS,
    PHYSICS_STEPS,
    SceneModel,
    mujoco,
    multiply,
    rotation_z,
    scene_model,
    yaw_of,
)
from lwd.robot.sim.scene_tasks import SCENE_TASKS, SceneGoal, SceneState, SceneTask, with_time_limits
from lwd.spec import CameraSpec, RobotSpec, TaskSpec

SCENE_SPEC = RobotSpec(name="scene", proprio_dim=40, action_dim=5, control_hz=20.0, chunk_steps=5)
"""Proprio: joints 6 + 6, gripper xyz, cos and sin yaw, opening, contact, cube 9, buttons 2 x 4, drawer 2, window 2.
Action: dx, dy, dz (5 cm), dyaw (0.3 rad), gripper (+1 closes), each relative and in [-1, 1]."""

SENSED = 19
"""How many of them, from the front, a real arm senses by itself: all but the objects."""

_ACTION_SCALE = np.array([0.05, 0.05, 0.05, 0.3, 1.0])
_WORKSPACE_LOW, _WORKSPACE_HIGH = np.array([0.25, -0.35, 0.02]), np.array([0.6, 0.35, 0.35])
_CENTRE = np.array([0.425, 0.0, 0.0])
_DOWN_INVERSE = (GRIPPER_DOWN[0], -GRIPPER_DOWN[1], -GRIPPER_DOWN[2], -GRIPPER_DOWN[3])
_PRESSED_AT = -0.02
_RESET_STREAM, _RESCUE_STREAM = 1, 2


def scene_spec(cameras: tuple[CameraSpec, ...] = ()) -> RobotSpec:
    """The arm without cameras, which is told the objects' state, or with cameras, which has to see it."""
    if not cameras:
        return SCENE_SPEC
    return replace(SCENE_SPEC, name="scene_pixels", proprio_dim=SENSED, cameras=cameras)


class SceneEnvironment:
    """One robot in its own scene; implements `lwd.robot.environment.Environment`.

    The goal and the task are not in the observation: they follow from the instruction. Physics, controller and
    observation are the stock environment's, bit for bit.

    Args:
        conditions: where episodes begin.
        time_limits: control steps per task, in place of the defaults.
        cameras: what it sees besides ("front_pixels" or "front", at any size); it is then a "scene_pixels" robot.
    """

    def __init__(
        self,
        conditions: Conditions = STOCK,
        time_limits: Mapping[str, int] | None = None,
        cameras: tuple[CameraSpec, ...] = (),
    ) -> None:
        self._conditions, self._spec = conditions, scene_spec(cameras)
        self._tasks = with_time_limits({n: t.spec for n, t in SCENE_TASKS.items()}, time_limits)
        self._shared: SceneModel = scene_model()
        self._data: Any = mujoco.MjData(self._shared.model)
        # Views into the simulator's memory; it never moves while the data lives.
        self._qpos: NDArray[np.float64] = self._data.qpos
        self._qvel: NDArray[np.float64] = self._data.qvel
        self._ctrl: NDArray[np.float64] = self._data.ctrl
        self._sites: NDArray[np.float64] = self._data.site_xpos
        self._site_turns: NDArray[np.float64] = self._data.site_xmat
        self._pad_force: NDArray[np.float64] = self._data.cfrc_ext[self._shared.pad_body]
        self._ob = np.zeros(SCENE_SPEC.proprio_dim)
        self._cameras = _cameras(self._shared, cameras) if cameras else None
        self._buttons = (0, 0)
        self._button_heights = (0.0, 0.0)
        self._yaw = np.float64(0.0)
        self._begin(SCENE_TASKS["restock"], 0)  # so that there is a state to look at from the beginning

    @property
    def spec(self) -> RobotSpec:
        """The kind of robot."""
        return self._spec

    @property
    def tasks(self) -> Mapping[str, TaskSpec]:
        """The eight tasks, by name."""
        return self._tasks

    @property
    def goal(self) -> SceneGoal:
        """The present episode's goal with its cube position resolved; for operators, never for policies."""
        return self._goal

    @property
    def state(self) -> SceneState:
        """What goals and milestones depend on, now; for operators, never for policies."""
        return self._state

    def reset(self, task: str, seed: int) -> Sensed:
        """Begin an episode; the same task and seed begin the same episode, whatever happened before.

        Raises:
            UnknownNameError: no such task.
        """
        if task not in SCENE_TASKS:
            raise UnknownNameError("task", task, SCENE_TASKS)
        self._begin(SCENE_TASKS[task], seed)
        return self._sensed()

    def apply(self, action: NDArray[np.float32]) -> Sensed:
        """Execute one control step of 50 ms with an action [5] in [-1, 1] and sense again."""
        shared, data = self._shared, self._data
        self._command(np.asarray(action, np.float64))
        before = self._button_heights
        clock: float = data.time
        shared.set_locks(self._buttons)
        # The last mj_forward already did the first physics step's first half, which does not depend on the command.
        mujoco.mj_step2(shared.model, data)
        mujoco.mj_step(shared.model, data, nstep=PHYSICS_STEPS - 1)
        mujoco.mj_rnePostConstraint(shared.model, data)  # contact forces, for the gripper's contact sense
        self._broken = self._broken or data.time < clock
        self._rescue_cube()
        after = self._read_button_heights()
        pressed = [b > _PRESSED_AT >= a for b, a in zip(before, after, strict=True)]
        self._buttons = (self._buttons[0] ^ pressed[0], self._buttons[1] ^ pressed[1])
        self._button_heights = after
        shared.set_locks(self._buttons)
        # Not mj_kinematics: this also warm-starts the solver, and leaving that out changes the last bits.
        mujoco.mj_forward(shared.model, data)
        self._steps += 1
        self._look()
        self._latch()
        return self._sensed()

    def outcome(self) -> Outcome | None:
        """None while the attempt runs; SUCCESS at the goal, FAILURE at the time limit, UNJUDGED if physics broke."""
        if self._broken:
            return Outcome.UNJUDGED
        if self._done:
            return Outcome.SUCCESS
        limit = self._tasks[self._task.spec.name].time_limit_steps
        return Outcome.FAILURE if self._steps >= limit else None

    def milestones_reached(self) -> int:
        """How many milestones are latched; a success counts as all of them, in whatever order it was reached."""
        return len(self._task.reached) if self._done else self._latched

    def close(self) -> None:
        """Nothing to release: the model stays for the process's other robots."""

    def privileged(self) -> dict[str, Any]:
        """The entries of ogbench's `info` that its oracles read, without the targets."""
        s, q = self._shared, self._qpos
        cube = self._qpos[s.cube_q : s.cube_q + 7]
        return {
            "proprio/effector_pos": self._sites[s.pinch_site].copy(),
            "proprio/effector_yaw": np.array([self._yaw]),
            "proprio/gripper_opening": np.clip(q[s.gripper_q : s.gripper_q + 1] / 0.8, 0, 1),
            "proprio/gripper_contact": np.array([self._ob[18]]),
            "privileged/block_0_pos": cube[:3].copy(),
            "privileged/block_0_yaw": np.array([yaw_of(tuple(cube[3:].tolist()))]),
            "privileged/button_0_state": self._buttons[0],
            "privileged/button_1_state": self._buttons[1],
            "privileged/button_tops": (
                self._sites[s.button_sites[0]].copy(),
                self._sites[s.button_sites[1]].copy(),
            ),
            "privileged/drawer_handle_pos": self._sites[s.drawer_site].copy(),
            "privileged/drawer_handle_yaw": np.array([s.yaw(self._site_turns[s.drawer_site])]),
            "privileged/window_handle_pos": self._sites[s.window_site].copy(),
            "privileged/window_handle_yaw": np.array([s.yaw(self._site_turns[s.window_site])]),
        }

    def _begin(self, task: SceneTask, seed: int) -> None:
        self._task, self._steps, self._latched, self._done, self._broken = task, 0, 0, False, False
        self._rescue_rng = np.random.default_rng([seed, _RESCUE_STREAM])
        start = sample_start(self._conditions, task, np.random.default_rng([seed, _RESET_STREAM]))
        self._place(task, start)
        cube = task.goal.cube or (*start.cube, 0.02)
        self._goal = replace(task.goal, cube=cube)
        self._look()
        self._latch()
        # A start that already matches would be no attempt; conditions keep clear of it, tolerances included.
        self._done = False

    def _place(self, task: SceneTask, start: SceneStart) -> None:
        """Put arm and objects at the start, at rest."""
        shared, data = self._shared, self._data
        mujoco.mj_resetData(shared.model, data)
        self._qpos[:6] = shared.arm_target(np.array(start.arm), start.arm_yaw, HOME_QPOS)
        at = shared.cube_q
        self._qpos[at : at + 3] = (*start.cube, 0.02)
        self._qpos[at + 3 : at + 7] = rotation_z(start.cube_yaw)
        self._qpos[shared.drawer_q], self._qpos[shared.window_q] = start.drawer, start.window
        self._buttons = task.start_buttons
        shared.set_locks(self._buttons)
        mujoco.mj_forward(shared.model, data)
        self._button_heights = self._read_button_heights()

    def _command(self, action: NDArray[np.float64]) -> None:
        """Turn a relative action [5] into joint targets, from where the gripper is now."""
        s = self._shared
        step = 0.5 * (action + 1) * (2 * _ACTION_SCALE) - _ACTION_SCALE
        position = np.clip(self._sites[s.pinch_site] + step[:3], _WORKSPACE_LOW, _WORKSPACE_HIGH)
        turned = multiply(rotation_z(float(step[3])), rotation_z(float(self._yaw)))
        yaw = float(np.clip(yaw_of(multiply(turned, _DOWN_INVERSE)), -np.pi, np.pi))
        opening = min(max(float(self._qpos[s.gripper_q]) / 0.8, 0.0), 1.0)
        self._ctrl[:6] = s.arm_target(position, yaw, self._qpos[:6])
        self._ctrl[6] = 255.0 * min(max(opening + float(step[4]), 0.0), 1.0)

    def _rescue_cube(self) -> None:
        """Very rarely physics throws the cube out of the workspace; like the stock environment, put it back."""
        at = self._shared.cube_q
        position = self._qpos[at : at + 3]
        if (position > _WORKSPACE_LOW - 0.2).all() and (position < _WORKSPACE_HIGH + 0.2).all():
            return
        position[:] = (*self._rescue_rng.uniform((0.3, -0.07), (0.45, 0.18)), 0.02)
        self._qpos[at + 3 : at + 7] = rotation_z(float(self._rescue_rng.uniform(0, 2 * math.pi)))
        self._qvel[at : at + 6] = 0.0

    def _read_button_heights(self) -> tuple[float, float]:
        first, second = self._shared.button_q
        return float(self._qpos[first]), float(self._qpos[second])

    def _look(self) -> None:
        """Refresh observation and state from the simulator."""
        s, q, v, ob = self._shared, self._qpos, self._qvel, self._ob
        self._yaw = yaw = s.yaw(self._site_turns[s.pinch_site])
        ob[:6], ob[6:12] = q[:6], v[:6]
        ob[12:15] = (self._sites[s.pinch_site] - _CENTRE) * 10.0
        ob[15], ob[16] = np.cos(yaw), np.sin(yaw)
        ob[17] = min(max(q[s.gripper_q] / 0.8, 0.0), 1.0) * 3.0
        ob[18] = min(np.linalg.norm(self._pad_force) / 50, 1.0)
        cube = q[s.cube_q : s.cube_q + 7]
        ob[19:22], ob[22:26] = (cube[:3] - _CENTRE) * 10.0, cube[3:]
        cube_yaw = yaw_of(tuple(cube[3:].tolist()))
        ob[26], ob[27] = np.cos(cube_yaw), np.sin(cube_yaw)
        for i, at in ((0, 28), (1, 32)):
            on = self._buttons[i]
            ob[at : at + 4] = (1 - on, on, self._button_heights[i] * 120.0, v[s.button_v[i]])
        drawer, window = float(q[s.drawer_q]), float(q[s.window_q])
        ob[36:] = (drawer * 18.0, v[s.drawer_v], window * 15.0, v[s.window_v])
        x, y, z = cube[:3].tolist()
        self._state = SceneState(
            (x, y, z), self._buttons, drawer, window, float(self._sites[s.drawer_site, 1])
        )

    def _latch(self) -> None:
        """Advance the milestones, in order, and notice success."""
        reached = self._task.reached
        while self._latched < len(reached) and reached[self._latched](self._state):
            self._latched += 1
        self._done = self._done or self._goal.reached(self._state)

    def _sensed(self) -> Sensed:
        if self._cameras is None:
            return Sensed(self._ob.astype(np.float32))
        self._shared.show_locks(self._buttons)
        return Sensed(self._ob[:SENSED].astype(np.float32), self._cameras.jpegs(self._data))


def _cameras(shared: SceneModel, cameras: tuple[CameraSpec, ...]) -> Any:
    """The `Cameras` of this process; imported here, since a robot without cameras needs no GL library."""
    from lwd.robot.sim.rendering import cameras_of

    return cameras_of(shared, cameras)
