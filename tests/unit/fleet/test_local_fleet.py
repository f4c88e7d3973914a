"""What `lwd fleet up --broker` would run, without running it."""

import pytest
import toy_fleet

from lwd.cli import parse
from lwd.errors import ConfigError
from lwd.fleet.deployment import FleetFolder, revoke
from lwd.fleet.folder import RunFolder
from lwd.fleet.local import LocalFleet

ADDRESS = "tls://127.0.0.1:4390"


@pytest.fixture
def prepare(tmp_path):
    """Names of the processes for these options."""

    def prepared(**options):
        asked = {"broker": ADDRESS, "learner": False, "robots": 2} | options
        fleet = LocalFleet(
            experiment=toy_fleet.experiment(), recipe="toy_fleet:experiment", out=tmp_path / "run", **asked
        )
        return [managed.name for managed in fleet.prepare()]

    return prepared


@pytest.mark.parametrize(("asked", "expected"), [(None, 4), (0, 0), (3, 3)])
def test_as_many_robots_run_as_were_asked_for(prepare, asked, expected):
    assert len([name for name in prepare(robots=asked) if name.startswith("line-")]) == expected


def test_fewer_robots_than_none_are_refused(prepare):
    with pytest.raises(ConfigError, match="--robots -3"):
        prepare(robots=-3)


def test_a_promoter_runs_where_it_is_asked_for_and_robots_follow_releases_then(tmp_path):
    def commands(**options):
        fleet = LocalFleet(
            experiment=toy_fleet.experiment(), recipe="toy_fleet:experiment", out=tmp_path / "run", broker=ADDRESS,
            robots=1, **options,
        )  # fmt: skip
        return {managed.name: list(managed.command) for managed in fleet.prepare()}

    plain = commands()
    assert "promoter" not in plain
    assert "--follow" not in plain["coordinator"]
    asked = commands(promote_with=2)
    assert asked["promoter"][-2:] == ["--canaries", "2"]
    assert asked["coordinator"][-2:] == ["--follow", "releases"]
    for name in ("learner", "line-00"):
        assert asked[name] == plain[name]
    for name in ("coordinator", "promoter"):
        parse(asked[name][3:])  # after `python -m lwd.cli`
    for wrong in (0, 65):
        with pytest.raises(ConfigError, match=f"--promote-with {wrong}: expected 1 to 64 robots"):
            commands(promote_with=wrong)
    with pytest.raises(ConfigError, match="--promote-with needs a fleet of processes"):
        parse(["fleet", "up", "--promote-with", "2", "--out", str(tmp_path / "other")]).run()


def test_a_broker_at_another_address_than_the_fleets_is_refused(prepare):
    prepare()
    with pytest.raises(ConfigError, match=r"4390, not at .*4391"):
        prepare(broker="tls://127.0.0.1:4391")
    assert prepare()[0] == "broker"


@pytest.mark.parametrize("file_left", [True, False])
def test_a_robot_that_was_revoked_has_another_in_its_place(prepare, tmp_path, file_left):
    prepare()
    fleet = FleetFolder(RunFolder(tmp_path / "run"))
    revoke(fleet, "line-00")
    if not file_left:
        fleet.credential("line-00").unlink()
    assert prepare() == ["broker", "coordinator", "line-01", "line-02"]


def test_the_pid_of_a_broker_that_was_killed_is_forgotten(prepare, tmp_path):
    prepare()
    pidfile = FleetFolder(RunFolder(tmp_path / "run")).pidfile
    pidfile.write_text("1")
    prepare()
    assert not pidfile.exists()
