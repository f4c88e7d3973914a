"""The learner that takes turns as a service: a round for every part that the fleet delivers, stopped anywhere, resumed."""

import shutil
import threading

import numpy as np
import pytest
import toy_fleet

from lwd.errors import ConfigError
from lwd.fleet.folder import RunFolder, open_services
from lwd.fleet.learner_rounds import round_name, rounds_published, run_learner_in_rounds, train_round
from lwd.fleet.metrics_log import read_metrics
from lwd.fleet.rounds import collect_round
from lwd.fleet.service import ServiceContext

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.timeout(300)]

X = toy_fleet.in_turns()


class Told(ServiceContext):
    """A service's context that is told to stop as soon as what it said fits."""

    def __init__(self, when):
        super().__init__("learner", "learner")
        self.when, self.heard = when, []

    def say(self, **status):
        super().say(**status)
        self.heard.append(status)
        if self.when(status):
            self.stopping.set()


def once_waiting_for(round_number):
    return lambda status: (status.get("waits_for") or "").endswith(f"before round {round_number}")


def run(folder, when):
    """The service until `when`; what it said."""
    context = Told(when)
    thread = threading.Thread(target=run_learner_in_rounds, args=(context, X, folder))
    thread.start()
    thread.join(200)
    context.stopping.set()
    assert not thread.is_alive()
    return context.heard


def published(folder):
    with open_services(folder) as services:
        return [(s, services.snapshots.load(s.number)[0]) for s in rounds_published(services)]


def test_it_waits_for_a_part_and_says_for_how_much(trained_copy):
    heard = run(trained_copy, once_waiting_for(1))
    assert heard[-1]["waits_for"] == "120 more control steps before round 1"
    assert heard[-1]["learner_step"] == 0
    assert published(trained_copy) == []


def test_stopped_in_the_middle_it_goes_on_to_what_an_uninterrupted_round_learns(delivered, tmp_path, console):
    whole = RunFolder(tmp_path / "whole")
    shutil.copytree(delivered.path, whole.path)
    with open_services(whole) as services:
        train_round(X, services, 1, console)
    [(expected, arrays)] = published(whole)

    heard = run(delivered, lambda status: status.get("learner_step", 0) >= 5)
    assert {status["learner_step"] for status in heard if "learner_step" in status} == {0, 5}
    assert published(delivered) == []
    heard = run(delivered, once_waiting_for(2))
    assert heard[-1]["waits_for"] == "120 more control steps before round 2", (
        "all that was learned from is used up"
    )
    [(found, again)] = published(delivered)
    assert (
        (found.learner_step, found.manifest)
        == (expected.learner_step, expected.manifest)
        == (12, expected.manifest)
    )
    for name in arrays:
        np.testing.assert_array_equal(again[name], arrays[name], err_msg=name)
    steps = [row["learner_step"] for row in read_metrics(delivered.metrics(round_name(1)))]
    assert steps == [5, 10, 12], "nothing is learned twice"


def test_a_run_whose_learner_did_not_take_turns_is_refused(delivered, console):
    with (
        open_services(delivered) as services,
        pytest.raises(ConfigError, match=r"online_round_1 is missing, and round 2"),
    ):
        train_round(X, services, 2, console)
    assert not delivered.checkpoints(round_name(1)).exists()


def test_rounds_follow_one_another_beyond_the_recipes_and_keep_one_checkpoint(delivered, console):
    run(delivered, once_waiting_for(2))
    collect_round(X, delivered, 5, console)  # at least two parts more: what piled up is one round
    run(delivered, once_waiting_for(3))
    collect_round(X, delivered, 7, console)
    run(delivered, once_waiting_for(4))
    found = [snapshot for snapshot, _ in published(delivered)]
    assert [snapshot.learner_step for snapshot in found] == [12, 24, 36]
    manifests = [snapshot.manifest for snapshot in found]
    assert manifests == sorted(set(manifests))
    kept = sorted(path.name for path in delivered.checkpoints("").iterdir())
    assert kept == ["offline", round_name(3), "sft"]


def test_the_watchdog_gives_each_round_time_to_compile(delivered, tmp_path):
    """Between rounds the heartbeat says starting again, and learner steps count through."""
    from lwd.fleet.heartbeat import Heartbeat, read_beat
    from lwd.fleet.hosts import Team

    beats = []

    class Noted(Heartbeat):
        def _write(self, phase):
            super()._write(phase)
            beat = read_beat(tmp_path / "beat.json")
            if not beats or beats[-1] != (beat.phase, beat.learner_step):
                beats.append((beat.phase, beat.learner_step))

    context = Told(once_waiting_for(2))
    run_learner_in_rounds(context, X, delivered, Team(heartbeat=Noted(tmp_path / "beat.json")))
    assert beats == [
        ("starting", -1),
        ("starting", 0),
        ("learning", 5),
        ("learning", 10),
        ("learning", 12),
        ("starting", 12),
    ]
