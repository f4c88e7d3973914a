"""The methods as experiments: what they share with LWD, what they learn from, and states that survive a checkpoint."""

from dataclasses import replace

import jax
import pytest

from lwd.config import stage_of_round
from lwd.episode import Outcome, Source
from lwd.errors import ConfigError
from lwd.learner.augment import AugmentConfig
from lwd.learner.checkpoint import Checkpoints
from lwd.learner.method import Method
from lwd.learner.trainable import Trainable
from lwd.models.arrays import from_arrays, to_arrays
from lwd.recipes import recipe
from lwd.recipes.ablations import refitted_reference
from lwd.recipes.methods import CLONING_PACE, METHODS, RECAP_PACE, hg_dagger, rft
from tests.paper.paper_examples import SIZES, assert_trees_equal, tiny_policy

pytestmark = pytest.mark.usefixtures("quick_compilation")

SCENE = recipe("scene", 3)
EXPERIMENTS = {name: make(SCENE) for name, make in METHODS.items()}
SUCCESS = (Outcome.SUCCESS,)
PACE = {"rft": CLONING_PACE, "hg_dagger": CLONING_PACE, "recap": RECAP_PACE}
every_method = pytest.mark.parametrize("name", list(METHODS))


@every_method
def test_every_method_has_lwds_fleet_data_models_evaluation_and_experience(name):
    x = EXPERIMENTS[name]
    for part in ("fleet", "collect", "model", "clone", "evaluate", "gamma", "seed"):
        assert getattr(x, part) == getattr(SCENE, part), part
    assert x.online.control_steps == SCENE.online.control_steps
    assert isinstance(x.offline.learner, Method)
    assert type(x.offline.learner) is type(x.online.learner)
    assert x.name == (SCENE.name if name == "lwd" else f"{SCENE.name}_{name}")


@every_method
def test_operators_take_over_where_the_method_has_them(name):
    assert (EXPERIMENTS[name].online.takeover is None) == (name in ("rft", "recap"))


def test_lwd_is_the_recipe_itself():
    assert EXPERIMENTS["lwd"] == SCENE


@pytest.mark.parametrize("name", ["iql_qam", "awac", "best_of_n"])
def test_what_differs_from_lwd_in_the_learner_has_the_same_stages_and_settings(name):
    x = EXPERIMENTS[name]
    for stage in ("offline", "online"):
        mine, lwds = getattr(x, stage), getattr(SCENE, stage)
        assert replace(mine, learner=lwds.learner) == lwds
        for setting in ("policy", "critic", "qam", "batch", "policy_batch", "ema_rate", "policy_ema_rate"):
            assert getattr(mine.learner, setting) == getattr(lwds.learner, setting)
        assert mine.learner.divl.tau_base == lwds.learner.divl.tau_base


def test_updates_are_lwds_or_several_cheaper_ones_for_each():
    for name, x in EXPERIMENTS.items():
        steps = SCENE.online.control_steps * SCENE.online.rate.learner_steps_per_control_step
        pace = PACE.get(name, 1)
        found = x.online.control_steps * x.online.rate.learner_steps_per_control_step
        assert found == pytest.approx(pace * steps), name
        offline = (
            0 if name == "hg_dagger" else SCENE.offline.steps + SCENE.offline.critic_steps * (name == "recap")
        )
        assert x.offline.steps == offline, name


def test_rft_imitates_successes_only_and_nobody_takes_over():
    x = EXPERIMENTS["rft"]
    for pool in (x.offline.mixture.offline, x.online.mixture.offline):
        assert (pool.sources, pool.outcomes) == ((Source.DEMO, Source.ROLLOUT), SUCCESS)
    own = x.online.mixture.online
    assert (own.sources, own.outcomes, own.corrections) == ((Source.ONLINE,), SUCCESS, False)
    assert (x.offline.critic_steps, x.offline.steps) == (0, SCENE.offline.steps)


def test_hg_dagger_begins_with_sft_and_imitates_corrections_too():
    x = EXPERIMENTS["hg_dagger"]
    assert (x.offline.critic_steps, x.offline.steps) == (0, 0)
    demonstrations, own = x.online.mixture.offline, x.online.mixture.online
    assert (demonstrations.sources, demonstrations.outcomes) == ((Source.DEMO,), SUCCESS)
    assert (own.sources, own.outcomes, own.corrections) == ((Source.ONLINE,), SUCCESS, True)
    assert x.online.mixture.online_share == 0.5


def test_recap_learns_from_everything_in_two_autonomous_rounds():
    x = EXPERIMENTS["recap"]
    returns, ahead = x.offline.warm_up_mixture.offline, x.offline.mixture.offline
    for pool in (returns, ahead, x.online.mixture.offline):
        assert set(pool.sources) == set(Source)
        assert set(pool.outcomes) == set(Outcome)
    longest = max(SCENE.fleet.demonstrated.time_limits.values())
    assert min(returns.n_short, returns.n_long) * 5 > longest
    assert (ahead.n_short, ahead.n_long) == (4, 4)  # one second: 20 control steps in chunks of 5
    assert x.online.rounds == 2
    assert x.online.learner.tasks == 8


def test_every_method_hands_on_how_pictures_are_augmented():
    """The stages apply it, around the learner step of whatever method (`test_baselines` of the fleet)."""
    augment = AugmentConfig(crop=0.9)
    seeing = {
        name: replace(stage, learner=replace(stage.learner, augment=augment))
        for name, stage in {name: getattr(SCENE, name) for name in ("clone", "offline", "online")}.items()
    }
    x = replace(SCENE, **seeing)
    made = {name: method(x) for name, method in METHODS.items()} | {"refitted": refitted_reference(x)}
    for name, mine in made.items():
        for stage in (mine.offline, mine.online):
            assert stage.learner.augment == (None if name == "recap" else augment), name


def test_clones_that_go_on_train_what_the_first_one_trained():
    trainable = Trainable(policy="expert")
    x = replace(SCENE, clone=replace(SCENE.clone, learner=replace(SCENE.clone.learner, trainable=trainable)))
    for method in (rft, hg_dagger):
        assert method(x).online.learner.trainable == trainable


def test_schedules_end_with_the_learner_steps():
    steps = round(
        CLONING_PACE * SCENE.online.rate.learner_steps_per_control_step * SCENE.online.control_steps
    )
    for name in ("rft", "hg_dagger"):
        assert EXPERIMENTS[name].online.learner.policy.decay_steps == steps
    assert EXPERIMENTS["rft"].offline.learner.policy.decay_steps == SCENE.offline.steps
    offline, turn = EXPERIMENTS["recap"].offline, stage_of_round(EXPERIMENTS["recap"])
    assert turn.steps == RECAP_PACE * SCENE.online.control_steps // 10 // 2
    for stage in (offline, turn):
        schedules = stage.learner.value.decay_steps, stage.learner.policy.decay_steps
        assert schedules[0] == pytest.approx(stage.critic_steps, abs=1)
        assert sum(schedules) == stage.steps


@pytest.mark.parametrize("name", list(PACE))
def test_cloning_may_take_several_steps_for_one_and_publishes_as_often(name):
    mine, lwds = EXPERIMENTS[name].online, SCENE.online
    assert mine.rate.learner_steps_per_control_step == pytest.approx(
        PACE[name] * lwds.rate.learner_steps_per_control_step
    )
    for rate, stage in ((mine.rate, mine), (lwds.rate, lwds)):
        per_snapshot = stage.publish_every_learner_steps / rate.learner_steps_per_control_step
        assert per_snapshot == pytest.approx(500)
    mine_slack = mine.rate.actor_slack_steps / mine.rate.learner_steps_per_control_step
    assert mine_slack == pytest.approx(lwds.rate.actor_slack_steps / lwds.rate.learner_steps_per_control_step)


@every_method
@pytest.mark.parametrize("base", ["scene_quick", "metaworld"])
def test_methods_are_made_from_other_recipes_too(name, base):
    METHODS[name](recipe(base))


@pytest.mark.parametrize("name", ["recap", "iql_qam", "awac", "best_of_n"])
def test_a_method_of_a_method_is_refused(name):
    with pytest.raises(ConfigError, match=r"this one learns with Cloning\. Begin with the recipe itself"):
        METHODS[name](EXPERIMENTS["rft"])


@every_method
def test_its_state_survives_a_checkpoint_and_its_policy_a_snapshot(name, tmp_path):
    method, reference = EXPERIMENTS[name].online.learner, tiny_policy(0)
    state = method.start(reference, SIZES, jax.random.key(1))
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    try:
        checkpoints.save(0, state, {"stage": "online", "seed": 3, "manifest": 1})
        again, _ = checkpoints.restore(method.start(reference, SIZES, jax.random.key(2)))
    finally:
        checkpoints.close()
    assert_trees_equal(again, state)
    acting = method.acting(state)
    template = method.acting(method.start(tiny_policy(9), SIZES, jax.random.key(2)))
    assert_trees_equal(from_arrays(template, to_arrays(acting), "a snapshot"), acting)
