"""The rate limit: what it refuses, what it waits for, and that learner and fleet never wait for each other."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lwd.errors import ConfigError
from lwd.replay.rate import RateLimit

HALF = RateLimit(
    learner_steps_per_control_step=0.5,
    learner_slack_steps=10,
    actor_slack_steps=100,
    control_steps_before_learning=200,
)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"learner_steps_per_control_step": 0.0}, "must be positive and finite, got 0.0"),
        ({"learner_steps_per_control_step": -1.0}, "must be positive and finite, got -1.0"),
        ({"learner_steps_per_control_step": math.nan}, "must be positive and finite, got nan"),
        ({"learner_steps_per_control_step": math.inf}, "must be positive and finite, got inf"),
        ({"learner_slack_steps": 0}, "both slacks must be at least 1 learner step"),
        ({"actor_slack_steps": 0}, "learner and fleet would wait for each other"),
        ({"control_steps_before_learning": -1}, "control_steps_before_learning must not be negative"),
        (
            {"control_steps_before_learning": 1002, "actor_slack_steps": 500},
            "only after 1002 control steps, worth 501: both would wait for ever. Raise actor_slack_steps or lower",
        ),
    ],
)
def test_impossible_settings_are_refused_with_a_sentence(changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        RateLimit(**{"learner_steps_per_control_step": 0.5, **changes})


def test_waiting_for_the_first_experience_may_take_all_of_the_fleets_slack():
    RateLimit(learner_steps_per_control_step=0.5, control_steps_before_learning=1000, actor_slack_steps=500)


@pytest.mark.parametrize(
    ("control_steps", "allowed"),
    [(0, 0), (199, 0), (200, 110), (201, 110), (202, 111), (1000, 510)],
)
def test_the_learner_may_be_its_slack_ahead_of_the_ratio(control_steps, allowed):
    assert HALF.allowed_learner_steps(control_steps) == allowed


def test_the_learner_waits_for_control_steps_and_says_how_many():
    # After 1000 control steps 500 + 10 learner steps are allowed.
    assert HALF.learner_waits_for(learner_steps=500, block_steps=10, control_steps=1000) is None
    assert (
        HALF.learner_waits_for(learner_steps=500, block_steps=20, control_steps=1000)
        == "20 more control steps (at 500 learner steps for 1000 control steps)"
    )
    assert HALF.learner_waits_for(learner_steps=500, block_steps=20, control_steps=1020) is None


def test_before_learning_begins_the_learner_names_the_experience_it_waits_for():
    assert (
        HALF.learner_waits_for(learner_steps=0, block_steps=10, control_steps=150)
        == "the fleet has delivered 150 of 200 control steps before learning begins"
    )
    assert HALF.learner_waits_for(learner_steps=0, block_steps=10, control_steps=200) is None


def test_the_fleet_waits_for_the_learner_and_says_how_far_it_is_behind():
    # 100 learner steps of slack are 200 control steps.
    assert HALF.fleet_waits_for(learner_steps=400, control_steps=1000) is None
    assert (
        HALF.fleet_waits_for(learner_steps=400, control_steps=1002)
        == "the learner, which is 101 learner steps behind (at 400 for 1002 control steps; 100 allowed)"
    )


@given(
    ratio=st.floats(1e-4, 20.0),
    learner_slack=st.integers(1, 500),
    actor_slack=st.integers(1, 500),
    before=st.integers(0, 100_000),
    block_share=st.floats(0.0, 1.0),
    learner_steps=st.integers(0, 200_000),
    control_steps=st.integers(0, 200_000),
    near=st.none() | st.integers(-700, 700),
)
def test_learner_and_fleet_never_both_wait(
    ratio, learner_slack, actor_slack, before, block_share, learner_steps, control_steps, near
):
    """For every valid limit and every block that fits its slack, at every pair of counts."""
    assume(before * ratio <= actor_slack)
    limit = RateLimit(
        learner_steps_per_control_step=ratio,
        learner_slack_steps=learner_slack,
        actor_slack_steps=actor_slack,
        control_steps_before_learning=before,
    )
    if near is not None:  # most random pairs are far from where anybody waits
        learner_steps = max(0, int(control_steps * ratio) + near)
    block = max(1, round(block_share * learner_slack))
    learner = limit.learner_waits_for(learner_steps, block, control_steps)
    fleet = limit.fleet_waits_for(learner_steps, control_steps)
    assert learner is None or fleet is None


def test_a_block_larger_than_the_slack_would_let_both_wait():
    """Why OnlineStage refuses to publish less often than the learner's slack."""
    limit = RateLimit(learner_steps_per_control_step=1.0, learner_slack_steps=1, actor_slack_steps=1)
    assert limit.learner_waits_for(learner_steps=0, block_steps=50, control_steps=2) is not None
    assert limit.fleet_waits_for(learner_steps=0, control_steps=2) is not None
