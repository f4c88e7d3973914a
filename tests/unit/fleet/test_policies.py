"""Policies as snapshots: the same policy comes back, and one of another robot, encoder or size is refused."""

from dataclasses import replace

import jax
import numpy as np
import pytest
import toy_fleet

from lwd.errors import SnapshotError
from lwd.fleet import evaluator
from lwd.fleet.evaluator import Evaluation
from lwd.fleet.folder import RunFolder, open_services
from lwd.fleet.policies import (
    announce_newest,
    find_snapshot,
    load_policy,
    model_config,
    normalizer_fingerprint,
    publish,
)
from lwd.fleet.service import ServiceContext
from lwd.models.arrays import to_arrays
from lwd.models.mlp import MlpPolicy, Normalizer
from lwd.robot.sim.fleet_spec import FleetSpec

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def services(tmp_path):
    with open_services(RunFolder(tmp_path / "run")) as opened:
        yield opened


@pytest.fixture(scope="module")
def policy():
    config = model_config(toy_fleet.experiment())
    return MlpPolicy.init(jax.random.key(5), config, Normalizer.identity(2))


def other(**changes):
    x = toy_fleet.experiment()
    return replace(x, model=replace(x.model, **changes))


def test_a_policy_is_published_announced_and_comes_back_exactly(services, policy):
    x = toy_fleet.experiment()
    published = publish(x, services, policy, stage="sft", learner_step=20, manifest=3)
    assert services.channel.newest() == published.number
    back, snapshot = load_policy(x, services, published.number)
    assert snapshot == published
    assert (snapshot.learner_step, snapshot.manifest) == (20, 3)
    for name, array in to_arrays(policy).items():
        assert array.tobytes() == to_arrays(back)[name].tobytes(), name
    meta = snapshot.meta
    assert (meta["stage"], meta["robot_spec"], meta["chunk_steps"], meta["flow_steps"]) == (
        "sft",
        "line",
        4,
        3,
    )


def test_a_learner_announces_the_newest_of_its_own_kind_again(services, policy, monkeypatch):
    x, theirs = toy_fleet.experiment(), FleetSpec(tier="toy_fleet:other_line")
    elsewhere = replace(x, fleet=replace(x.fleet, deployed=theirs, demonstrated=theirs))
    publish(elsewhere, services, policy, stage="sft", learner_step=0, manifest=None)
    heard = []
    monkeypatch.setattr(services.channel, "announce", heard.append)
    announce_newest(x, services)
    assert heard == []
    own = [
        publish(x, services, policy, stage=stage, learner_step=0, manifest=None)
        for stage in ("sft", "offline")
    ]
    publish(elsewhere, services, policy, stage="online", learner_step=0, manifest=None)
    heard.clear()
    announce_newest(x, services)
    assert heard == own[1:]


def test_the_snapshot_of_another_robot_is_refused(services, policy):
    x = toy_fleet.experiment()
    number = publish(x, services, policy, stage="sft", learner_step=0, manifest=None).number
    fleet = FleetSpec(tier="toy_fleet:other_line")
    elsewhere = replace(x, fleet=replace(x.fleet, deployed=fleet, demonstrated=fleet))
    with pytest.raises(
        SnapshotError, match=f"snapshot {number} has robot_spec 'line', this fleet has 'other-line'"
    ):
        load_policy(elsewhere, services, number)


def test_the_snapshot_of_another_instruction_encoder_is_refused(services, policy):
    number = publish(
        toy_fleet.experiment(), services, policy, stage="sft", learner_step=0, manifest=None
    ).number
    with pytest.raises(SnapshotError, match=r"instruction_encoder .* Use the recipe that it was made with"):
        load_policy(other(instruction_dim=16), services, number)


def test_the_snapshot_of_another_size_is_refused_leaf_by_leaf(services, policy):
    number = publish(
        toy_fleet.experiment(), services, policy, stage="sft", learner_step=0, manifest=None
    ).number
    with pytest.raises(
        SnapshotError, match=rf"snapshot {number} does not fit this model: .*expected float32 \(9"
    ):
        load_policy(other(width=9), services, number)


def test_the_newest_snapshot_of_a_stage_is_found(services, policy):
    x = toy_fleet.experiment()
    numbers = [
        publish(x, services, policy, stage=stage, learner_step=step, manifest=None).number
        for stage, step in (("sft", 1), ("sft", 2), ("offline", 1), ("online", 5))
    ]
    assert find_snapshot(services, "sft").number == numbers[1]
    assert find_snapshot(services, "online").number == numbers[3]


def test_another_kind_of_robots_snapshots_are_passed_over(services, policy, monkeypatch):
    x = toy_fleet.experiment()
    mine = publish(x, services, policy, stage="sft", learner_step=1, manifest=None)
    fleet = FleetSpec(tier="toy_fleet:other_line")
    elsewhere = replace(x, fleet=replace(x.fleet, deployed=fleet, demonstrated=fleet))
    with pytest.raises(SnapshotError, match="for robots of kind 'other-line'"):
        find_snapshot(services, "sft", elsewhere)
    publish(elsewhere, services, policy, stage="sft", learner_step=1, manifest=None)
    assert find_snapshot(services, "sft", x) == mine
    evaluated = []

    def evaluate(experiment, services, number, *others):
        evaluated.append(number)
        context.stopping.set()
        return Evaluation(number, [], [])

    context = ServiceContext("evaluator", "evaluator")
    monkeypatch.setattr(evaluator, "evaluate", evaluate)
    evaluator.run_evaluator(context, x, services.folder, every_s=0.01)
    assert evaluated == [mine.number]


@pytest.mark.parametrize(
    ("stage", "command"),
    [
        ("sft", "lwd train sft"),
        ("offline", "lwd train offline"),
        ("online", "lwd fleet up"),
        ("consolidated", "lwd train consolidated"),
    ],
)
def test_a_stage_without_snapshot_names_the_command_that_makes_it(services, stage, command):
    with pytest.raises(SnapshotError, match=f"no snapshot of stage '{stage}' in .*Make it first: {command}"):
        find_snapshot(services, stage)


def test_the_fingerprint_changes_with_the_normaliser_only():
    arrays = {"normalizer.mean": np.zeros(2), "normalizer.scale": np.ones(2), "out.weight": np.zeros(3)}
    base = normalizer_fingerprint(arrays)
    assert len(base) == 12
    assert normalizer_fingerprint({**arrays, "out.weight": np.ones(3)}) == base
    assert normalizer_fingerprint({**arrays, "normalizer.mean": np.ones(2)}) != base
