"""Descriptions of robots and tasks: what every episode would be refused for is refused at once."""

from typing import Any

import pytest

from lwd.errors import ConfigError
from lwd.spec import MAX_CAMERAS, MAX_STEPS, CameraSpec, RobotSpec, TaskSpec


def robot(**changes: Any) -> RobotSpec:
    values: dict[str, Any] = {
        "name": "arm",
        "proprio_dim": 6,
        "action_dim": 3,
        "control_hz": 10.0,
        "chunk_steps": 5,
    }
    return RobotSpec(**{**values, **changes})


def task(**changes: Any) -> TaskSpec:
    values: dict[str, Any] = {
        "name": "drawer",
        "instruction": "open the drawer",
        "milestones": ("open",),
        "time_limit_steps": 100,
        "horizon": "short",
    }
    return TaskSpec(**{**values, **changes})


def camera(name: str = "wrist", height: int = 8, width: int = 12) -> CameraSpec:
    return CameraSpec(name=name, height=height, width=width)


@pytest.mark.parametrize(
    "changes",
    [
        {"control_hz": float("nan")},
        {"control_hz": float("inf")},
        {"control_hz": 2e6},
        {"control_hz": 0.0},
        {"proprio_dim": 0},
        {"action_dim": 100_000},
        {"chunk_steps": -1},
        {"name": "a\nb"},
        {"cameras": (camera(), camera())},
        {"cameras": tuple(camera(f"c{i}") for i in range(MAX_CAMERAS + 1))},
    ],
)
def test_a_robot_whose_episodes_would_all_be_refused_is_refused(changes: dict[str, Any]):
    with pytest.raises(ConfigError, match="RobotSpec"):
        robot(**changes)


@pytest.mark.parametrize("changes", [{"name": "front cam"}, {"name": ""}, {"height": 0}, {"width": -1}])
def test_a_camera_that_no_file_can_hold_is_refused(changes: dict[str, Any]):
    with pytest.raises(ConfigError, match=r"camera|CameraSpec"):
        camera(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"time_limit_steps": MAX_STEPS + 1},
        {"time_limit_steps": 0},
        {"instruction": "open\nthe drawer"},
        {"milestones": ()},
        {"name": "x" * 5000},
    ],
)
def test_a_task_whose_episodes_would_all_be_refused_is_refused(changes: dict[str, Any]):
    with pytest.raises(ConfigError, match="TaskSpec"):
        task(**changes)


def test_the_largest_that_works_is_allowed():
    robot(cameras=tuple(camera(f"c{i}") for i in range(MAX_CAMERAS)), control_hz=1e6)
    assert (
        task(time_limit_steps=MAX_STEPS, instruction="引き出しを\u3000開ける").time_limit_steps == MAX_STEPS
    )
