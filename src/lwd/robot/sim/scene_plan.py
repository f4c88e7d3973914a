"""What to do next in the scene, from its state and a goal alone: the replanner behind the scripted operators."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lwd.robot.sim.scene_tasks import DRAWER_OPEN, REACHED_M, Point, SceneGoal, SceneState

CUBE_IN_OPEN_DRAWER: Point = (0.33, -0.24, 0.066)
"""Where to let go of the cube so that closing the drawer carries it to its goal."""
SAFE_PLACE: Point = (0.38, 0.05, 0.02)
"""Where on the table a cube is in nobody's way."""
_DRAWER_PATH_Y = -0.095
"""A cube on the table beyond this is in the way of the drawer."""
_NEAR_M = 0.03
"""Stricter than success (0.04), so that what the plan calls done does not drift back."""
_OPEN_ENOUGH, _STILL_OPEN = DRAWER_OPEN + 0.015, DRAWER_OPEN + 0.035
"""The drawer counts as open up to here before reaching into it, and up to there while reaching; else cabinet and arm meet."""


@dataclass(frozen=True)
class Primitive:
    """One thing to do.

    Attributes:
        kind: which oracle.
        cube: where to put the cube, for kind "cube" (m).
        button: which button, for kind "button"; value: the state to bring it to.
        value: slide target (m) for kinds "drawer" and "window".
    """

    kind: Literal["cube", "button", "drawer", "window"]
    cube: Point = (0.0, 0.0, 0.0)
    button: int = 0
    value: float = 0.0


def next_primitive(state: SceneState, goal: SceneGoal) -> Primitive | None:
    """The next thing to do towards the goal, or None when nothing is left; works from any state."""
    cube = _cube_step(state, goal)
    if cube is not None:
        return cube
    if abs(state.drawer - goal.drawer) > _NEAR_M:
        return _slide_drawer(state, goal.drawer)
    if state.buttons[0] != goal.buttons[0]:
        return Primitive("button", button=0, value=float(goal.buttons[0]))
    if abs(state.window - goal.window) > _NEAR_M:
        if state.buttons[1] == 0:
            return Primitive("button", button=1, value=1.0)
        return Primitive("window", value=goal.window)
    if state.buttons[1] != goal.buttons[1]:
        return Primitive("button", button=1, value=float(goal.buttons[1]))
    return None


def _cube_step(state: SceneState, goal: SceneGoal) -> Primitive | None:
    """What the cube still needs, doors first; None when it lies where it should."""
    if goal.cube is None:
        return None
    drawer_is_open = state.drawer <= _OPEN_ENOUGH
    if goal.cube[1] > -0.2:  # on the table
        if math.dist(state.cube, goal.cube) <= _NEAR_M:
            return None
        if state.cube_in_drawer and not drawer_is_open:
            return _slide_drawer(state, DRAWER_OPEN)
        return Primitive("cube", cube=goal.cube)
    # In a closed drawer nothing drifts any more, and taking the cube out again is the hardest thing of all.
    if math.dist(state.cube, goal.cube) <= REACHED_M - 0.002:
        return None
    if drawer_is_open:
        placed = state.cube_in_drawer and math.dist(state.cube[:2], CUBE_IN_OPEN_DRAWER[:2]) <= _NEAR_M
        return None if placed else Primitive("cube", cube=CUBE_IN_OPEN_DRAWER)
    if state.cube_in_drawer:
        on_its_way = abs(state.drawer - goal.drawer) > _NEAR_M
        return None if on_its_way else _slide_drawer(state, DRAWER_OPEN)
    if state.cube[1] < _DRAWER_PATH_Y:
        return Primitive("cube", cube=SAFE_PLACE)
    return _slide_drawer(state, DRAWER_OPEN)


def still_possible(primitive: Primitive, state: SceneState) -> bool:
    """Whether a primitive under way still can work: what it needs may have been locked or closed meanwhile."""
    if primitive.kind == "cube" and primitive.cube == CUBE_IN_OPEN_DRAWER:
        return state.drawer <= _STILL_OPEN
    if primitive.kind == "drawer":
        return state.buttons[0] == 1
    if primitive.kind == "window":
        return state.buttons[1] == 1
    return True


def _slide_drawer(state: SceneState, target: float) -> Primitive:
    if state.buttons[0] == 0:
        return Primitive("button", button=0, value=1.0)
    return Primitive("drawer", value=target)
