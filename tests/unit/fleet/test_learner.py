"""The learner process by itself: what it draws while it waits, and that it says when its learning rate has ended."""

import logging
from dataclasses import replace

import pytest
import toy_fleet

from lwd.fleet.learner import learned_out, run_learner
from lwd.fleet.service import ServiceContext
from lwd.fleet.training import draws_of
from lwd.recipes.methods import METHODS, fine_tuned_clone
from lwd.replay.sampler import Sampler

X = toy_fleet.experiment()


class Patient(ServiceContext):
    """Told to stop when it has waited five times."""

    def __init__(self):
        super().__init__("learner", "learner")
        self.waited, self.warnings = 0, []

    def say(self, **status):
        super().say(**status)
        self.warnings += [status["warning"]] if "warning" in status else []
        self.waited += status.get("waits_for") is not None
        if self.waited == 5:
            self.stopping.set()


@pytest.fixture
def drawn(monkeypatch):
    """The learner steps whose batches were drawn, from the online stage's own random numbers."""
    steps, draw = [], Sampler.draw

    def noted(self, step, *arguments):
        assert self.stream == draws_of("online") != draws_of("offline")
        steps.append(step)
        return draw(self, step, *arguments)

    monkeypatch.setattr(Sampler, "draw", noted)
    return steps


def ending_at(learner_step):
    """The toy experiment whose policy learns no more from there on."""
    policy = replace(X.online.learner.policy, decay_steps=learner_step, warmup_steps=0)
    return replace(X, online=replace(X.online, learner=replace(X.online.learner, policy=policy)))


@pytest.mark.usefixtures("quick_compilation")
def test_a_learner_that_waits_draws_nothing_and_one_without_a_learning_rate_says_so_once(
    trained_copy, drawn, caplog
):
    """Without the fleet two blocks of 5 learner steps are allowed; the third is drawn ahead, and not again."""
    context = Patient()
    with caplog.at_level(logging.WARNING):
        run_learner(context, ending_at(4), trained_copy, catch_up=False)
    assert context.status()["learner_step"] == 10
    assert drawn == [0, 5, 10]
    [warning] = context.warnings
    assert warning.startswith("learns no more: learning rates ended at 0 (policy at learner step 4).")
    assert caplog.text.count("learning_rate_is_zero") == 1


def test_learning_rates_that_end_at_zero_are_known_for_every_method():
    clone = fine_tuned_clone(X, 100)
    assert learned_out(clone, 100) == {}
    assert learned_out(clone, 101) == {"policy": 100}
    assert learned_out(replace(clone, policy=replace(clone.policy, final_share=0.1)), 101) == {}
    for name, method in METHODS.items():
        assert learned_out(method(X).online.learner, 10**9), name
