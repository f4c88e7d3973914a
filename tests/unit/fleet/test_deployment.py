"""Founding a fleet and inviting into it: the credential, the register and the broker's list always agree."""

import json

import pytest
import toy_fleet

from lwd.errors import ConfigError, StoreError, UnknownNameError
from lwd.fleet.authority import Authority, identity_uri
from lwd.fleet.credential import load_credential
from lwd.fleet.deployment import FleetFolder, found_fleet, invite, revoke
from lwd.fleet.folder import RunFolder
from lwd.fleet.registry import configs_for, robot_config
from lwd.fleet.robot_config import RobotConfig
from lwd.fleet.services import open_services
from lwd.log.catalogue import Catalogue
from lwd.log.robots import NotAllowedError, robots
from lwd.recipes import recipe
from lwd.snapshot.keys import load_private_key


@pytest.fixture
def fleet(tmp_path):
    found = FleetFolder(RunFolder(tmp_path / "run"))
    found_fleet(found, "lab", ["tls://127.0.0.1:4222"])
    return found


def users(fleet):
    return [user["user"] for user in json.loads(fleet.broker.read_text())["authorization"]["users"]]


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
    _, path = invite(fleet, "arm-1", "robot", "line")
    path.unlink()
    with pytest.raises(StoreError, match="'line' already"):
        invite(fleet, "arm-1", "robot", "scene", replace=True)


# ---- what a robot is told --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scene", "metaworld", "metaworld50"])
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
