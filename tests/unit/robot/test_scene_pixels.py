"""The scene with cameras: the same physics, less told and more seen; drawn in software, recorded as JPEG."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from itertools import product

import numpy as np
import pytest
from sim_runs import run_episodes

from lwd import image
from lwd.episode import Source
from lwd.errors import ConfigError, UnknownNameError
from lwd.log.validate import validate
from lwd.robot.control import Assignment
from lwd.robot.sim import rendering
from lwd.robot.sim.describe import describe
from lwd.robot.sim.fleet import SimFleet
from lwd.robot.sim.fleet_spec import FleetSpec
from lwd.robot.sim.run import ActBatch
from lwd.robot.sim.scene import SCENE_SPEC, SENSED, SceneEnvironment
from lwd.spec import CameraSpec

FRONT = CameraSpec(name="front_pixels", height=24, width=32)


@pytest.fixture(scope="module")
def can_draw() -> None:
    try:
        rendering._context(8, 8).free()
    except ConfigError as error:
        pytest.skip(f"{error} .ci/run installs it.")


draws = pytest.mark.usefixtures("can_draw")


@draws
def test_the_arm_senses_less_and_sees_the_rest() -> None:
    told, seeing = SceneEnvironment(), SceneEnvironment(cameras=(FRONT,))
    assert told.spec is SCENE_SPEC
    assert (seeing.spec.name, seeing.spec.proprio_dim, seeing.spec.cameras) == (
        "scene_pixels",
        SENSED,
        (FRONT,),
    )
    first, same = told.reset("restock", 3), seeing.reset("restock", 3)
    assert first.images == {}
    pictures = [same.images["front_pixels"]]
    for step in range(6):
        action = np.array([0.5, -1.0, 0.2 * step, 0.0, 1.0], np.float32)
        first, same = told.apply(action), seeing.apply(action)
        assert same.proprio.tobytes() == first.proprio[:SENSED].tobytes()
        pictures.append(same.images["front_pixels"])
    assert told.outcome() == seeing.outcome()
    pixels = [image.decode(jpeg, 24, 32).astype(int) for jpeg in pictures]
    assert np.abs(pixels[-1] - pixels[0]).max() > 40, "the arm moved"
    assert all(frame.std() > 20 for frame in pixels), "something is to be seen"
    # The objects are where they are: the cube lies elsewhere under another seed, and only the picture tells.
    again = seeing.reset("restock", 3)
    assert again.images["front_pixels"] == pictures[0]
    assert seeing.reset("restock", 4).images["front_pixels"] != pictures[0]


def picture(robot: SceneEnvironment, buttons: tuple[int, int]) -> np.ndarray:
    """What the robot sees [24, 32, 3] where it is, with its buttons in these states."""
    robot._buttons = buttons
    return image.decode(robot._sensed().images["front_pixels"], 24, 32).astype(int)


@draws
def test_each_button_can_be_seen_to_be_lit_and_its_handle_to_be_free() -> None:
    robot = SceneEnvironment(cameras=(FRONT,))
    robot.reset("press_button", 0)
    dark = picture(robot, (0, 0))
    first, second = (np.abs(picture(robot, on) - dark).max(-1) > 40 for on in ((1, 0), (0, 1)))
    assert first.sum() >= 3
    assert second.sum() >= 3
    assert not (first & second).any(), "each colours its own"


@draws
def test_pictures_are_the_stock_pixel_environments() -> None:
    """Colours of every geometry and material, and the picture: no mark of where the cube is to go, no pale cube."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ogbench.manipspace.envs.scene_env import SceneEnv

        stock = SceneEnv("scene", visualize_info=False)
        stock.reset(options={"task_id": 2}, seed=0)
    robot = SceneEnvironment(cameras=(FRONT,))
    robot.reset("restock", 0)
    cameras = rendering.Cameras(stock._model, (FRONT,))
    for buttons in product((0, 1), repeat=2):
        robot._buttons = buttons
        jpegs = robot._sensed().images
        stock.set_state(robot._qpos, robot._qvel, np.array(buttons))
        ours = robot._shared.model
        np.testing.assert_array_equal(ours.geom_rgba, stock._model.geom_rgba)
        np.testing.assert_array_equal(ours.mat_rgba, stock._model.mat_rgba)
        assert jpegs == cameras.jpegs(stock._data), buttons


@draws
def test_robots_of_one_model_see_their_own_buttons() -> None:
    robots = [SceneEnvironment(cameras=(FRONT,)) for _ in range(2)]
    assert robots[0]._shared is robots[1]._shared
    still = np.zeros(5, np.float32)

    def seen(order: tuple[int, ...]) -> list[list[bytes]]:
        pictures: list[list[bytes]] = [[], []]
        for robot, buttons in zip(robots, ((0, 0), (1, 1)), strict=True):
            robot.reset("press_button", 0)
            robot._buttons = buttons
        for i in order:
            pictures[i].append(robots[i].apply(still).images["front_pixels"])
        return pictures

    dark, lit = seen((0, 1, 0, 1))
    assert dark[0] != lit[0]
    assert [dark, lit] == seen((0, 0, 1, 1))


@draws
def test_a_camera_that_the_scene_does_not_have() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown camera 'fornt'\. Did you mean 'front'"):
        SceneEnvironment(cameras=(CameraSpec(name="fornt", height=8, width=8),))


@draws
def test_a_fleet_records_what_it_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers draw whatever MUJOCO_GL says here, and hand the policy the newest pictures."""
    monkeypatch.setenv("MUJOCO_GL", "disabled")
    spec = FleetSpec(cameras=(FRONT,), tasks=("press_button",), time_limits={"press_button": 30})
    robot, tasks = describe(spec)
    seen: list[bytes] = []

    def act(batch: ActBatch) -> np.ndarray:
        seen.extend(batch.images["front_pixels"])
        return np.zeros((len(batch.robots), 5, 5), np.float32)

    plan = [
        Assignment(task="press_button", seed=1, source=Source.DEMO, driver="operator"),
        Assignment(task="press_button", seed=2),
    ]
    with SimFleet(spec, robots=2, workers=1) as fleet:
        assert fleet.spec == robot
        demo, online = run_episodes(fleet, plan, act)
    assert demo.success
    assert not online.success
    for episode in (demo, online):
        assert len(episode.images["front_pixels"]) == episode.steps + 1
        validate(episode, {robot.name: robot}, tasks)
    assert seen == [online.images["front_pixels"][t] for t in range(0, 30, 5)]


def test_meta_world_has_no_cameras() -> None:
    with pytest.raises(ConfigError, match="no cameras"):
        FleetSpec(tier="metaworld", cameras=(FRONT,))


def test_without_a_gl_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "BACKENDS", {"egl": "libNoSuchLibrary.so.1"})
    assert rendering.backend() is None
    with pytest.raises(ConfigError, match="apt-get install libegl1"):
        rendering.Cameras(SceneEnvironment()._shared.model, (FRONT,))


def test_a_robot_without_cameras_loads_no_gl() -> None:
    code = (
        "import sys; sys.modules['OpenGL'] = None\n"
        "from lwd.robot.sim.scene import SceneEnvironment\n"
        "assert SceneEnvironment().reset('restock', 0).proprio.shape == (40,)\n"
        "assert 'lwd.robot.sim.rendering' not in sys.modules\n"
        "assert not any('EGL' in line or 'OSMesa' in line for line in open('/proc/self/maps'))\n"
    )
    environment = {**os.environ, "MUJOCO_GL": "disabled"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=200)


@draws
def test_a_process_that_has_drawn_ends_without_a_word() -> None:
    code = (
        "import sys, weakref\n"
        "weakref.finalize(sys.modules[__name__], print)\n"  # whoever is first fixes when all of them are called
        "from lwd.robot.sim.scene import SceneEnvironment\n"
        "from lwd.spec import CameraSpec\n"
        "cameras = (CameraSpec(name='front_pixels', height=24, width=32),)\n"
        "robot = SceneEnvironment(cameras=cameras)\n"
        "robot.reset('restock', 0)\n"
        "sys.kept = dict(sys.modules)\n"  # as under pytest: modules that somebody keeps are emptied, the last imported first
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert (ended.returncode, ended.stderr) == (0, "")
