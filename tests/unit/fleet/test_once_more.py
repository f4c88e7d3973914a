"""Learning once more after the fleet's hours: from the SFT policy, on everything that was recorded, as a stage of its own."""

import shutil
from dataclasses import replace

import pytest
import toy_fleet

from lwd.baselines.cloning import Cloning
from lwd.config import stage_of_round
from lwd.episode import Outcome, Source
from lwd.errors import ConfigError, SnapshotError
from lwd.evaluate.report import write_report
from lwd.fleet.demo import consolidated_phases, fleet_totals
from lwd.fleet.folder import open_services
from lwd.fleet.offline import train_consolidated
from lwd.fleet.online import online
from lwd.fleet.phases import run_phases
from lwd.fleet.policies import find_snapshot, load_policy
from lwd.fleet.rounds import collection_of
from lwd.models.arrays import to_arrays
from lwd.recipes import recipe
from lwd.recipes.methods import hg_dagger
from lwd.recipes.once_more import clone_once_more, offline_once_more, refit_in_turns, refit_once_more
from lwd.results.gather import gather
from lwd.results.plan import Cell
from lwd.results.runfile import Costs
from tests.paper.paper_examples import assert_trees_equal

TOY = toy_fleet.experiment()
X = clone_once_more(replace(TOY, online=replace(TOY.online, control_steps=160)))

CELL = Cell(
    benchmark="toy",
    method="lwd_cloned_once_more",
    seed=0,
    stages=("consolidated",),
    experiment=X,
    plain=TOY,
    parent=None,
)


@pytest.mark.usefixtures("quick_compilation")
def test_a_clone_of_what_the_fleet_did_begins_with_the_sft_policy_and_is_evaluated(trained_copy, console):
    last = online(X, trained_copy, console)
    with open_services(trained_copy) as services:
        before = replace(X, consolidated=replace(X.consolidated, steps=0))
        unlearned = train_consolidated(before, services, console)
        shutil.rmtree(trained_copy.checkpoints("consolidated"))
        policies = [
            load_policy(X, services, n)[0] for n in (find_snapshot(services, "sft").number, unlearned.number)
        ]
        assert_trees_equal(*map(to_arrays, policies))
    timing = run_phases(trained_copy, consolidated_phases(X, trained_copy, console), console)
    with open_services(trained_copy) as services:
        found = find_snapshot(services, "consolidated")
        assert found.learner_step == X.consolidated.steps
        assert found.manifest >= last.manifest, "with everything that the fleet recorded"
        with pytest.raises(SnapshotError, match="has no stage 'consolidated', it has offline, online"):
            load_policy(TOY, services, found.number)
    assert (trained_copy.path / "evaluations" / "lwd_consolidated.json").exists()
    assert write_report(trained_copy.path).exists()
    kept = gather(CELL, trained_copy.path, timing, "lwd results run")
    assert len(kept.records) == 2 * 2, "two tasks, two starts"
    assert kept.costs == Costs(**fleet_totals(trained_copy.path / "episodes.jsonl"))
    assert kept.costs.robot_hours > 0, "what it learned from was not free"


def test_before_the_online_stage_there_is_nothing_to_learn_from(trained_copy, console):
    with open_services(trained_copy) as services, pytest.raises(SnapshotError, match="lwd fleet up"):
        train_consolidated(X, services, console)


def test_an_experiment_without_it_says_so(trained_copy, console):
    with (
        open_services(trained_copy) as services,
        pytest.raises(ConfigError, match=r"learns nothing after the online stage.*once_more"),
    ):
        train_consolidated(TOY, services, console)


def test_the_clone_learns_from_demonstrations_successes_and_corrections():
    """HG-DAgger's mixture, whichever method drove the fleet."""
    scene = recipe("scene")
    for x in (scene, hg_dagger(scene)):
        stage = clone_once_more(x).consolidated
        assert stage.mixture == hg_dagger(scene).online.mixture
        assert (stage.mixture.offline.sources, stage.mixture.online.sources) == (
            (Source.DEMO,),
            (Source.ONLINE,),
        )
        assert stage.mixture.online.outcomes == (Outcome.SUCCESS,)
        assert stage.mixture.online.corrections
        assert stage.mixture.online_share == 0.5
        assert isinstance(stage.learner, Cloning)
        assert stage.steps == stage.learner.policy.decay_steps == scene.clone.steps


def test_the_offline_stage_once_more_draws_from_both():
    scene = recipe("scene")
    stage = offline_once_more(scene).consolidated
    assert (
        replace(stage, mixture=scene.offline.mixture, warm_up_mixture=scene.offline.warm_up_mixture)
        == scene.offline
    )
    assert stage.mixture == scene.online.mixture


def test_a_reference_is_refitted_for_as_long_as_the_first_clone_and_tilted_for_as_long_as_offline():
    scene = recipe("scene")
    stage = refit_once_more(scene).consolidated
    assert stage.mixture == scene.online.mixture
    assert stage.critic_steps == scene.clone.steps == 30_000
    assert stage.steps - stage.critic_steps == stage.learner.policy.decay_steps == 8_000
    assert stage.learner.reference.policy.decay_steps == stage.learner.critic.decay_steps == stage.steps
    assert stage.learner.qam == scene.offline.learner.qam


def test_in_turns_the_learner_steps_are_those_of_the_loop_and_of_once_more():
    """0.1 learner steps for each of 130,000 control steps, 38,000 once more: 17,000 in each of three turns, half to tilt."""
    scene = recipe("scene")
    x = refit_in_turns(scene)
    turn = stage_of_round(x)
    assert (turn.steps, turn.critic_steps) == (17_000, 8_500)
    assert turn.mixture == scene.online.mixture
    learner = turn.learner
    assert learner.policy.decay_steps == 8_500
    assert learner.reference.policy.decay_steps == learner.critic.decay_steps == 17_000
    assert learner.qam == scene.offline.learner.qam
    ends = [collection_of(x, number).online.control_steps for number in (1, 2, 3)]
    assert ends == [43_333, 86_666, 130_000]
    assert replace(x.online, learner=scene.online.learner, rate=scene.online.rate, rounds=0) == scene.online


@pytest.mark.usefixtures("quick_compilation")
def test_a_turn_goes_on_from_the_one_before(trained_copy, console):
    x = refit_in_turns(
        replace(TOY, clone=replace(TOY.clone, steps=6), online=replace(TOY.online, control_steps=600))
    )
    online(x, trained_copy, console)
    with open_services(trained_copy) as services:
        published = [s for s in services.snapshots.list() if s.meta["stage"] == "online"]
        driving = {row.snapshot for row in services.catalogue.episodes(source="online")}
        offline = find_snapshot(services, "offline").number
    steps = stage_of_round(x).steps
    assert [s.learner_step for s in published] == [steps, 2 * steps, 3 * steps]
    assert driving == {offline, published[0].number, published[1].number}
