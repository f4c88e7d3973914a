"""How an episode of the scene begins: one frozen description to sample from, and the two presets of the paper's contrast.

Demonstrations are taken under narrow conditions and deployment happens under other, wider ones; the goals stay the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lwd.errors import ConfigError
from lwd.robot.sim.scene_tasks import (
    DRAWER_CLOSED,
    DRAWER_OPEN,
    WINDOW_CLOSED,
    WINDOW_OPEN,
    Point,
    SceneTask,
)

_TABLE_X, _TABLE_Y = (0.31, 0.46), (-0.09, 0.16)
"""Where a cube can lie free of the open drawer, the buttons and the window's handle, and be grasped (m)."""
_CLEAR_OF_GOAL_M = 0.07
"""A cube that must be moved starts at least this far from its goal, so that no episode is born solved."""
_ARM_LOW, _ARM_HIGH = np.array([0.25, -0.2, 0.20]), np.array([0.6, 0.2, 0.35])
"""The simulator's own box of start positions of the gripper (m)."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """The distribution of starts. Ranges are half-widths of uniform distributions around the task's nominal start.

    Attributes:
        cube_offset_xy: shift of the centre of the cube's distribution (m): "placed elsewhere".
        cube_xy_range_m: half-widths of the cube's x and y (m).
        cube_yaw_range: half-width of the cube's yaw (rad), pi for any.
        drawer_jitter_m, window_jitter_m: half-widths of the slides' start (m), at most 0.03 (success needs 0.04).
        arm_range: part of the simulator's box of gripper starts that is used, 0 (its centre) to 1 (all).
        arm_yaw_range: half-width of the gripper's yaw (rad).
    """

    cube_offset_xy: tuple[float, float] = (0.0, 0.0)
    cube_xy_range_m: tuple[float, float] = (0.01, 0.01)
    cube_yaw_range: float = math.pi
    drawer_jitter_m: float = 0.01
    window_jitter_m: float = 0.01
    arm_range: float = 1.0
    arm_yaw_range: float = math.pi

    def __post_init__(self) -> None:
        if not 0 <= self.drawer_jitter_m <= 0.03 or not 0 <= self.window_jitter_m <= 0.03:
            raise ConfigError("Conditions: drawer_jitter_m and window_jitter_m must be within 0 and 0.03 m.")
        if not 0 <= self.arm_range <= 1:
            raise ConfigError(f"Conditions: arm_range must be within 0 and 1, got {self.arm_range}.")
        if min(*self.cube_xy_range_m, self.cube_yaw_range, self.arm_yaw_range) < 0:
            raise ConfigError("Conditions: ranges are half-widths and cannot be negative.")


STOCK = Conditions()
"""About what the simulator does on its own: +-1 cm on the cube and slides, any yaw, any arm pose."""
DEMONSTRATED = Conditions(
    cube_xy_range_m=(0.015, 0.015),
    cube_yaw_range=0.4,
    drawer_jitter_m=0.005,
    window_jitter_m=0.005,
    arm_range=0.4,
    arm_yaw_range=1.0,
)
"""The narrow conditions in which people demonstrate."""
DEPLOYED = Conditions(
    cube_offset_xy=(-0.005, 0.005),
    cube_xy_range_m=(0.025, 0.025),
    cube_yaw_range=0.6,
    drawer_jitter_m=0.01,
    window_jitter_m=0.01,
    arm_range=0.6,
    arm_yaw_range=1.5,
)
"""What the fleet meets: the cube shifted and twice as spread, more yaw, more of the arm's poses, sloppier slides."""


@dataclass(frozen=True, kw_only=True)
class SceneStart:
    """One sampled start: cube xy (m) and yaw, gripper position (m) and yaw, slides (m)."""

    cube: tuple[float, float]
    cube_yaw: float
    arm: Point
    arm_yaw: float
    drawer: float
    window: float


def sample_start(conditions: Conditions, task: SceneTask, rng: np.random.Generator) -> SceneStart:
    """Draw one start of a task; always the same number of draws per attempt, so the stream is stable."""
    low = (1 - conditions.arm_range) / 2
    arm = _ARM_LOW + (_ARM_HIGH - _ARM_LOW) * rng.uniform(low, 1 - low, 3)
    return SceneStart(
        arm=(float(arm[0]), float(arm[1]), float(arm[2])),
        arm_yaw=_around(rng, 0.0, conditions.arm_yaw_range),
        cube=_cube_xy(conditions, task, rng),
        cube_yaw=_around(rng, 0.0, conditions.cube_yaw_range),
        drawer=_clip(_around(rng, task.start_drawer, conditions.drawer_jitter_m), DRAWER_OPEN, DRAWER_CLOSED),
        window=_clip(_around(rng, task.start_window, conditions.window_jitter_m), WINDOW_CLOSED, WINDOW_OPEN),
    )


def _cube_xy(conditions: Conditions, task: SceneTask, rng: np.random.Generator) -> tuple[float, float]:
    """A place on the table, clear of the goal where the task is to move the cube there."""
    (x0, y0), (dx, dy) = task.start_cube, conditions.cube_offset_xy
    for _ in range(50):
        x = _within(rng, x0 + dx, conditions.cube_xy_range_m[0], *_TABLE_X)
        y = _within(rng, y0 + dy, conditions.cube_xy_range_m[1], *_TABLE_Y)
        place = (x, y)
        goal = task.goal.cube
        if goal is None or math.dist(place, goal[:2]) >= _CLEAR_OF_GOAL_M:
            return place
    raise ConfigError(
        f"Conditions place the cube of {task.spec.name!r} within {_CLEAR_OF_GOAL_M} m of its goal in 50 draws; "
        "choose another cube_offset_xy or a wider cube_xy_range_m."
    )


def _around(rng: np.random.Generator, centre: float, half_width: float) -> float:
    return float(centre + half_width * rng.uniform(-1.0, 1.0))


def _within(rng: np.random.Generator, centre: float, half_width: float, low: float, high: float) -> float:
    """Uniform in the part of centre +- half_width inside the bounds, so that nothing piles up on the border."""
    return float(rng.uniform(_clip(centre - half_width, low, high), _clip(centre + half_width, low, high)))


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
