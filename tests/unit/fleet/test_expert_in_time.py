"""What the expert reaches on the evaluation's starts, counted on a robot whose every step is known."""

import toy_fleet

from lwd.episode import Outcome
from tools.expert_in_time import attempts

X = toy_fleet.experiment()


def test_the_experts_steps_are_counted_on_each_start():
    """A tenth of a metre a step, one metre and two."""
    assert attempts(X, 3) == {"near": [10, 10, 10], "far": [20, 20, 20]}


def test_an_attempt_that_was_not_in_time_counts_as_none(monkeypatch):
    monkeypatch.setattr(toy_fleet.Line, "outcome", lambda robot: Outcome.FAILURE if robot.k >= 9 else None)
    assert attempts(X, 1) == {"near": [None], "far": [None]}
