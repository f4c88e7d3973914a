"""Founding a fleet and inviting into it: the credential, the register and the broker's list always agree."""

import fcntl
import json
import os
import socket
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import toy_fleet
from servers import NatsServer, running

from lwd.errors import ConfigError, StoreError, UnknownNameError
from lwd.fleet import broker, deployment
from lwd.fleet.authority import Authority, identity_uri
from lwd.fleet.credential import load_credential, write_private
from lwd.fleet.deployment import FleetFolder, found_fleet, invite, revoke
from lwd.fleet.folder import RunFolder, open_services
from lwd.fleet.registry import StatusDesk, configs_for, registry, robot_config
from lwd.fleet.robot_config import RobotConfig
from lwd.fleet.telemetry import Telemetry
from lwd.log import tables
from lwd.log.calls import CallRefusedError, NatsCalls
from lwd.log.catalogue import Catalogue
from lwd.log.nats_link import NatsLink
from lwd.log.robots import NotAllowedError, robots
from lwd.log.robots import invite as invite_robot
from lwd.log.status import status_message, statuses
from lwd.recipes import recipe
from lwd.snapshot.keys import load_private_key


@pytest.fixture
def fleet(tmp_path):
    found = FleetFolder(RunFolder(tmp_path / "run"))
    found_fleet(found, "lab", ["tls://127.0.0.1:4222"])
    return found


@pytest.fixture
def elsewhere(fleet, tmp_path):
    """The same fleet, for who names a catalogue outside the run folder."""
    return FleetFolder(RunFolder(fleet.run.path, str(tmp_path / "other.db")))


@pytest.fixture
def guarded(tmp_path):
    """A fleet whose broker runs, and the broker."""
    fleet = FleetFolder(RunFolder(tmp_path / "run"))
    server = NatsServer(fleet.path, config=lambda _: fleet.broker.read_text())
    found_fleet(fleet, "lab", [f"tls://127.0.0.1:{server.port}"])
    with running(server):
        yield fleet, server


def users(fleet):
    found = [user["user"] for user in json.loads(fleet.broker.read_text())["authorization"]["users"]]
    return [user for user in found if not user.endswith(":nobody")]


def registered(fleet):
    with Catalogue(fleet.run.catalogue) as catalogue:
        return {row.name: row for row in robots(catalogue)}


def test_an_invited_robot_is_in_the_file_the_register_and_the_brokers_list(fleet):
    credential, path = invite(fleet, "arm-1", "robot", "line")
    assert load_credential(path) == credential
    assert path.stat().st_mode & 0o077 == 0
    assert registered(fleet)["arm-1"].spec == "line"
    member = Authority(fleet.path).members()[0]
    assert users(fleet) == [identity_uri("lab", member)]
    key = load_private_key(fleet.run.snapshot_key).public_key()
    assert credential.snapshot_public_key().public_bytes_raw() == key.public_bytes_raw()


def test_a_list_from_before_a_revocation_is_never_written_after_it(fleet, monkeypatch):
    """From reading the members to telling the broker, nobody else changes them."""
    rendered = broker.render

    def slow(authority, config):
        with (authority.folder / ".lock").open("w") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # what a revocation meanwhile would wait for
        return rendered(authority, config)

    monkeypatch.setattr(broker, "render", slow)
    invite(fleet, "arm-1", "robot", "line")
    revoke(fleet, "arm-1")
    assert users(fleet) == []


def test_a_service_gets_a_credential_and_no_place_in_the_register(fleet):
    invite(fleet, "learner", "learner", "line")
    assert registered(fleet) == {}
    assert len(users(fleet)) == 1


def test_replacing_a_credential_takes_the_old_one_off_the_brokers_list(fleet):
    invite(fleet, "arm-1", "robot", "line")
    before = users(fleet)
    with pytest.raises(ConfigError, match="exists"):
        invite(fleet, "arm-1", "robot", "line")
    assert users(fleet) == before
    invite(fleet, "arm-1", "robot", "line", replace=True)
    assert len(users(fleet)) == 1
    assert users(fleet) != before


def test_a_revoked_robot_is_nowhere_and_its_name_does_not_come_back(fleet):
    _, path = invite(fleet, "arm-1", "robot", "line")
    assert revoke(fleet, "arm-1") == 1
    assert users(fleet) == []
    assert registered(fleet)["arm-1"].revoked_at is not None
    path.unlink()
    with pytest.raises(StoreError, match="revoked"):
        invite(fleet, "arm-1", "robot", "line")
    with pytest.raises(UnknownNameError):
        revoke(fleet, "arm-2")


def test_one_name_is_one_kind_of_robot(fleet):
    _, path = invite(fleet, "evaluator", "evaluator", "line")
    Authority(fleet.path).revoke("evaluator")
    path.unlink()
    with pytest.raises(StoreError, match="'line' already"):
        invite(fleet, "evaluator", "evaluator", "scene")


def test_a_kind_that_was_mistyped_is_mended_until_something_was_delivered(fleet, tmp_path):
    invite(fleet, "arm-1", "robot", "scnee")
    invite(fleet, "arm-1", "robot", "scene", replace=True)
    assert registered(fleet)["arm-1"].spec == "scene"
    with Catalogue(fleet.run.catalogue) as catalogue:
        row = {"episode_id": "e", "reason": "nan", "detail": "", "key": "", "sha256": "", "robot": "arm-1"}
        with catalogue.write() as connection:
            connection.execute(tables.quarantine.insert().values(**row, quarantined_at=1.0))
    before = users(fleet)
    with pytest.raises(StoreError, match="delivered already"):
        invite(fleet, "arm-1", "robot", "line", replace=True)
    assert users(fleet) == before


def test_a_credential_is_replaced_only_once_nothing_stands_against_it(fleet, tmp_path):
    _, path = invite(fleet, "arm-1", "robot", "line")
    with Catalogue(fleet.run.catalogue) as catalogue:
        deployment.robots.revoke(catalogue, "arm-1")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="revoked"):
        invite(fleet, "arm-1", "robot", "line", replace=True)
    assert path.read_bytes() == before
    other = tmp_path / "x.json"
    other.write_text("not ours")
    with pytest.raises(ConfigError, match="characters"):
        invite(fleet, "../../../x", "robot", "line", replace=True)
    assert other.read_text() == "not ours"


def test_a_place_where_no_credential_can_be_is_refused_before_anybody_is_invited(fleet, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file/x"):
        invite(fleet, "arm-1", "robot", "line", tmp_path / "file" / "x" / "c.json")
    assert registered(fleet) == {}
    assert users(fleet) == []


@pytest.mark.parametrize(
    "url",
    ["tls://h:99999", "tls://m\u00fcller.de:4222", "tls://[::1", "tls://h:x", "tls://h:0", "tls://a..b:1"],
)
def test_a_fleet_with_a_bad_address_is_not_half_founded(tmp_path, url):
    found = FleetFolder(RunFolder(tmp_path / "run"))
    with pytest.raises(ConfigError, match="tls://"):
        found_fleet(found, "lab", [url])
    found_fleet(found, "lab", ["tls://127.0.0.1:4222"])


# ---- revoking --------------------------------------------------------------------------------------------------------


def test_a_robot_is_revoked_once_the_broker_refuses_it(guarded):
    fleet, _ = guarded
    authority = Authority(fleet.path)
    for name in ("arm-1", "arm-2"):
        invite(fleet, name, "robot", "line")
    first, second = authority.members()
    assert broker.lets_in(authority, first)
    revoke(fleet, "arm-1")
    assert not broker.lets_in(authority, first)
    assert broker.lets_in(authority, second)
    revoke(fleet, "arm-2")  # the last one: an empty list would let in everybody
    assert not broker.lets_in(authority, second)


def test_a_broker_that_does_not_hear_of_it_must_be_restarted(guarded, monkeypatch):
    monkeypatch.setattr(deployment, "CONFIRM_S", 0.2)
    fleet, server = guarded
    invite(fleet, "arm-1", "robot", "line")
    fleet.pidfile.write_text("1")  # as from a container, where it is another process
    with pytest.raises(ConfigError, match=r"still lets 'arm-1' in .* restart it"):
        revoke(fleet, "arm-1")
    assert registered(fleet)["arm-1"].revoked_at is not None
    server.restart()
    assert revoke(fleet, "arm-1") == 0


def test_a_credential_that_was_replaced_is_there_even_if_the_broker_cannot_be_asked(fleet, monkeypatch):
    old, path = invite(fleet, "arm-1", "robot", "line")

    def unreachable(authority, member):
        raise ConfigError("cannot be asked")

    monkeypatch.setattr(broker, "lets_in", unreachable)
    with pytest.raises(ConfigError, match=r"arm-1\.json' is written, but .* cannot be asked"):
        invite(fleet, "arm-1", "robot", "line", replace=True)
    assert load_credential(path).id != old.id


def test_something_else_at_the_brokers_address_is_not_taken_for_it(fleet, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        found = FleetFolder(RunFolder(tmp_path / "other"))
        authority = found_fleet(found, "lab", [f"tls://127.0.0.1:{other.getsockname()[1]}"])
        invite(found, "arm-1", "robot", "line")
        with pytest.raises(ConfigError, match="cannot be asked from here"):
            broker.lets_in(authority, authority.members()[0], timeout_s=0.1)


def test_a_broker_of_another_user_is_not_taken_for_a_dead_one(fleet, monkeypatch):
    invite(fleet, "arm-1", "robot", "line")
    fleet.pidfile.write_text("4242")

    def forbidden(pid, signal):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(broker, "server_pid", lambda _: 4242)
    monkeypatch.setattr(os, "kill", forbidden)
    with pytest.raises(ConfigError, match=r"4242.*not permitted.*Restart it"):
        revoke(fleet, "arm-1")
    assert fleet.pidfile.exists()
    assert registered(fleet)["arm-1"].revoked_at is not None


def test_a_stranger_that_has_the_brokers_old_pid_is_left_alone(fleet):
    with subprocess.Popen(["sleep", "60"]) as stranger:
        fleet.pidfile.write_text(str(stranger.pid))
        invite(fleet, "arm-1", "robot", "line")
        revoke(fleet, "arm-1")
        assert stranger.poll() is None
        stranger.kill()
        assert stranger.wait() == -9


def test_a_private_file_that_root_replaces_keeps_its_owner(tmp_path, monkeypatch):
    path, given = tmp_path / "nats.conf", []
    write_private(path, b"old")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "chown", lambda file, uid, gid: given.append((uid, gid)))
    write_private(path, b"new", replace=True)
    assert path.read_bytes() == b"new"
    assert given == [(path.stat().st_uid, path.stat().st_gid)]


def test_the_register_is_found_again_without_being_named(fleet, elsewhere):
    invite(elsewhere, "arm-1", "robot", "line")
    revoke(fleet, "arm-1")
    assert registered(elsewhere)["arm-1"].revoked_at is not None
    assert not (fleet.run.path / "catalogue.db").exists()


def test_a_register_without_the_robot_is_not_taken_for_the_right_one(fleet, elsewhere):
    invite(elsewhere, "arm-1", "robot", "line")
    (fleet.path / "register.url").unlink()  # a fleet from before it was kept
    with pytest.raises(ConfigError, match=r"no robot 'arm-1'.*--catalogue"):
        revoke(fleet, "arm-1")
    assert users(fleet) == []
    assert not (fleet.run.path / "catalogue.db").exists()


def test_the_registers_password_is_not_kept(fleet):
    url = "postgresql://lwd:secret@db.example.org/lwd"
    invite(FleetFolder(RunFolder(fleet.run.path, url)), "learner", "learner", "line")
    assert (fleet.path / "register.url").read_text() == "postgresql://lwd@db.example.org/lwd"


def test_a_revoked_robots_last_words_are_forgotten_and_do_not_come_back(fleet):
    invite(fleet, "arm-1", "robot", "line")
    with open_services(fleet.run) as services:
        desk = StatusDesk(services, Telemetry({}))
        desk.heard("status.arm-1", status_message("robot", {}))
        desk.flush()
        assert [row.name for row in statuses(services.catalogue)] == ["arm-1"]
        desk.heard("status.arm-1", status_message("robot", {}))
        revoke(fleet, "arm-1")
        desk.flush()
        assert statuses(services.catalogue) == []


# ---- what a robot is told --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scene", "metaworld_no_hurry", "metaworld50"])
def test_a_configuration_survives_its_message_and_fits_into_one(name):
    config = robot_config(recipe(name, 3))
    text = json.dumps(config.to_json())
    assert RobotConfig.from_json(json.loads(text)) == config
    assert len(text) < 16 * 1024


def test_a_robot_never_imports_what_a_message_names():
    message = robot_config(recipe("scene")).to_json()
    message["fleet"]["tier"] = "os:system"
    assert RobotConfig.from_json(message).fleet.tier == "scene"


@pytest.mark.parametrize(
    "damage",
    [
        lambda m: m.pop("spec"),
        lambda m: m.update(version=2),
        lambda m: m["fleet"].update(conditions={"gravity": 0}),
        lambda m: m.update(tasks=[{"name": "x"}]),
        lambda m: m["fleet"].update(starts=[0.0, 0.5]),
        lambda m: m.update(tasks=7),
        lambda m: m.update(takeover={"stall_steps": -1}),
        lambda m: m.update(first_seed="x"),
    ],
)
def test_a_damaged_configuration_is_an_error_that_says_what_to_do(damage):
    message = json.loads(json.dumps(robot_config(recipe("scene")).to_json()))
    damage(message)
    with pytest.raises(ConfigError):
        RobotConfig.from_json(message)


def test_a_robot_that_joins_is_told_its_kinds_newest_snapshot_and_nothing_of_the_servers(
    tmp_path, nats_server, monkeypatch
):
    x = toy_fleet.experiment()
    with open_services(RunFolder(tmp_path / "run")) as services, NatsLink(nats_server.url) as link:
        invite_robot(services.catalogue, "arm-1", "line")
        for i, kind in enumerate(("line", "lines", "crane")):
            services.snapshots.publish({"w": np.full(2, i, np.float32)}, i, None, {"robot_spec": kind})
        calls = NatsCalls(link)
        with registry(services, link, [x], Telemetry({})):
            told = RobotConfig.from_json(calls.call("calls.arm-1.config", {}, 20.0))
            assert told.spec == toy_fleet.SPEC
            assert told.snapshot == replace(services.snapshots.read(1), meta={})

            def away():
                raise StoreError("catalogue: postgresql://lwd@db.internal/lwd does not answer")

            monkeypatch.setattr(services.catalogue, "read", away)
            with pytest.raises(CallRefusedError, match="ask again later") as refused:
                calls.call("calls.arm-1.config", {}, 20.0)
            assert "db.internal" not in str(refused.value)


def test_only_invited_robots_of_a_served_kind_are_told(tmp_path):
    config = robot_config(toy_fleet.experiment())
    fleet = FleetFolder(RunFolder(tmp_path / "run"))
    found_fleet(fleet, "lab", ["tls://127.0.0.1:4222"])
    invite(fleet, "arm-1", "robot", "line")
    invite(fleet, "arm-2", "robot", "crane")
    with open_services(fleet.run) as services:
        assert configs_for(services, {"line": config}, "arm-1") is config
        with pytest.raises(NotAllowedError, match="'crane'"):
            configs_for(services, {"line": config}, "arm-2")
        with pytest.raises(NotAllowedError, match="was not invited"):
            configs_for(services, {"line": config}, "arm-3")
