"""The scene against ogbench's own environment, its tasks, and its scripted operators."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest

from lwd.episode import Outcome
from lwd.errors import ConfigError, UnknownNameError
from lwd.recipes.ablations import PATIENT_STEPS
from lwd.recipes.sim import scene
from lwd.robot.sim.scene import SceneEnvironment
from lwd.robot.sim.scene_conditions import DEMONSTRATED, DEPLOYED, STOCK, Conditions, sample_start
from lwd.robot.sim.scene_expert import PlayOperator, SceneOperator
from lwd.robot.sim.scene_model import scene_model
from lwd.robot.sim.scene_plan import next_primitive
from lwd.robot.sim.scene_tasks import SCENE_TASKS, SceneGoal, SceneState
from lwd.robot.sim.style import EXPERT, HUMANLIKE, ExpertStyle

ROOM = {name: 900 if task.spec.horizon == "long" else 300 for name, task in SCENE_TASKS.items()}


def stock_in_the_state_of(env: SceneEnvironment):
    """ogbench's environment, put where ours is; a second compilation, so the two share nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ogbench.manipspace.envs.scene_env import SceneEnv

        stock = SceneEnv("scene")
        stock.reset(options={"task_id": 2}, seed=0)
    return stock


def align(stock, env: SceneEnvironment) -> None:
    import mujoco

    goal = env.goal
    mujoco.mj_resetData(stock._model, stock._data)
    stock._target_button_states = np.array(goal.buttons)
    stock._target_drawer_pos, stock._target_window_pos = goal.drawer, goal.window
    stock._data.mocap_pos[stock._cube_target_mocap_ids[0]] = goal.cube
    stock.set_state(env._qpos, env._qvel, np.array(env.state.buttons))
    stock.pre_step()


def test_every_step_is_the_stock_environments_bit_for_bit():
    env = SceneEnvironment(STOCK, ROOM)
    stock = stock_in_the_state_of(env)
    # Expert, sloppy and random actions: contacts, presses, grasps, slides and walls.
    for task, style in (
        ("rearrange", EXPERT),
        ("unlock_close_lock", HUMANLIKE),
        ("put_in_drawer_and_lock", None),
    ):
        rng, expert = np.random.default_rng(0), SceneOperator(env, style or EXPERT)
        first = env.reset(task, 3)
        align(stock, env)
        np.testing.assert_array_equal(first.proprio, stock.compute_observation().astype(np.float32))
        expert.begin(task, 3)
        for step in range(120):
            action = expert.act() if style else rng.uniform(-1, 1, 5).astype(np.float32)
            ours = env.apply(action).proprio
            theirs, _, terminated, _, info = stock.step(action.astype(np.float64))
            np.testing.assert_array_equal(ours, theirs.astype(np.float32), err_msg=f"{task}, step {step}")
            assert terminated == (env.outcome() is Outcome.SUCCESS)
            assert env.state.buttons == tuple(info["button_states"])
            assert env.privileged()["privileged/block_0_yaw"] == info["privileged/block_0_yaw"]
            if terminated:
                break
        np.testing.assert_array_equal(env._qpos, stock._data.qpos)


def test_what_is_not_tested_for_collision_cannot_collide():
    import mujoco

    env = SceneEnvironment(STOCK, ROOM)
    stock = stock_in_the_state_of(env)
    model, data, ours = stock._model, stock._data, env._shared.model
    mujoco.mj_resetData(model, data)
    slides = ("buttonbox_joint_0", "buttonbox_joint_1", "drawer_slide", "window_slide")
    for share in np.linspace(-0.05, 1.05, 100):  # end stops give way a little
        for name in slides:
            low, high = model.joint(name).range
            data.qpos[model.joint(name).qposadr[0]] = low + share * (high - low)
        mujoco.mj_forward(model, data)
        for one, other in data.contact.geom:
            kept = (ours.geom_contype[one] & ours.geom_conaffinity[other]) | (
                ours.geom_contype[other] & ours.geom_conaffinity[one]
            )
            assert kept, (model.body(model.geom_bodyid[one]).name, model.body(model.geom_bodyid[other]).name)


def test_an_episode_depends_on_task_and_seed_only_whatever_its_neighbours_do():
    alone, neighbour = SceneEnvironment(DEPLOYED), SceneEnvironment(DEPLOYED)
    expert, noisy = SceneOperator(alone, HUMANLIKE), SceneOperator(neighbour, HUMANLIKE)

    def episode(with_neighbour: bool) -> np.ndarray:
        if with_neighbour:
            neighbour.reset("open_drawer", 5)
            noisy.begin("open_drawer", 5)
            alone.reset("rearrange", 1)
        rows = [alone.reset("put_in_drawer_and_lock", 9).proprio]
        expert.begin("put_in_drawer_and_lock", 9)
        for _ in range(60):
            if with_neighbour:
                neighbour.apply(noisy.act())
                np.random.default_rng().random()
                np.random.seed(len(rows))
            rows.append(alone.apply(expert.act()).proprio)
        return np.array(rows)

    np.testing.assert_array_equal(episode(False), episode(True))


def test_operators_leave_the_global_random_state_alone():
    env = SceneEnvironment()
    env.reset("restock", 0)
    expert = SceneOperator(env)
    np.random.seed(7)
    expected = np.random.RandomState(7).random(3)
    expert.begin("restock", 0)
    expert.act()
    np.testing.assert_array_equal(np.random.random(3), expected)


def test_neither_goal_nor_task_is_in_the_observation():
    # These two tasks begin alike and want different things.
    env = SceneEnvironment()
    rows: dict[str, list[np.ndarray]] = {}
    for task in ("press_button", "put_in_drawer_and_lock"):
        rng = np.random.default_rng(1)
        rows[task] = [env.reset(task, 4).proprio]
        rows[task] += [env.apply(rng.uniform(-1, 1, 5).astype(np.float32)).proprio for _ in range(10)]
        assert env.goal.buttons == SCENE_TASKS[task].goal.buttons
    np.testing.assert_array_equal(*rows.values())
    assert SCENE_TASKS["press_button"].goal != SCENE_TASKS["put_in_drawer_and_lock"].goal


def test_milestones_latch_in_their_order_only():
    env = SceneEnvironment(time_limits=ROOM)

    class WindowFirst(SceneOperator):
        def goal(self) -> SceneGoal:
            return replace(env.goal, buttons=(0, 1), drawer=-0.16)

    env.reset("unlock_close_lock", 0)
    wrong = WindowFirst(env)
    wrong.begin("unlock_close_lock", 0)
    while not (abs(env.state.window) < 0.02 and env.state.buttons[1] == 1):
        env.apply(wrong.act())
        assert env.milestones_reached() == 0  # the window counts after the drawer only
        assert env.outcome() is None
    expert = SceneOperator(env)
    expert.begin("unlock_close_lock", 0)
    seen = [0]
    while env.outcome() is None:
        env.apply(expert.act())
        seen.append(env.milestones_reached())
    assert env.outcome() is Outcome.SUCCESS
    assert seen == sorted(seen)
    assert seen[-1] == 6  # a success counts as all of them


def test_a_latched_milestone_stays_when_it_is_undone():
    env = SceneEnvironment(time_limits=ROOM)

    class Toggler(SceneOperator):
        def goal(self) -> SceneGoal:
            return replace(env.goal, buttons=wanted, drawer=0.0, cube=None)

    env.reset("rearrange_hard", 2)
    toggler = Toggler(env)
    wanted = (1, 0)
    toggler.begin("rearrange_hard", 2)
    for wanted in ((1, 0), (0, 0)):
        while env.state.buttons != wanted:
            env.apply(toggler.act())
    assert env.milestones_reached() == 1


def test_the_goal_of_a_task_without_a_cube_is_to_leave_the_cube_where_it_was():
    env = SceneEnvironment(DEPLOYED)
    env.reset("open_drawer", 11)
    assert env.goal.cube is not None
    np.testing.assert_allclose(env.goal.cube, env.state.cube, atol=1e-3)
    assert env.goal.cube[:2] != SCENE_TASKS["open_drawer"].start_cube


@pytest.mark.parametrize("conditions", [STOCK, DEMONSTRATED, DEPLOYED])
def test_starts_are_within_their_conditions_and_no_episode_is_born_solved(conditions: Conditions):
    for task in SCENE_TASKS.values():
        for seed in range(50):
            start = sample_start(conditions, task, np.random.default_rng(seed))
            assert 0.31 <= start.cube[0] <= 0.46
            assert -0.09 <= start.cube[1] <= 0.16
            assert abs(start.drawer - task.start_drawer) <= conditions.drawer_jitter_m
            state = SceneState(
                (*start.cube, 0.02), task.start_buttons, start.drawer, start.window, -0.23 - start.drawer
            )
            goal = replace(task.goal, cube=task.goal.cube or state.cube)
            assert not goal.reached(state)
            assert not task.reached[0](state)
            assert next_primitive(state, goal) is not None


def test_deployment_differs_from_demonstration():
    task = SCENE_TASKS["put_in_drawer_and_lock"]
    shown, met = (
        np.array([sample_start(c, task, np.random.default_rng(s)).cube for s in range(200)])
        for c in (DEMONSTRATED, DEPLOYED)
    )
    outside = (met < shown.min(0)) | (met > shown.max(0))
    assert outside.any(1).mean() > 0.5  # most deployed cubes lie where none was demonstrated


def test_expert_does_every_task_from_any_start():
    env = SceneEnvironment(DEPLOYED, ROOM)
    expert = SceneOperator(env)
    solved = {name: 0 for name in env.tasks}
    for task in env.tasks:
        for seed in (0, 1):
            env.reset(task, seed)
            expert.begin(task, seed)
            while env.outcome() is None:
                env.apply(expert.act())
            solved[task] += env.outcome() is Outcome.SUCCESS
    assert sum(solved.values()) >= 15, solved


def test_patient_operators_wait_for_longer_than_the_expert_goes_without_a_milestone():
    rule = scene().online.takeover
    assert rule is not None
    env = SceneEnvironment(DEPLOYED, ROOM)
    expert, longest = SceneOperator(env), {}
    for task in ("rearrange", "rearrange_hard"):
        env.reset(task, 0)
        expert.begin(task, 0)
        reached, since, gaps = 0, 0, [0]
        while env.outcome() is None:
            env.apply(expert.act())
            since += 1
            if env.milestones_reached() > reached:
                gaps.append(since)
                reached, since = env.milestones_reached(), 0
        assert env.outcome() is Outcome.SUCCESS
        longest[task] = max(gaps)
    # The cube's way into the drawer is where the recipe's operators interrupt the best attempt there is.
    assert longest["rearrange"] < rule.stall_steps < longest["rearrange_hard"] < PATIENT_STEPS


def test_expert_takes_over_from_wherever_random_actions_led():
    env = SceneEnvironment(DEPLOYED, ROOM)
    expert, rng = SceneOperator(env), np.random.default_rng(0)
    solved = 0
    for seed, task in enumerate(("restock", "open_drawer", "rearrange", "put_in_drawer_and_lock")):
        env.reset(task, seed)
        for _ in range(60):
            env.apply(rng.uniform(-1, 1, 5).astype(np.float32))
        expert.begin(task, seed)
        while env.outcome() is None:
            env.apply(expert.act())
        solved += env.outcome() is Outcome.SUCCESS
    assert solved >= 3


def test_weaknesses_make_demonstrations_longer_but_not_failures():
    env = SceneEnvironment(DEMONSTRATED, ROOM)

    def steps(style: ExpertStyle) -> list[int]:
        lengths = []
        for seed in range(3):
            env.reset("restock", seed)
            operator = SceneOperator(env, style)
            operator.begin("restock", seed)
            lengths.append(0)
            while env.outcome() is None:
                env.apply(operator.act())
                lengths[-1] += 1
            assert env.outcome() is Outcome.SUCCESS
        return lengths

    plain = sum(steps(EXPERT))
    assert sum(steps(replace(EXPERT, speed=(0.5, 0.5)))) > 1.2 * plain
    assert sum(steps(replace(EXPERT, pause_probability=0.05))) > 1.2 * plain
    assert sum(steps(replace(EXPERT, detour_probability=1.0))) > 1.1 * plain
    assert sum(steps(replace(EXPERT, mistake_probability=1.0))) > 1.2 * plain


def test_play_mostly_fails_the_task_that_was_asked_for():
    env = SceneEnvironment()
    play = PlayOperator(env)
    outcomes = []
    for seed, task in enumerate(("restock", "open_drawer", "close_window", "press_button")):
        env.reset(task, seed)
        play.begin(task, seed)
        while env.outcome() is None:
            env.apply(play.act())
        outcomes.append(env.outcome())
    assert outcomes.count(Outcome.FAILURE) >= 3


def test_robots_of_a_process_share_one_model_without_sharing_locks():
    open_, locked = SceneEnvironment(), SceneEnvironment()
    open_.reset("open_drawer", 0)
    locked.reset("press_button", 0)
    assert open_._shared is locked._shared is scene_model()
    expert = SceneOperator(open_)
    expert.begin("open_drawer", 0)
    while open_.outcome() is None:
        open_.apply(expert.act())
        locked.apply(np.zeros(5, np.float32))
    assert open_.outcome() is Outcome.SUCCESS
    assert locked.state.buttons == (0, 0)
    assert math.isclose(locked.state.drawer, 0.0, abs_tol=0.012)


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(UnknownNameError, match="restok"):
        SceneEnvironment(time_limits={"restok": 10})
    with pytest.raises(ConfigError, match="at least 1"):
        SceneEnvironment(time_limits={"restock": 0})
    with pytest.raises(ConfigError, match="within 0 and 0"):
        Conditions(drawer_jitter_m=0.05)
    with pytest.raises(ConfigError, match="speed"):
        ExpertStyle(speed=(0.0, 1.0))
    with pytest.raises(ConfigError, match="pause_probability"):
        ExpertStyle(pause_probability=2.0)
    far = Conditions(cube_offset_xy=(0.0, 0.2), cube_xy_range_m=(0.0, 0.0))
    with pytest.raises(ConfigError, match="choose another cube_offset_xy"):
        sample_start(far, SCENE_TASKS["restock"], np.random.default_rng(0))
