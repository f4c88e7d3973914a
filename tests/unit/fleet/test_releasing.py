"""Releases by hand: shown, then done; announced over a real broker; a rollback that would change nothing is refused."""

import json
import time

import pytest
import toy_fleet
from servers import NatsServer
from toy_policies import publish, walking

from lwd.cli import parse
from lwd.errors import ConfigError, SnapshotError
from lwd.fleet.folder import RunFolder, open_services
from lwd.fleet.releasing import carry_out, pinned, promoted
from lwd.fleet.rollback import earlier, roll_back
from lwd.fleet.status import fleet_status
from lwd.log import robots
from lwd.log.nats_link import NatsLink
from lwd.log.robots import RobotNotActiveError
from lwd.snapshot import retention
from lwd.snapshot.nats_releases import NatsReleases
from lwd.snapshot.releases import OvertakenError, newest_release

KIND = toy_fleet.SPEC.name


@pytest.fixture
def services(tmp_path):
    """Three policies and two robots."""
    with open_services(RunFolder(tmp_path / "run")) as opened:
        for speed in (0.1, 0.2, 0.3):
            publish(opened, walking(speed))
        for name in ("line-00", "line-01"):
            robots.invite(opened.catalogue, name, KIND)
        yield opened


@pytest.fixture
def lwd(services, capsys):
    def run(*words):
        parse([*words, "--out", str(services.folder.path)]).run()
        return capsys.readouterr()

    return run


def test_the_commands_show_then_do(services, lwd):
    shown = lwd("snapshot", "promote", "2")
    assert shown.out.splitlines() == [
        "now:   no release",
        "then:  release 1 for robots of kind line: snapshot 2",
    ]
    assert "nothing was done" in shown.err
    assert newest_release(services.catalogue, KIND) is None
    done = lwd("snapshot", "promote", "2", "--yes")
    assert "since: release 1 for robots of kind line: snapshot 2" in done.out
    assert "a promoter that runs tells the robots" in done.err
    lwd("snapshot", "pin", "line-01", "1", "--yes")
    lwd("snapshot", "promote", "3", "--yes")
    assert newest_release(services.catalogue, KIND).in_words() == (
        "release 3 for robots of kind line: snapshot 3; 1 pinned on line-01"
    )
    assert fleet_status(services.catalogue)["releases"] == [
        "release 3 for robots of kind line: snapshot 3; 1 pinned on line-01"
    ]
    assert "1 pinned on line-01" in lwd("status").out
    robots.revoke(services.catalogue, "line-01")
    lwd("snapshot", "unpin", "line-01", "--yes")
    lwd("snapshot", "promote", "1", "--yes")
    listed = json.loads(lwd("snapshot", "releases", "--json").out)
    assert [(r["edition"], r["stable"], r["pins"], r["reason"]) for r in listed] == [
        (1, 2, {}, "2 promoted by hand"),
        (2, 2, {"line-01": 1}, "line-01 pinned to 1"),
        (3, 3, {"line-01": 1}, "3 promoted by hand"),
        (4, 3, {}, "line-01 unpinned"),
        (5, 1, {}, "1 promoted by hand, back from 3"),
    ]
    assert "edition" in lwd("snapshot", "releases", "--limit", "1").out
    rows = {row["number"]: row for row in json.loads(lwd("snapshot", "ls", "--json").out)}
    assert (rows[3]["status"], rows[3]["reason"]) == ("rejected", "left by hand for 1")


def test_what_makes_no_sense_is_refused_and_nothing_is_done(services):
    with pytest.raises(ConfigError, match="there is no release for robots of kind 'line' yet"):
        pinned(services, "line-00", 1)
    with pytest.raises(SnapshotError, match="snapshot 12 does not exist"):
        promoted(services, 12)
    carry_out(services, promoted(services, 3))
    with pytest.raises(ConfigError, match="snapshot 3 is the stable one of release 1 already"):
        promoted(services, 3)
    with pytest.raises(RobotNotActiveError):
        pinned(services, "line-09", 1)
    arrays, meta = walking(0.5)
    publish(services, (arrays, {**meta, "robot_spec": "crane"}))
    with pytest.raises(ConfigError, match="snapshot 4 is for robots of kind 'crane', line-00 is a 'line'"):
        pinned(services, "line-00", 4)
    publish(services, (arrays, {"stage": "online"}))
    with pytest.raises(ConfigError, match="does not say which kind of robot"):
        promoted(services, 5)
    with pytest.raises(ConfigError, match="line-00 is not pinned"):
        parse(["snapshot", "unpin", "line-00", "--out", str(services.folder.path)]).run()
    retention.apply(services.catalogue, services.objects, retention.plan(services.catalogue, 1))
    with pytest.raises(SnapshotError, match="snapshot 1 was removed"):
        promoted(services, 1)
    assert newest_release(services.catalogue, KIND).edition == 1


def test_a_change_that_was_overtaken_is_not_done(services):
    carry_out(services, promoted(services, 1))
    change = pinned(services, "line-00", 2)
    carry_out(services, promoted(services, 3))
    with pytest.raises(OvertakenError, match="release 2 of 'line' was made meanwhile"):
        carry_out(services, change)


def test_a_rollback_of_numbers_is_refused_where_robots_follow_releases(services, lwd):
    carry_out(services, promoted(services, 3))
    with pytest.raises(ConfigError, match=r"follow releases \(edition 1\).*lwd snapshot promote 1"):
        earlier(services, 1)
    with pytest.raises(ConfigError, match="add --newest"):
        roll_back(services, 1)
    assert services.snapshots.newest() == 3
    assert (
        "now snapshot 4, which is snapshot 1 again"
        in lwd("snapshot", "rollback", "1", "--newest", "--yes").out
    )


def test_another_machine_makes_no_key_of_its_own(services, tmp_path):
    there = ["--catalogue", services.folder.catalogue, "--objects", services.folder.objects]
    with pytest.raises(ConfigError, match="the key that signs snapshots"):
        parse(["snapshot", "promote", "1", "--out", str(tmp_path / "elsewhere"), *there, "--yes"]).run()
    assert not (tmp_path / "elsewhere").exists()


def test_robots_behind_a_broker_hear_of_it(services, nats_server: NatsServer):
    where = RunFolder(services.folder.path, bus_url=nats_server.url)
    with open_services(where) as networked, NatsLink(nats_server.url) as link:
        robot = NatsReleases(link, networked.snapshots._public, KIND, first_wait_s=20.0)
        assert robot.held() is None
        for number in (3, 1):
            made = carry_out(networked, promoted(networked, number))
            deadline = time.monotonic() + 30.0
            while robot.newest() != made.edition:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert robot.held().allowed("line-00").number == number
        robot.close()
