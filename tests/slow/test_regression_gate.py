"""The slow tier: a small experiment of the fast tier learns what it learned when it was recorded. `make test-slow`."""

from __future__ import annotations

import pytest

from tests.slow import gate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return gate.run(tmp_path_factory.mktemp("gate") / "run")


def test_sft_and_offline_learning_repeat(measured):
    """One robot, one process, fixed seeds: the same machine gives the same digits."""
    sentences = gate.moved(gate.read_recorded(), measured, ("sft", "offline"))
    assert not sentences, gate.advice(sentences)


def test_online_learning_is_where_it_was(measured):
    """Four robots race, so two runs of one commit differ. The margins say what would certainly be a change: success by 0.2 of
    80 episodes (three standard deviations of a difference of two such rates, 0.079 each at most, are 0.24; runs of one seed
    were seen within 0.05), a metric by half of itself.
    """
    sentences = gate.moved(gate.read_recorded(), measured, ("online",))
    assert not sentences, gate.advice(sentences)


def test_learning_pays(measured):
    """Whatever was recorded: offline learning beats the clone, and deployment does not lose it."""
    success = measured["success"]
    assert success["offline"] > success["sft"] + 0.15, success
    assert success["online"] > success["offline"] - 0.1, success
