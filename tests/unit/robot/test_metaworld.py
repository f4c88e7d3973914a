"""Meta-World's fifty tasks; what every environment keeps is in tests/contract/test_environment.py."""

import gc
import itertools
import weakref

import numpy as np
import pytest

from lwd.episode import Outcome
from lwd.errors import ConfigError, RobotError
from lwd.instruction import InstructionEncoder
from lwd.robot.control import Assignment, ControlLoop, Round
from lwd.robot.sim import metaworld, metaworld_model
from lwd.robot.sim.describe import describe
from lwd.robot.sim.fleet_spec import FleetSpec
from lwd.robot.sim.metaworld_tasks import (
    EIGHT_TASKS,
    EXPERT_STEPS,
    METAWORLD_TASKS,
    MILESTONE_SIGNALS,
)

TIER = FleetSpec(tier="metaworld")


def expert_episode(task: str, seed: int) -> list[Round]:
    loop = ControlLoop(*TIER.build())
    rounds = [loop.begin(Assignment(task=task, seed=seed, driver="operator"))]
    while rounds[-1].verdict is None:
        rounds.append(loop.run(None))
    return rounds


def test_the_tier_has_all_fifty_and_a_fleet_may_ask_for_fewer():
    spec, tasks = describe(TIER)
    assert len(tasks) == 50
    assert set(tasks) == {name.removesuffix("-v3") for name in metaworld_model.scripts()}
    assert list(describe(FleetSpec(tier="metaworld", tasks=EIGHT_TASKS))[1]) == list(EIGHT_TASKS)
    assert (spec.proprio_dim, spec.action_dim) == (39, 4)


def test_the_table_is_consistent_with_what_was_measured():
    for name, task in METAWORLD_TASKS.items():
        assert task.name == name
        assert len(task.milestones) == len(MILESTONE_SIGNALS[name])
        assert MILESTONE_SIGNALS[name][-1] == "success"
        assert 2 <= task.time_limit_steps / EXPERT_STEPS[name] <= 4
        assert task.horizon == ("long" if EXPERT_STEPS[name] >= 85 else "short")


@pytest.mark.parametrize("dim", [32, 64])
def test_instructions_are_distinct_and_their_embeddings_distinguishable(dim: int):
    sentences = [task.instruction for task in METAWORLD_TASKS.values()]
    assert len(set(sentences)) == 50
    embed = InstructionEncoder(dim=dim)
    rows = np.stack([embed(sentence) for sentence in sentences]) / np.sqrt(dim)
    cosine = rows @ rows.T
    np.fill_diagonal(cosine, 0.0)
    assert cosine.max() < 0.9


def test_every_task_resets_and_steps_and_the_seed_decides():
    env, other = metaworld.MetaworldEnvironment(), metaworld.MetaworldEnvironment()
    rng = np.random.default_rng(0)
    for name in METAWORLD_TASKS:
        actions = rng.uniform(-1, 1, (3, 4)).astype(np.float32)
        runs = []
        for robot, seed in ((env, 1), (env, 2), (env, 1), (other, 1)):
            rows = [robot.reset(name, seed).proprio, *(robot.apply(action).proprio for action in actions)]
            assert robot.milestones_reached() == 0
            assert robot.outcome() is None
            runs.append(np.stack(rows))
        assert runs[0].shape == (4, 39)
        assert runs[0].dtype == np.float32
        assert np.isfinite(runs[0]).all()
        np.testing.assert_array_equal(runs[0], runs[2], err_msg=name)  # nothing of another episode is left
        np.testing.assert_array_equal(runs[0], runs[3], err_msg=name)
        assert not np.array_equal(runs[0], runs[1]), name
    env.close()
    other.close()


@pytest.mark.parametrize("starts", [(0.0, 0.5), (0.5, 1.0)])
def test_episodes_begin_in_the_part_of_the_box_that_is_asked_for(starts: tuple[float, float]):
    """All places that Meta-World draws, of all fifty; some draw again until two are far enough apart."""
    env = metaworld.MetaworldEnvironment(starts=starts)
    for name in METAWORLD_TASKS:
        box = metaworld_model.build(name)._random_reset_space
        low, high = (box.low + share * (box.high - box.low) for share in starts)
        drawn: list[np.ndarray] = []
        for seed in range(5):
            env.reset(name, seed)
            drawn.append(env._sim._last_rand_vec)
        places = np.stack(drawn)
        assert (places >= low - 1e-9).all(), name
        assert (places <= high + 1e-9).all(), name
        assert (np.ptp(places, axis=0) > 0).any(), name
    env.close()


def test_the_whole_box_is_what_a_seed_has_always_meant():
    whole, stock = (metaworld.MetaworldEnvironment(*given) for given in ((None, (0.0, 1.0)), ()))
    for seed in range(3):
        np.testing.assert_array_equal(whole.reset("push", seed).proprio, stock.reset("push", seed).proprio)
    env, _ = FleetSpec(tier="metaworld", starts=(0.0, 0.5)).build()
    assert any(
        not np.array_equal(env.reset("push", seed).proprio, stock.reset("push", seed).proprio)
        for seed in range(3)
    )


def test_a_part_in_which_no_places_are_far_enough_apart_is_an_error_and_no_endless_loop():
    env = metaworld.MetaworldEnvironment(starts=(0.9, 1.0))
    with pytest.raises(RobotError, match=r"'coffee-pull' found no places .* FleetSpec\.starts"):
        env.reset("coffee-pull", 0)


@pytest.mark.parametrize("starts", [(0.5, 0.5), (-0.1, 0.5), (0.2, 1.1), (0.6, 0.4)])
def test_a_part_that_is_none_is_refused(starts: tuple[float, float]):
    with pytest.raises(ConfigError, match=r"FleetSpec\.starts must be \(low, high\)"):
        FleetSpec(tier="metaworld", starts=starts)
    with pytest.raises(ConfigError, match="the scene has conditions"):
        FleetSpec(starts=(0.0, 0.5))


def test_models_without_what_is_drawn_move_like_the_stock_ones():
    for task in ("door-open", "coffee-push", "stick-pull"):
        bare = metaworld_model.build(task)
        with metaworld_model.quiet():
            stock = metaworld_model.prepared(metaworld_model.stock()[f"{task}-v3"]())
        actions = np.random.default_rng(1).uniform(-1, 1, (40, 4)).astype(np.float32)
        seen = []
        for sim in (bare, stock):
            sim.seed(3)
            seen.append([sim.reset()[0], *(sim.step(action)[0] for action in actions)])
        np.testing.assert_array_equal(seen[0], seen[1])
        assert bare.model.nbuffer < stock.model.nbuffer / 4


def test_a_robot_holds_one_simulator_and_a_process_one_compiled_model_per_xml(
    monkeypatch: pytest.MonkeyPatch,
):
    """Otherwise fifty tasks and eight robots would be four hundred models."""
    built: list[weakref.ref[object]] = []

    def build(task: str, starts: tuple[float, float]) -> object:
        sim = metaworld_model.build(task, starts)
        built.append(weakref.ref(sim))
        return sim

    monkeypatch.setattr(metaworld, "build", build)
    robots = [metaworld.MetaworldEnvironment() for _ in range(2)]
    assert not built  # nothing is built before a robot needs it
    compiled = metaworld_model._compiled.cache_info().currsize
    for task in ("reach", "push", "faucet-open", "faucet-close"):
        for robot in robots:
            robot.reset(task, 0)
            robot.reset(task, 1)
    assert len(built) == 8
    gc.collect()
    assert sum(ref() is not None for ref in built) == 2
    assert metaworld_model._compiled.cache_info().currsize <= compiled + 3  # both faucets are one XML


@pytest.mark.parametrize("task", ["reach", "door-unlock", "push", "assembly", "pick-place-wall"])
def test_experts_succeed_through_all_milestones_in_order(task: str):
    rounds = expert_episode(task, 0)
    verdict = rounds[-1].verdict
    assert verdict is not None
    assert verdict.outcome is Outcome.SUCCESS
    assert verdict.stage_score == 1.0
    again = expert_episode(task, 0)
    assert all(
        np.array_equal(a.actions, b.actions) and np.array_equal(a.last, b.last)
        for a, b in itertools.zip_longest(rounds, again)
    )
