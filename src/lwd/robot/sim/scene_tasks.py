"""The eight tasks of the scene workspace: where things start, what is asked for, and which sub-steps count.

Units: metres and radians in the robot's base frame. Drawer: 0 closed, -0.16 open. Window: 0 closed, 0.2 open. A button
is 0 or 1 and toggles when pressed; button 0 at 0 locks the drawer, button 1 at 0 locks the window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from lwd.errors import ConfigError, UnknownNameError
from lwd.spec import Horizon, TaskSpec

DRAWER_OPEN, DRAWER_CLOSED = -0.16, 0.0
WINDOW_OPEN, WINDOW_CLOSED = 0.2, 0.0
REACHED_M = 0.04
"""A cube, drawer or window this near to its goal (m) counts as there, as in the simulator's own success."""

Point = tuple[float, float, float]
CUBE_IN_CLOSED_DRAWER: Point = (0.33, -0.356, 0.065986)
"""Where a cube that was put at the open drawer's centre ends when the drawer is closed."""


@dataclass(frozen=True, slots=True)
class SceneState:
    """Everything that goals and milestones depend on, at one control step.

    Attributes:
        cube: position of the cube's centre (m).
        buttons: state of button 0 and button 1.
        drawer, window: slide positions (m).
        drawer_handle_y: y of the drawer's handle (m), from which its inside follows.
    """

    cube: Point
    buttons: tuple[int, int]
    drawer: float
    window: float
    drawer_handle_y: float

    @property
    def cube_in_drawer(self) -> bool:
        """Whether the cube lies inside the drawer, wherever the drawer is."""
        x, y, z = self.cube
        return 0.21 <= x <= 0.45 and -0.27 <= y - self.drawer_handle_y <= -0.07 and z <= 0.09


@dataclass(frozen=True, kw_only=True)
class SceneGoal:
    """A configuration of the workspace. `cube` None: leave it where the episode began."""

    cube: Point | None
    buttons: tuple[int, int]
    drawer: float
    window: float

    def reached(self, state: SceneState) -> bool:
        """Whether every component matches (the simulator's `terminated`); needs a resolved `cube`."""
        return (
            self.cube is not None
            and math.dist(state.cube, self.cube) <= REACHED_M
            and state.buttons == self.buttons
            and abs(state.drawer - self.drawer) <= REACHED_M
            and abs(state.window - self.window) <= REACHED_M
        )


Milestone = Callable[[SceneState], bool]


@dataclass(frozen=True, kw_only=True)
class SceneTask:
    """One task: its description, its nominal start, its goal and the test of each milestone.

    Attributes:
        spec: name, instruction, milestone names, time limit.
        start_cube: nominal xy of the cube (m).
        start_buttons, start_drawer, start_window: nominal start of the rest.
        goal: what is asked for.
        reached: one predicate per milestone, in the order of `spec.milestones`.
    """

    spec: TaskSpec
    start_cube: tuple[float, float]
    start_buttons: tuple[int, int]
    start_drawer: float
    start_window: float
    goal: SceneGoal
    reached: tuple[Milestone, ...]


def _button(index: int, state: int) -> Milestone:
    return lambda s: s.buttons[index] == state


def _drawer(target: float) -> Milestone:
    return lambda s: abs(s.drawer - target) <= REACHED_M


def _window(target: float) -> Milestone:
    return lambda s: abs(s.window - target) <= REACHED_M


def _cube(target: Point) -> Milestone:
    return lambda s: math.dist(s.cube, target) <= REACHED_M


_MILESTONES: Mapping[str, Milestone] = {
    "drawer unlocked": _button(0, 1),
    "drawer locked": _button(0, 0),
    "window unlocked": _button(1, 1),
    "window locked": _button(1, 0),
    "drawer open": _drawer(DRAWER_OPEN),
    "drawer closed": _drawer(DRAWER_CLOSED),
    "window open": _window(WINDOW_OPEN),
    "window closed": _window(WINDOW_CLOSED),
    "cube in drawer": lambda s: s.cube_in_drawer,
    "cube on shelf": _cube((0.4, 0.15, 0.02)),
    "button pressed": _button(0, 1),
}


def _task(
    name: str,
    horizon: Horizon,
    limit: int,
    instruction: str,
    milestones: tuple[str, ...],
    start: tuple[tuple[float, float], tuple[int, int], float, float],
    goal: tuple[Point | None, tuple[int, int], float, float],
) -> SceneTask:
    """One row of the table below; start and goal are (cube, buttons, drawer, window)."""
    spec = TaskSpec(
        name=name, instruction=instruction, milestones=milestones, time_limit_steps=limit, horizon=horizon
    )
    return SceneTask(
        spec=spec,
        start_cube=start[0],
        start_buttons=start[1],
        start_drawer=start[2],
        start_window=start[3],
        goal=SceneGoal(cube=goal[0], buttons=goal[1], drawer=goal[2], window=goal[3]),
        reached=tuple(_MILESTONES[m] for m in milestones),
    )


_ALL = (
    _task(
        "restock",
        "short",
        100,
        "Put the cube back on its place at the left of the table.",
        ("cube on shelf",),
        ((0.4, -0.05), (0, 0), DRAWER_CLOSED, WINDOW_CLOSED),
        ((0.4, 0.15, 0.02), (0, 0), DRAWER_CLOSED, WINDOW_CLOSED),
    ),
    _task(
        "open_drawer",
        "short",
        80,
        "Open the drawer.",
        ("drawer open",),
        ((0.35, 0.05), (1, 0), DRAWER_CLOSED, WINDOW_CLOSED),
        (None, (1, 0), DRAWER_OPEN, WINDOW_CLOSED),
    ),
    _task(
        "close_window",
        "short",
        80,
        "Close the window.",
        ("window closed",),
        ((0.35, 0.05), (0, 1), DRAWER_CLOSED, WINDOW_OPEN),
        (None, (0, 1), DRAWER_CLOSED, WINDOW_CLOSED),
    ),
    _task(
        "press_button",
        "short",
        80,
        "Press the drawer's button once.",
        ("button pressed",),
        ((0.35, 0.05), (0, 0), DRAWER_CLOSED, WINDOW_CLOSED),
        (None, (1, 0), DRAWER_CLOSED, WINDOW_CLOSED),
    ),
    _task(
        "unlock_close_lock",
        "long",
        350,
        "Close the drawer and lock it, then close the window and lock it.",
        (
            "drawer unlocked",
            "drawer closed",
            "drawer locked",
            "window unlocked",
            "window closed",
            "window locked",
        ),
        ((0.35, -0.05), (0, 0), DRAWER_OPEN, WINDOW_OPEN),
        (None, (0, 0), DRAWER_CLOSED, WINDOW_CLOSED),
    ),
    _task(
        "rearrange",
        "long",
        350,
        "Put the cube on its place, open the drawer, and close the window.",
        ("cube on shelf", "drawer open", "window unlocked", "window closed"),
        ((0.4, -0.05), (1, 0), DRAWER_CLOSED, WINDOW_OPEN),
        ((0.4, 0.15, 0.02), (1, 1), DRAWER_OPEN, WINDOW_CLOSED),
    ),
    _task(
        "put_in_drawer_and_lock",
        "long",
        450,
        "Put the cube in the drawer, close the drawer and lock it.",
        ("drawer unlocked", "drawer open", "cube in drawer", "drawer closed", "drawer locked"),
        ((0.35, 0.05), (0, 0), DRAWER_CLOSED, WINDOW_CLOSED),
        (CUBE_IN_CLOSED_DRAWER, (0, 0), DRAWER_CLOSED, WINDOW_CLOSED),
    ),
    _task(
        "rearrange_hard",
        "long",
        600,
        "Put the cube in the drawer and lock the drawer, then open the window and lock it.",
        (
            "drawer unlocked",
            "drawer open",
            "cube in drawer",
            "drawer closed",
            "drawer locked",
            "window unlocked",
            "window open",
            "window locked",
        ),
        ((0.35, 0.15), (0, 0), DRAWER_CLOSED, WINDOW_CLOSED),
        (CUBE_IN_CLOSED_DRAWER, (0, 0), DRAWER_CLOSED, WINDOW_OPEN),
    ),
)

SCENE_TASKS: Mapping[str, SceneTask] = {task.spec.name: task for task in _ALL}
"""The eight tasks by name, four short ones first."""


def with_time_limits(
    specs: Mapping[str, TaskSpec], time_limits: Mapping[str, int] | None
) -> dict[str, TaskSpec]:
    """The task specs with some time limits (control steps) replaced.

    Raises:
        UnknownNameError: a limit for a task that does not exist.
        ConfigError: a limit that is not positive.
    """
    limited = dict(specs)
    for name, limit in (time_limits or {}).items():
        if name not in limited:
            raise UnknownNameError("task", name, limited)
        if limit < 1:
            raise ConfigError(f"time limit of {name!r} must be at least 1 control step, got {limit}.")
        limited[name] = replace(limited[name], time_limit_steps=limit)
    return limited
