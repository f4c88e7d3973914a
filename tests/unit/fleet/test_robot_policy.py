"""How a robot comes by its policy: in the background, verified, from its disk without a network, never an older one."""

import errno
import os
import time
from dataclasses import replace

import jax
import numpy as np
import pytest
import toy_fleet
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lwd.errors import StoreError
from lwd.fleet import robot_policy
from lwd.fleet.folder import RunFolder, open_services
from lwd.fleet.policies import model_config, publish
from lwd.fleet.robot_policy import PolicyFollower, SnapshotCache, View
from lwd.fleet.telemetry import Telemetry
from lwd.instruction import InstructionEncoder
from lwd.learner.best_of_n import BestOfNPolicy
from lwd.models.mlp import MlpPolicy, Normalizer
from lwd.snapshot.keys import load_private_key

ENCODER = InstructionEncoder(dim=8)


@pytest.fixture
def services(tmp_path):
    with open_services(RunFolder(tmp_path / "run")) as opened:
        yield opened


@pytest.fixture
def published(services):
    """Publishes a policy and returns its row."""
    x = toy_fleet.experiment()
    policy = MlpPolicy.init(jax.random.key(5), model_config(x), Normalizer.identity(2))

    def publish_one(experiment=x, acting=policy):
        return publish(experiment, services, acting, stage="sft", learner_step=1, manifest=1)

    return publish_one


class Site:
    """A robot's disk and its network, which can be cut."""

    def __init__(self, services, folder):
        self.services, self.folder, self.cut, self.downloads = services, folder, False, 0
        self.announced, self.tries = None, 0
        self.key = load_private_key(services.folder.snapshot_key).public_key()

    def get(self, key, max_bytes=None):
        self.tries += 1
        if self.cut:
            raise StoreError("the cable is out")
        self.downloads += 1
        return self.services.objects.get(key, max_bytes)

    def robot(self, spec=toy_fleet.SPEC):
        cache = SnapshotCache(self.folder, self, self.key, spec.name)
        return PolicyFollower(lambda: self.announced, cache, self.key, spec, ENCODER, Telemetry({}))


@pytest.fixture
def site(services, tmp_path):
    return Site(services, tmp_path / "robot")


def until(condition):
    deadline = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_takes_the_newest_and_skips_what_lies_between(site, published):
    robot = site.robot()
    try:
        assert robot.newest() is None
        site.announced = published()
        until(lambda: robot.newest() is not None)
        for _ in range(3):
            newest = published()
        site.announced = newest
        until(lambda: robot.newest().snapshot.number == newest.number)
        assert site.downloads == 1  # the same bytes under another number: the disk had them
        assert robot.behind() == 0
    finally:
        robot.close()


def test_it_chooses_among_chunks_where_the_snapshot_brings_a_critic(site, published):
    x = toy_fleet.experiment()
    config, same = model_config(x), Normalizer.identity(2)
    policy = config.make_policy(jax.random.key(5), same)
    critic = config.make_critic(jax.random.key(6), same, config.atoms)
    view = View(np.zeros(2, np.float32), "go")
    site.announced = published(acting=BestOfNPolicy(policy, critic, 8))
    robot = site.robot()
    try:
        until(lambda: robot.newest() is not None)
        best = robot.newest().chunk(view, 3, 0)
        site.announced = published(acting=policy)
        until(lambda: robot.newest().number == 2)
        first = robot.newest().chunk(view, 3, 0)
        assert best.shape == first.shape == (toy_fleet.SPEC.chunk_steps, toy_fleet.SPEC.action_dim)
        assert not np.array_equal(best, first)
    finally:
        robot.close()


def test_without_network_it_starts_from_its_disk(site, published):
    site.announced = published()
    robot = site.robot()
    until(lambda: robot.newest() is not None)
    robot.close()
    site.announced, site.cut = None, True
    again = site.robot()
    try:
        assert again.newest().snapshot.number == 1
    finally:
        again.close()


@pytest.fixture
def keeps(site, published):
    """A robot's disk that holds snapshot 1."""
    site.announced = published()
    robot = site.robot()
    until(lambda: robot.newest() is not None)
    robot.close()
    return site


def other_kind(site):
    arrays, first = site.services.snapshots.load(1)
    return site.services.snapshots.publish(arrays, 2, 1, {**first.meta, "robot_spec": "crane"})


def test_what_it_kept_drives_though_what_was_announced_since_is_out_of_reach(keeps):
    arrays, first = keeps.services.snapshots.load(1)
    changed = {name: array + 1 for name, array in arrays.items()}
    keeps.announced, keeps.cut = keeps.services.snapshots.publish(changed, 2, 1, first.meta), True
    robot = keeps.robot()
    try:
        assert robot.newest().number == 1
        until(lambda: keeps.tries > 1)  # it goes on asking for the newer one
        keeps.cut = False
        until(lambda: robot.newest().number == 2)
    finally:
        robot.close()


def test_what_it_kept_drives_though_another_kinds_was_announced_since(keeps, caplog):
    keeps.announced = other_kind(keeps)
    robot = keeps.robot()
    try:
        assert robot.newest().number == 1
        until(lambda: "snapshot_refused" in caplog.text)
        assert robot.newest().number == 1
    finally:
        robot.close()


def test_a_full_disk_keeps_the_policy_that_it_holds(keeps, published, monkeypatch):
    arrays, first = keeps.services.snapshots.load(1)
    changed = {name: array + 1 for name, array in arrays.items()}
    row = keeps.services.snapshots.publish(changed, 2, 1, first.meta)
    replace_file = os.replace

    def full(old, new):
        if row.sha256 in str(new):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace_file(old, new)

    monkeypatch.setattr(os, "replace", full)
    keeps.announced = row
    robot = keeps.robot()
    until(lambda: robot.newest().number == 2)  # it drives, from memory
    robot.close()
    assert not list(keeps.folder.glob(".*"))
    keeps.announced, keeps.cut = None, True
    again = keeps.robot()
    try:
        assert again.newest().number == 1
    finally:
        again.close()


def test_what_a_killed_robot_left_half_written_goes(keeps):
    for name in (f".{'ab' * 32}.safetensors.17.1", ".newest.json.17.1"):
        (keeps.folder / name).write_bytes(b"half")
    keeps.robot().close()
    assert not list(keeps.folder.glob(".*"))


@pytest.mark.parametrize("left_by", ["another fleet", "another kind"])
def test_what_was_left_in_its_folder_by_others_is_passed_over(keeps, left_by):
    strange = Ed25519PrivateKey.generate().public_key() if left_by == "another fleet" else keeps.key
    kind = toy_fleet.SPEC.name if left_by == "another fleet" else "crane"
    assert SnapshotCache(keeps.folder, keeps, keeps.key, toy_fleet.SPEC.name).newest().number == 1
    assert SnapshotCache(keeps.folder, keeps, strange, kind).newest() is None


def test_a_damaged_file_on_its_disk_is_downloaded_again(site, published):
    site.announced = published()
    first = site.robot()
    until(lambda: first.newest() is not None)
    first.close()
    file = site.folder / f"{site.announced.sha256}.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    robot = site.robot()
    try:
        until(lambda: robot.newest() is not None)
        assert site.downloads == 2
    finally:
        robot.close()


def test_a_row_that_the_fleet_did_not_sign_changes_nothing(site, published, caplog):
    good = published()
    site.announced = good
    robot = site.robot()
    try:
        until(lambda: robot.newest() is not None)
        site.announced = replace(good, number=7)
        until(lambda: "signature" in caplog.text)
        assert robot.newest().snapshot.number == 1
        assert robot.behind() == 6
    finally:
        robot.close()


def test_a_policy_of_another_robot_is_refused_and_the_next_that_fits_is_taken(site, published, caplog):
    robot = site.robot()
    try:
        site.announced = published()
        until(lambda: robot.newest() is not None)
        other = replace(
            toy_fleet.experiment(), model=replace(toy_fleet.experiment().model, instruction_dim=16)
        )
        x = toy_fleet.experiment()
        policy = MlpPolicy.init(jax.random.key(6), model_config(other), Normalizer.identity(2))
        site.announced = publish(other, site.services, policy, stage="sft", learner_step=2, manifest=1)
        until(lambda: "snapshot_refused" in caplog.text)
        assert robot.newest().snapshot.number == 1
        kept = robot.newest().snapshot.sha256
        until(lambda: [path.stem for path in site.folder.glob("*.safetensors")] == [kept])
        site.announced = published(x)
        until(lambda: robot.newest().snapshot.number == 3)
    finally:
        robot.close()


def test_a_cut_network_is_tried_again(site, published):
    site.announced, site.cut = published(), True
    robot = site.robot()
    try:
        time.sleep(0.3)
        assert robot.newest() is None
        site.cut = False
        until(lambda: robot.newest() is not None)
    finally:
        robot.close()


def test_a_newer_announcement_does_not_wait_for_the_pause_after_a_failure(site, published, monkeypatch):
    monkeypatch.setattr(robot_policy, "RETRY_S", (3600.0, 3600.0))
    robot = site.robot()
    try:
        site.cut, site.announced = True, published()
        until(lambda: site.tries > 0)
        site.cut = False
        time.sleep(0.3)
        assert robot.newest() is None  # the first one is not tried again yet
        site.announced = published()
        until(lambda: robot.newest() is not None and robot.newest().snapshot.number == site.announced.number)
    finally:
        robot.close()
