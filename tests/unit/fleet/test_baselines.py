"""Every method through the fleet's own code: offline, then blocks of the online learner, and robots that act with each."""

import shutil
import threading
from dataclasses import replace
from multiprocessing import Pipe

import numpy as np
import pytest
import toy_fleet

from lwd.fleet.acting import fleet_driver
from lwd.fleet.folder import open_services
from lwd.fleet.learner import run_learner
from lwd.fleet.metrics_log import read_metrics
from lwd.fleet.offline import train_offline, train_sft
from lwd.fleet.policies import find_snapshot, load_policy
from lwd.fleet.process import ProcessContext
from lwd.fleet.training import StageRun
from lwd.learner.augment import AugmentConfig
from lwd.learner.method import Acting
from lwd.learner.sharding import Layout
from lwd.recipes.methods import METHODS

pytestmark = pytest.mark.usefixtures("quick_compilation")

TOY = toy_fleet.experiment()
TOY = replace(TOY, offline=replace(TOY.offline, critic_steps=4, steps=8))
ACTS_WITH = {"recap": "AdvantagePolicy", "best_of_n": "BestOfNPolicy"}


@pytest.fixture
def told_to_stop():
    """The context of a learner that only catches up with the fleet: as far ahead as the rate allows, no further."""
    stop = threading.Event()
    stop.set()
    receive, send = Pipe(duplex=False)
    yield ProcessContext("learner", stop, send)
    receive.close()


@pytest.mark.parametrize("name", [name for name in METHODS if name != "lwd"])
def test_it_learns_offline_and_online_and_robots_act_with_what_it_publishes(
    name, trained_copy, told_to_stop, console
):
    x = METHODS[name](TOY)
    shutil.rmtree(trained_copy.checkpoints("offline"))  # LWD's; the data and the SFT policy are everyone's
    with open_services(trained_copy) as services:
        train_offline(x, services, console)
    run_learner(told_to_stop, x, trained_copy)

    rows = read_metrics(trained_copy.metrics("online"))
    slack, block = x.online.rate.learner_slack_steps, x.online.publish_every_learner_steps
    assert [row["learner_step"] for row in rows] == list(range(block, slack + 1, block))
    assert not [key for row in rows for key, value in row.items() if value is None]
    driver = fleet_driver(x)
    with open_services(trained_copy) as services:
        newest = {stage: find_snapshot(services, stage) for stage in ("sft", "offline", "online")}
        for snapshot in newest.values():
            policy, _ = load_policy(x, services, snapshot.number)
            assert isinstance(policy, Acting)
            driver.load(snapshot.number, policy)
    names = [snapshot.meta["acting"] for snapshot in newest.values()]
    assert names == ["MlpPolicy", *2 * [ACTS_WITH.get(name, "MlpPolicy")]]
    normalizers = {snapshot.meta["normalizer"] for snapshot in newest.values()}
    assert len(normalizers) == (
        2 if name == "best_of_n" else 1
    )  # its critic brings the normaliser a second time
    chunks = {
        stage: driver.act(
            np.array([[0.2, 0.3]], np.float32),
            ["Walk far."],
            [snapshot.number],
            np.array([7], np.int64),
            np.array([0], np.int64),
        )
        for stage, snapshot in newest.items()
    }
    assert all(chunk.shape == (1, 4, 2) and np.abs(chunk).max() <= 1 for chunk in chunks.values())
    if name == "hg_dagger":  # nothing is learned offline
        np.testing.assert_array_equal(chunks["offline"], chunks["sft"])
        assert np.any(chunks["online"] != chunks["sft"])


class ReachedError(Exception):
    """The online learner came to its first block."""


def test_every_stage_augments_the_pictures_of_its_method(trained_copy, told_to_stop, console, monkeypatch):
    """Around every learner step: of the clone, of the value alone, of Algorithm 2 offline and online."""
    seen = []

    def train(run, one_update, state, sampler, *, batch, until_step):
        seen.append(one_update.args[1].crop)
        return state

    def run_block(layout, one_update, state, batches, key):
        seen.append(one_update.args[1].crop)
        raise ReachedError

    monkeypatch.setattr(StageRun, "train", train)
    monkeypatch.setattr(Layout, "run_block", run_block)
    crops = {"clone": 0.81, "offline": 0.82, "online": 0.83}
    x = toy_fleet.experiment()
    for name, crop in crops.items():
        stage = getattr(x, name)
        learner = replace(stage.learner, augment=AugmentConfig(crop=crop))
        x = replace(x, **{name: replace(stage, learner=learner)})
    with open_services(trained_copy) as services:
        train_sft(x, services, console)
        train_offline(x, services, console)
    with pytest.raises(ReachedError):
        run_learner(told_to_stop, x, trained_copy)
    assert seen == [0.81, 0.82, 0.82, 0.83]
