"""A robot under releases: stable, candidate, pin; back to a lower number; from its disk without a network."""

import json
from dataclasses import replace

import pytest
import toy_fleet
from servers import NatsServer
from test_robot_policy import ENCODER, Site, until
from toy_policies import publish, walking

from lwd.errors import ConfigError
from lwd.fleet.folder import RunFolder, open_services
from lwd.fleet.registry import robot_config
from lwd.fleet.robot_config import RobotConfig
from lwd.fleet.robot_policy import PolicyFollower, SnapshotCache
from lwd.fleet.robot_release import Allowed, kept_release
from lwd.fleet.telemetry import Telemetry
from lwd.log.nats_link import NatsLink
from lwd.snapshot.keys import load_private_key
from lwd.snapshot.nats_releases import NatsReleases
from lwd.snapshot.promotion import Release
from lwd.snapshot.releases import ReleaseStore

KIND = toy_fleet.SPEC.name


class Released(Site):
    """A robot's disk and network, and who makes releases."""

    def __init__(self, services, folder, nats_server):
        super().__init__(services, folder)
        self.url = nats_server.url
        private = load_private_key(services.folder.snapshot_key)
        self.store = ReleaseStore(services.catalogue, services.snapshots, private)
        self.link = NatsLink(self.url)
        self.promoter = NatsReleases(self.link, self.key, KIND)
        self.editions, self.opened = [], []

    def issue(self, stable, **changes):
        held = self.store.newest(KIND)
        wanted = {"edition": 1, "kind": KIND, "stable": stable, "reason": "a test", "created_at": 0.0}
        made = self.store.issue(Release(**{**wanted, **changes}), after=held)
        self.promoter.announce(self.store.notice(made))
        assert self.promoter.flush(30.0)
        return made

    def robot(self, name="line-00", *, online=True):
        """The robot, with a link of its own that can be cut."""
        url = self.url if online else "nats://127.0.0.1:1"
        link = NatsLink(url)
        path = self.folder / "release.json"
        cache = SnapshotCache(self.folder / "snapshots", self, self.key, KIND)
        releases = NatsReleases(link, self.key, KIND, told=kept_release(path), first_wait_s=0.3)
        allowed = Allowed(releases, name, path, self.editions.append)
        follower = PolicyFollower(
            allowed.snapshot, cache, self.key, toy_fleet.SPEC, ENCODER, Telemetry({}), released=allowed.files
        )
        self.opened.append((follower, link))
        return follower

    def close(self):
        for follower, link in self.opened:
            follower.close()
            link.close()
        self.opened.clear()


@pytest.fixture
def site(tmp_path, nats_server: NatsServer):
    """Five different policies of the toy's robot."""
    with open_services(RunFolder(tmp_path / "run")) as services:
        for number in range(1, 6):
            publish(services, walking(number / 10))
        found = Released(services, tmp_path / "robot", nats_server)
        yield found
        found.close()
        found.link.close()


def drives(robot, number):
    until(lambda: robot.newest() is not None and robot.newest().number == number)


def test_it_runs_the_stable_one_the_candidate_or_its_pin_and_goes_back(site):
    canary, other, pinned = (site.robot(name) for name in ("line-00", "line-01", "line-02"))
    assert canary.newest() is None
    assert canary.waits_for == "the first release"
    site.issue(3, pins={"line-02": 1})
    for robot, number in ((canary, 3), (other, 3), (pinned, 1)):
        drives(robot, number)
    site.issue(3, candidate=5, canaries=("line-00",), pins={"line-02": 1})
    drives(canary, 5)
    site.issue(3, pins={"line-02": 1})  # rejected
    drives(canary, 3)
    assert (other.newest().number, pinned.newest().number) == (3, 1)
    site.issue(2)
    for robot in (canary, other, pinned):
        drives(robot, 2)
        assert robot.behind() == 0
    assert sorted(set(site.editions)) == [1, 2, 3, 4]


def test_what_is_announced_without_a_release_moves_nobody(site):
    site.issue(2)
    robot = site.robot()
    drives(robot, 2)
    publish(site.services, walking(0.9))
    assert site.services.snapshots.newest() == 6
    site.issue(2, reason="the same")
    until(lambda: site.editions[-1] == 2)
    assert robot.newest().number == 2


def test_a_canary_goes_back_without_the_store_and_starts_again_without_any_network(site):
    site.issue(2)
    robot = site.robot()
    drives(robot, 2)
    site.issue(2, candidate=4, canaries=("line-00",))
    drives(robot, 4)
    assert len(list((site.folder / "snapshots").glob("*.safetensors"))) == 2, "and what it would go back to"
    site.cut = True
    site.issue(2)
    drives(robot, 2)
    site.close()
    again = site.robot(online=False)
    assert again.newest().number == 2, "at once"
    until(lambda: site.editions[-1] == 3)


def test_a_watch_that_ends_badly_needs_no_store_either(site):
    site.issue(1)
    robot = site.robot("line-03")  # no canary
    drives(robot, 1)
    site.issue(2, previous=1)
    drives(robot, 2)
    site.close()
    robot = site.robot("line-03")  # also after a restart
    drives(robot, 2)
    site.cut = True
    site.issue(1)
    drives(robot, 1)


def test_what_is_not_watched_any_more_goes_with_the_next_policy(site):
    robot = site.robot()
    for number, changes in ((1, {}), (2, {"previous": 1}), (3, {})):
        site.issue(number, **changes)
        drives(robot, number)
    until(lambda: len(list((site.folder / "snapshots").glob("*.safetensors"))) == 1)


def test_an_edition_that_it_followed_is_not_forgotten_and_a_lower_one_not_followed(site):
    first = site.issue(5)
    old = site.store.notice(first)
    site.issue(1)
    robot = site.robot()
    drives(robot, 1)
    site.close()
    # The broker lost its store; who replays the first release has nothing but a true signature.
    site.link.request("$JS.API.STREAM.DELETE.RELEASE", b"", 20.0)
    replay = NatsReleases(site.link, site.key, KIND)
    replay.announce(old)
    assert replay.flush(30.0)
    again = site.robot()
    drives(again, 1)
    assert kept_release(site.folder / "release.json").release.edition == 2
    site.issue(3)
    drives(again, 3)


@pytest.mark.parametrize("text", ["{", "[1]", "{}", "\x00"])
def test_a_damaged_release_on_its_disk_is_asked_for_again(site, text):
    site.issue(2)
    site.folder.mkdir()
    (site.folder / "release.json").write_text(text)
    drives(site.robot(), 2)
    assert kept_release(site.folder / "release.json").release.edition == 1


def test_a_policy_that_does_not_fit_leaves_the_robot_on_what_it_has(site, caplog):
    arrays, meta = walking(0.9)
    publish(site.services, (arrays, {**meta, "chunk_steps": 99}))
    site.issue(2)
    robot = site.robot()
    drives(robot, 2)
    site.issue(2, candidate=6, canaries=("line-00",))
    until(lambda: "snapshot_refused" in caplog.text)
    assert robot.newest().number == 2
    site.issue(3)
    drives(robot, 3)


def test_the_configuration_says_what_to_follow_and_old_robots_refuse_what_they_do_not_know():
    plain = robot_config(toy_fleet.experiment())
    assert "follow" not in plain.to_json(), "what robots are told by default is what they were always told"
    assert plain.to_json()["version"] == 1
    message = json.loads(json.dumps(replace(plain, follow="releases").to_json()))
    assert (message["version"], message["follow"]) == (2, "releases")
    assert RobotConfig.from_json(message).follow == "releases"
    assert RobotConfig.from_json(plain.to_json()).follow == "newest"
    for changes in ({"version": 3}, {"follow": "newest"}, {"version": None}, {"version": [2]}):
        with pytest.raises(ConfigError, match="version"):
            RobotConfig.from_json({**message, **changes})
