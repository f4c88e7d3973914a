"""What an experiment's description refuses, and a fleet that is asked only some of its tier's tasks."""

from dataclasses import replace

import pytest
import toy_fleet

from lwd.config import FleetConfig
from lwd.errors import ConfigError, RobotError, UnknownNameError
from lwd.fleet.services import fleet_description
from lwd.replay.rate import RateLimit
from lwd.robot.control import Assignment
from lwd.robot.memory import MemoryRecorder
from lwd.robot.sim.describe import describe
from lwd.robot.sim.fleet import SimFleet
from lwd.robot.sim.fleet_spec import FleetSpec
from lwd.robot.sim.run import run

X = toy_fleet.experiment()


@pytest.mark.parametrize(
    ("tier", "chosen"),
    [
        ("metaworld", ("drawer-open", "coffee-button")),
        ("scene", ("rearrange",)),
        ("toy_fleet:line", ("far",)),
    ],
)
def test_a_fleet_can_be_asked_only_some_tasks(tier, chosen):
    """They stay in the tier's order, and everything else about the robot stays."""
    spec, everything = describe(FleetSpec(tier=tier))
    same_spec, tasks = describe(FleetSpec(tier=tier, tasks=chosen))
    assert same_spec == spec
    assert set(tasks) == set(chosen)
    assert list(tasks) == [name for name in everything if name in chosen]
    assert all(tasks[name] == everything[name] for name in chosen)


def test_a_task_that_the_tier_does_not_have_is_named():
    with pytest.raises(UnknownNameError, match=r"unknown task 'coffee-buton'\. Did you mean 'coffee-button'"):
        describe(FleetSpec(tier="metaworld", tasks=("coffee-buton",)))


def test_no_task_at_all_is_refused():
    with pytest.raises(ConfigError, match="at least one task, or be None"):
        FleetSpec(tasks=())


def test_the_simulated_fleet_refuses_the_others():
    def act(batch):
        raise RobotError("nobody asks for a chunk")

    spec = replace(X.fleet.deployed, tasks=("far",))
    with SimFleet(spec, robots=1, workers=1) as fleet:
        assert list(fleet.tasks) == ["far"]
        with pytest.raises(UnknownNameError, match="'near'"):
            run(fleet, lambda robot: Assignment(task="near", seed=0), act, MemoryRecorder())


def test_demonstrated_and_deployed_fleet_must_have_the_same_tasks():
    far = replace(X.fleet.deployed, tasks=("far",))
    with pytest.raises(ConfigError, match="must name the same tasks"):
        FleetConfig(deployed=far, demonstrated=X.fleet.demonstrated)
    only = replace(X, fleet=FleetConfig(deployed=far, demonstrated=far))
    assert list(fleet_description(only)[1]) == ["far"]


def test_a_learner_that_publishes_less_often_than_its_slack_is_refused():
    """It works in blocks of that size, so learner and fleet could wait for each other."""
    rate = RateLimit(learner_steps_per_control_step=1.0, learner_slack_steps=40)
    replace(X.online, rate=rate, publish_every_learner_steps=40)
    with pytest.raises(
        ConfigError, match=r"blocks of 50 learner steps .* only 40 ahead .*wait for each other"
    ):
        replace(X.online, rate=rate, publish_every_learner_steps=50)


@pytest.mark.parametrize(
    "changes",
    [
        {"control_steps": 0},
        {"publish_every_learner_steps": 0},
        {"checkpoint_every_learner_steps": 0},
    ],
)
def test_counts_of_the_online_stage_must_be_positive(changes):
    with pytest.raises(ConfigError, match="at least 1"):
        replace(X.online, **changes)
