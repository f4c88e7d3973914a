"""Learner, coordinator and robots as real processes: the learner is killed in mid-run, and the run goes on."""

import os
import signal
import time
from dataclasses import replace
from itertools import pairwise

import pytest
import toy_fleet

from lwd.errors import ConfigError, SnapshotError
from lwd.fleet.folder import RunFolder, open_services
from lwd.fleet.metrics_log import read_metrics
from lwd.fleet.online import describe, online
from lwd.fleet.process import FleetError, RunningFleet
from lwd.fleet.program import program
from lwd.log import manifest
from lwd.robot.sim.fleet_spec import FleetSpec

X = toy_fleet.experiment()
EVERY = X.online.publish_every_learner_steps


def state_of(folder):
    """Episodes, manifests and snapshots, in full."""
    with open_services(folder) as services:
        return (
            services.catalogue.episodes(),
            manifest.manifests(services.catalogue),
            services.snapshots.list(),
        )


def kill_learner_in_mid_run(folder):
    """Start the fleet, kill the learner once it has passed a checkpoint, end the others; its last words."""
    (folder.path / "logs").mkdir()
    fleet = RunningFleet(program(X, folder), str(folder.path / "logs"))
    deadline = time.monotonic() + 150
    try:
        checkpoint = folder.checkpoints("online") / "10"
        while fleet.status["learner"].get("learner_step", 0) < 15 or not checkpoint.exists():
            assert time.monotonic() < deadline, fleet.status
            assert fleet.poll(), fleet.status
            time.sleep(0.01)
        os.kill(fleet.processes["learner"].pid, signal.SIGKILL)
        fleet.processes["learner"].join()
        with pytest.raises(FleetError, match=r"learner \(pid \d+\) ended with code -9"):
            fleet.poll()
        return dict(fleet.status["learner"])
    finally:
        fleet.kill()
        assert not any(process.is_alive() for process in fleet.processes.values())


def test_a_killed_learner_goes_on_from_its_checkpoint_and_nothing_shrinks(trained_copy, console):
    told = kill_learner_in_mid_run(trained_copy)
    episodes, manifests, snapshots = state_of(trained_copy)
    before = read_metrics(trained_copy.metrics("online"))
    assert [row["learner_step"] for row in before] == list(
        range(EVERY, before[-1]["learner_step"] + 1, EVERY)
    )
    assert before[-1]["learner_step"] >= told["learner_step"] >= 15

    newest = online(X, trained_copy, console)

    more_episodes, more_manifests, more_snapshots = state_of(trained_copy)
    assert more_episodes[: len(episodes)] == episodes
    assert more_manifests[: len(manifests)] == manifests
    assert more_snapshots[: len(snapshots)] == snapshots
    assert len(more_snapshots) > len(snapshots)
    assert len({row.episode_id for row in more_episodes}) == len(more_episodes)
    assert newest == more_snapshots[-1]

    after = read_metrics(trained_copy.metrics("online"))[len(before) :]
    resumed_from = after[0]["learner_step"] - EVERY
    assert resumed_from > 0
    assert resumed_from % 10 == 0, "a checkpoint, every 10 learner steps"
    assert resumed_from <= before[-1]["learner_step"]
    for rows in (before, after):
        assert all(b["learner_step"] - a["learner_step"] == EVERY for a, b in pairwise(rows))
        assert all(b["snapshot"] - a["snapshot"] == 1 for a, b in pairwise(rows))
        assert [r["replay/manifest"] for r in rows] == sorted(r["replay/manifest"] for r in rows)

    collected = sum(row.steps for row in more_episodes if row.source == "online")
    assert collected >= X.online.control_steps
    # It catches up with what the fleet brought in before it ends, and never runs ahead of the rate.
    allowed = X.online.rate.allowed_learner_steps(collected)
    assert allowed - EVERY < newest.learner_step <= allowed
    assert all(row.snapshot is not None for row in more_episodes if row.source == "online")


def test_online_before_offline_says_what_to_run_first(tmp_path, console):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(SnapshotError, match="Make it first: lwd train offline"):
        online(X, folder, console)
    assert not (folder.path / "logs").exists(), "no process was started"


def test_a_takeover_rule_without_anybody_to_take_over_is_refused(tmp_path, console):
    alone = FleetSpec(tier="toy_fleet:nobody")
    x = replace(X, fleet=replace(X.fleet, deployed=alone, demonstrated=alone))
    with pytest.raises(ConfigError, match="no operator 'expert', who would take over"):
        online(x, RunFolder(tmp_path / "run"), console)
    with pytest.raises(SnapshotError, match="lwd train offline"):
        online(replace(x, online=replace(x.online, takeover=None)), RunFolder(tmp_path / "run"), console)


def test_the_line_that_people_see_says_who_waits_for_what():
    status = {
        "coordinator": {},
        "learner": {"learner_step": 50, "snapshot": 4, "waits_for": "20 more control steps"},
        "actor": {"last": {"snapshot": 3}, "waits_for": None},
    }
    assert describe(status) == (
        "learner step 50, snapshot 4, robots run 3, learner waits for 20 more control steps"
    )
    assert describe({"learner": {}, "actor": {}}) == "learner step 0, snapshot -"
