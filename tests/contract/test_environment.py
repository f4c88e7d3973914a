"""What every robot behind the Environment and Operator seams keeps: scene, Meta-World, and any Gymnasium environment."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

from lwd.episode import Outcome
from lwd.errors import ConfigError, UnknownNameError
from lwd.robot.environment import Environment
from lwd.robot.gymnasium_adapter import GymnasiumEnvironment
from lwd.robot.operator import Operator
from lwd.robot.sim.fleet_spec import FleetSpec
from lwd.spec import TaskSpec

LIMIT = 12


class Reach(gymnasium.Env[Any, Any]):
    """A point that must reach 0.5 on a plane; actions are metres per step in [0, 0.1] x [-0.2, 0.2]."""

    observation_space = gymnasium.spaces.Dict(
        {"where": Box(-9, 9, (2,), np.float64), "goal": Box(0, 1, (1,), np.float64)}
    )
    action_space = Box(np.array([0.0, -0.2]), np.array([0.1, 0.2]), dtype=np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.where = self.np_random.uniform(-0.1, 0.1, 2)
        return self._look(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.where = self.where + action
        there = bool(self.where[0] > 0.5)
        return self._look(), 0.0, there, False, {"success": there and abs(self.where[1]) < 0.5}

    def _look(self):
        return {"where": self.where.copy(), "goal": np.array([0.5])}


def reach(limit: int = LIMIT, success_key: str | None = "success") -> GymnasiumEnvironment:
    task = TaskSpec(
        name="reach", instruction="Go right.", milestones=("there",), time_limit_steps=limit, horizon="short"
    )
    return GymnasiumEnvironment(
        Reach(), tasks={"reach": task}, name="point", control_hz=10.0, chunk_steps=3, success_key=success_key
    )


def scene() -> Environment:
    return FleetSpec(time_limits={"restock": LIMIT, "rearrange": LIMIT}).build()[0]


def metaworld() -> Environment:
    return FleetSpec(tier="metaworld", time_limits={"coffee-button": LIMIT, "stick-pull": LIMIT}).build()[0]


CASES = [
    pytest.param(scene, ("restock", "rearrange"), id="scene"),
    pytest.param(metaworld, ("coffee-button", "stick-pull"), id="metaworld"),
    pytest.param(reach, ("reach", "reach"), id="gymnasium"),
]


def rollout(env: Environment, task: str, seed: int) -> tuple[np.ndarray, list[int]]:
    """Sensed states and milestones under gentle random actions, to the end of the episode."""
    rng = np.random.default_rng(seed)
    rows, reached = [env.reset(task, seed).proprio], [env.milestones_reached()]
    assert env.outcome() is None
    while env.outcome() is None:
        action = rng.uniform(-0.5, -0.3, env.spec.action_dim).astype(np.float32)
        rows.append(env.apply(action).proprio)
        reached.append(env.milestones_reached())
    return np.array(rows), reached


@pytest.mark.parametrize(("make", "tasks"), CASES)
def test_environment(make: Callable[[], Environment], tasks: tuple[str, str]):
    env = make()
    assert isinstance(env, Environment)
    assert all(name == task.name for name, task in env.tasks.items())
    for task in tasks:
        rows, reached = rollout(env, task, 5)
        assert rows.shape == (LIMIT + 1, env.spec.proprio_dim)
        assert rows.dtype == np.float32
        assert np.isfinite(rows).all()
        assert env.outcome() is Outcome.FAILURE  # the time limit
        assert reached == sorted(reached)
        assert reached[0] == 0
        assert reached[-1] <= len(env.tasks[task].milestones)
    other, _ = rollout(env, tasks[0], 6)
    again, _ = rollout(env, tasks[0], 5)
    fresh, _ = rollout(make(), tasks[0], 5)
    np.testing.assert_array_equal(again, fresh)  # nothing of earlier episodes is left
    assert not np.array_equal(other[0], again[0])
    with pytest.raises(UnknownNameError, match="unknown task 'nonsense'"):
        env.reset("nonsense", 0)
    env.close()


@pytest.mark.parametrize("tier", ["scene", "metaworld"])
def test_operators(tier: str):
    env, operators = FleetSpec(tier=tier).build()
    task = next(iter(env.tasks))
    for operator in operators.values():
        assert isinstance(operator, Operator)
        runs = []
        for seed in (3, 3, 4):
            env.reset(task, 1)
            operator.begin(task, seed)
            actions = []
            for _ in range(8):
                actions.append(operator.act())
                env.apply(actions[-1])
            runs.append(np.array(actions))
        assert runs[0].shape == (8, env.spec.action_dim)
        assert runs[0].dtype == np.float32
        assert np.abs(runs[0]).max() <= 1.0
        np.testing.assert_array_equal(runs[0], runs[1])
        assert not np.array_equal(runs[0], runs[2])


def test_gymnasium_actions_are_rescaled_and_success_is_judged():
    env = reach(limit=50)
    start = env.reset("reach", 0).proprio
    assert env.spec.proprio_dim == 3
    moved = env.apply(np.array([1.0, -1.0], np.float32)).proprio - start
    np.testing.assert_allclose(sorted(np.abs(moved)), [0.0, 0.1, 0.2], atol=1e-6)
    while env.outcome() is None:
        env.apply(np.array([1.0, 0.0], np.float32))
    assert env.outcome() is Outcome.SUCCESS
    assert env.milestones_reached() == 1


def test_gymnasium_termination_without_success_is_a_failure_unless_termination_means_success():
    for key, expected in (("success", Outcome.FAILURE), (None, Outcome.SUCCESS)):
        env = reach(limit=50, success_key=key)
        env.reset("reach", 0)
        while env.outcome() is None:
            env.apply(np.array([1.0, 1.0], np.float32))  # drifts off to the side, so the info says no success
        assert env.outcome() is expected


def test_gymnasium_needs_a_bounded_box():
    env = Reach()
    env.action_space = gymnasium.spaces.Discrete(3)
    with pytest.raises(ConfigError, match="bounded Box"):
        GymnasiumEnvironment(env, tasks={}, name="x", control_hz=1.0, chunk_steps=1)


def test_metaworld_expert_and_milestones():
    env, operators = FleetSpec(tier="metaworld").build()
    expert = operators["expert"]
    for task, total in (("coffee-button", 1), ("drawer-open", 2), ("bin-picking", 3)):
        env.reset(task, 0)
        expert.begin(task, 0)
        seen = [0]
        while env.outcome() is None:
            env.apply(expert.act())
            seen.append(env.milestones_reached())
        assert env.outcome() is Outcome.SUCCESS
        assert sorted(set(seen)) == list(range(total + 1))
        assert seen == sorted(seen)
    assert env.spec.control_hz == 80.0
