"""Scripted operators of the scene: an expert that can take over from any state, and play."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwd.robot.sim.global_random import global_random
from lwd.robot.sim.scene import SceneEnvironment
from lwd.robot.sim.scene_model import scene_model
from lwd.robot.sim.scene_plan import SAFE_PLACE, Primitive, next_primitive, still_possible
from lwd.robot.sim.scene_tasks import (
    CUBE_IN_CLOSED_DRAWER,
    DRAWER_CLOSED,
    DRAWER_OPEN,
    WINDOW_OPEN,
    SceneGoal,
)
from lwd.robot.sim.style import EXPERT, ExpertStyle, Hand

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # GLFW warns at import when there is no display
    from ogbench.manipspace.oracles.markov.button_markov import ButtonMarkovOracle
    from ogbench.manipspace.oracles.markov.cube_markov import CubeMarkovOracle
    from ogbench.manipspace.oracles.markov.drawer_markov import DrawerMarkovOracle
    from ogbench.manipspace.oracles.markov.window_markov import WindowMarkovOracle

_STREAM = 3
_REACH_M = 0.05
_WAYPOINT_LOW, _WAYPOINT_HIGH = np.array([0.28, -0.2, 0.22]), np.array([0.55, 0.2, 0.34])
_LOOK_STEPS = 12
_LETTING_GO = 0.2
_STUCK_STEPS, _STUCK_M = 25, 0.025


class SceneOperator:
    """The expert: looks at state and goal, picks a primitive, runs ogbench's oracle for it, and looks again.

    Args:
        environment: the robot that it commands and watches.
        style: how it moves.
    """

    def __init__(self, environment: SceneEnvironment, style: ExpertStyle = EXPERT) -> None:
        self._env, self._style = environment, style
        stock = scene_model().stock
        self._oracles: dict[str, Any] = {
            "cube": CubeMarkovOracle(env=stock),
            "button": ButtonMarkovOracle(env=stock),
            "drawer": DrawerMarkovOracle(env=stock),
            "window": WindowMarkovOracle(env=stock),
        }
        self.begin("restock", 0)

    def begin(self, task: str, seed: int) -> None:
        """Be ready to command from the present state; all randomness follows from the seed."""
        self._task = task
        self._rng = np.random.default_rng([seed, _STREAM])
        self._hand = Hand(self._style, self._rng)
        self._primitive: Primitive | None = None
        self._oracle: Any = None
        self._looking = 0
        self._erred = False
        self._anchor, self._anchored = np.full(3, np.inf), 0

    def act(self) -> NDArray[np.float32]:
        """The action [5] for the next control step, in [-1, 1]."""
        info = self._env.privileged()
        gripper: NDArray[np.float64] = info["proprio/effector_pos"]
        if self._finished():
            self._choose(info)
        self._looking = max(0, self._looking - 1)
        self._break_free(gripper)
        if self._primitive is None:
            return self._hand.move(np.zeros(5), gripper, _REACH_M).astype(np.float32)
        intended = np.asarray(self._oracle.select_action(None, self._with_target(info, self._primitive)))
        if self._primitive.kind == "cube" and intended[4] < 0 and info["proprio/gripper_contact"][0] > 0.1:
            intended[:3] *= _LETTING_GO  # at full speed the opening fingers throw the cube
        return self._hand.move(intended, gripper, _REACH_M).astype(np.float32)

    def goal(self) -> SceneGoal:
        """What it works towards now."""
        return self._env.goal

    def _finished(self) -> bool:
        """Whether to look and plan again: done, cut short, or made impossible meanwhile."""
        if self._primitive is None or self._oracle.done or (self._erred and self._looking == 0):
            return True
        return not self._erred and not still_possible(self._primitive, self._env.state)

    def _break_free(self, gripper: NDArray[np.float64]) -> None:
        """The oracles can press against something for ever; when the gripper [3] hardly moves, lift it away."""
        if float(np.linalg.norm(gripper - self._anchor)) > _STUCK_M or self._hand.pausing:
            self._anchor, self._anchored = gripper, 0
            return
        self._anchored += 1
        if self._anchored >= _STUCK_STEPS:
            self._anchored = 0
            around = self._rng.uniform(-0.08, 0.08, 3)
            self._hand.go_round_by(np.array([gripper[0] + around[0], gripper[1] + around[1], 0.3]))

    def _choose(self, info: dict[str, Any]) -> None:
        """Plan the next primitive, or, in a weak moment, a wrong one."""
        self._primitive = next_primitive(self._env.state, self.goal())
        self._looking = 0
        if self._primitive is None:
            return
        weak = not self._erred and self._rng.random() < self._style.mistake_probability
        self._erred = weak
        if weak:
            self._primitive = self._mistake(self._primitive)
        self._oracle = self._oracles[self._primitive.kind]
        with global_random(int(self._rng.integers(2**31))):
            self._oracle.reset(None, self._with_target(info, self._primitive))
        self._hand.new_primitive(_WAYPOINT_LOW, _WAYPOINT_HIGH)

    def _mistake(self, right: Primitive) -> Primitive:
        """Another primitive: a wrong button is pressed for good, a wrong object only approached for a while."""
        if self._rng.random() < 0.5:
            wrong = 1 - right.button if right.kind == "button" else int(self._rng.integers(2))
            self._looking = 60
            return Primitive("button", button=wrong, value=1.0 - self._env.state.buttons[wrong])
        self._looking = _LOOK_STEPS
        others = [kind for kind in ("cube", "drawer", "window") if kind != right.kind]
        kind = others[int(self._rng.integers(len(others)))]
        state = self._env.state
        if kind == "cube":
            return Primitive("cube", cube=SAFE_PLACE)
        if kind == "drawer":
            return Primitive("drawer", value=-0.16 if state.drawer > -0.08 else 0.0)
        return Primitive("window", value=0.2 if state.window < 0.1 else 0.0)

    def _with_target(self, info: dict[str, Any], primitive: Primitive) -> dict[str, Any]:
        """The oracle's view: the state plus the target entries that the simulator's task mode leaves out."""
        state = self._env.state
        drawer, window = info["privileged/drawer_handle_pos"], info["privileged/window_handle_pos"]
        # The drawer's body is turned by pi, so its handle moves against its joint; the window's moves with it.
        drawer_shift = -(primitive.value - state.drawer) if primitive.kind == "drawer" else 0.0
        window_shift = primitive.value - state.window if primitive.kind == "window" else 0.0
        return {
            **info,
            "privileged/target_block": 0,
            "privileged/target_block_pos": np.array(primitive.cube),
            "privileged/target_block_yaw": np.zeros(1),
            "privileged/target_button": primitive.button,
            "privileged/target_button_state": round(primitive.value),
            "privileged/target_button_top_pos": info["privileged/button_tops"][primitive.button],
            "privileged/target_drawer_handle_pos": drawer + np.array([0.0, drawer_shift, 0.0]),
            "privileged/target_window_handle_pos": window + np.array([window_shift, 0.0, 0.0]),
        }


PLAY_NOISE = (0.2, 0.5)
_TABLE_LOW, _TABLE_HIGH = (0.33, -0.05), (0.44, 0.14)


class PlayOperator(SceneOperator):
    """Somebody who plays: brings the scene into one random configuration after the other, noisily.

    What it does first is never what the asked task would need first, so that play mostly fails the task; yet it
    shows presses, slides, grasps and places.
    """

    def __init__(self, environment: SceneEnvironment, style: ExpertStyle | None = None) -> None:
        super().__init__(environment, style or replace(EXPERT, noise=PLAY_NOISE))

    def begin(self, task: str, seed: int) -> None:
        """Choose something to play at; all randomness follows from the seed."""
        super().begin(task, seed)
        self._pick()

    def goal(self) -> SceneGoal:
        """The configuration that it plays at, another one whenever it is reached."""
        if next_primitive(self._env.state, self._goal) is None:
            self._pick()
        return self._goal

    def _pick(self) -> None:
        asked = next_primitive(self._env.state, self._env.goal)
        for _ in range(30):
            self._goal = self._configuration()
            first = next_primitive(self._env.state, self._goal)
            if first is not None and (
                asked is None or first.kind != asked.kind or first.button != asked.button
            ):
                return

    def _configuration(self) -> SceneGoal:
        """A random configuration: cube left, moved, or put into the drawer, and the rest either way."""
        rng = self._rng
        buttons = (int(rng.integers(2)), int(rng.integers(2)))
        drawer, window = (
            float(rng.choice((DRAWER_CLOSED, DRAWER_OPEN))),
            float(rng.choice((0.0, WINDOW_OPEN))),
        )
        x, y = rng.uniform(_TABLE_LOW, _TABLE_HIGH).tolist()
        what = int(rng.integers(4))
        if what == 0:
            return SceneGoal(cube=CUBE_IN_CLOSED_DRAWER, buttons=buttons, drawer=DRAWER_CLOSED, window=window)
        cube = (x, y, 0.02) if what == 1 else None
        return SceneGoal(cube=cube, buttons=buttons, drawer=drawer, window=window)
