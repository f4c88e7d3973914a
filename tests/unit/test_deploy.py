"""The unit files and the compose file start what they say: every command is read by lwd's own command line."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from lwd.cli import parse
from lwd.cli.promotion import PromoterCommand
from lwd.cli.services import CoordinatorCommand, EvaluatorCommand, LearnerCommand, RobotJoin

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
COMMANDS = {
    "coordinator": CoordinatorCommand,
    "learner": LearnerCommand,
    "evaluator": EvaluatorCommand,
    "promoter": PromoterCommand,
    "robot": RobotJoin,
}
HARDENING = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "CapabilityBoundingSet": "",
    "UMask": "0077",
}


def read_unit(path: Path) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign] - systemd's names have capitals
    unit.read_string(path.read_text())
    return unit


def environment(path: str) -> dict[str, str]:
    """The variables of an EnvironmentFile of ours."""
    lines = (DEPLOY / "systemd" / Path(path).name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def filled(text: str, variables: dict[str, str]) -> str:
    """`${NAME}`, `${NAME:-default}` and `${NAME:?}` replaced; a variable that nobody sets is an error."""

    def value(found: re.Match[str]) -> str:
        name, how, default = found[1], found[2], found[3]
        assert name in variables or how == ":-", f"nobody sets {name}"
        return variables.get(name, default)

    return re.sub(r"\$\{(\w+)(?:(:-|:\?)([^}]*))?\}", value, text)


def test_there_is_a_unit_for_each_process() -> None:
    assert [path.stem for path in UNITS] == sorted(f"lwd-{name}" for name in ("broker", *COMMANDS))


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_unit_starts_what_it_says(path: Path) -> None:
    unit = read_unit(path)
    service, name = unit["Service"], path.stem.removeprefix("lwd-")
    variables = {} if name == "broker" else environment(service["EnvironmentFile"])
    program, *arguments = shlex.split(filled(service["ExecStart"], variables))
    if name == "broker":
        assert "EnvironmentFile" not in service, "it has no use for the bucket's key"
        assert program.endswith("/nats-server")
        assert arguments == ["-c", "/var/lib/lwd/fleet/nats.conf"]
    else:
        assert program.endswith("/lwd")
        command = parse(arguments)
        assert type(command) is COMMANDS[name]
        # A robot's computer has the base package alone, which brings no prometheus-client.
        assert (command.metrics_port > 0) == (name != "robot")
    if name in ("coordinator", "learner", "evaluator", "promoter"):
        assert command.credential == command.out / "fleet" / "credentials" / f"{name}.json"
        assert command.catalogue.startswith("postgresql://")
        assert command.objects.startswith("s3://")


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_unit_comes_back_and_may_do_little(path: Path) -> None:
    unit = read_unit(path)
    assert unit["Service"]["Restart"] == "always"
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    assert unit["Service"]["User"] == "lwd"
    assert {name: unit["Service"][name] for name in HARDENING} == HARDENING
    assert unit["Install"]["WantedBy"] == "multi-user.target"


def test_metrics_ports_differ() -> None:
    ports = re.findall(r"--metrics-port (\d+)", "".join(path.read_text() for path in UNITS))
    assert len(ports) == len(set(ports)) == len(COMMANDS) - 1


def test_the_broker_has_the_time_that_its_lame_duck_takes() -> None:
    """nats-server sends clients away over two minutes, after ten seconds of grace."""
    service = read_unit(DEPLOY / "systemd" / "lwd-broker.service")["Service"]
    assert service["KillSignal"] == "SIGUSR2"
    assert int(service["TimeoutStopSec"]) > 130


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_systemd_accepts_the_unit(path: Path, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    copy = tmp_path / path.name
    # Programs that this machine need not have would be the only complaint.
    copy.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", path.read_text(), flags=re.MULTILINE))
    done = subprocess.run(
        [analyze, "verify", "--man=no", str(copy)], capture_output=True, text=True, timeout=60
    )
    said = [line for line in done.stderr.splitlines() if path.name in line]
    assert said == []


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


SET_BY_HAND = {"POSTGRES_PASSWORD": "pg", "S3_ACCESS_KEY": "key", "S3_SECRET_KEY": "secret"}


@pytest.mark.parametrize("name", ["coordinator", "learner"])
def test_compose_starts_what_it_says(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]
    command = parse([filled(word, SET_BY_HAND) for word in service["command"]])
    assert type(command) is COMMANDS[name]
    assert command.out == Path("/var/lib/lwd")
    assert command.credential == command.out / "fleet" / "credentials" / f"{name}.json"
    assert command.catalogue == "postgresql://lwd:pg@postgres/lwd"
    assert command.objects == "s3://lwd/fleet?endpoint=http://s3:9000"
    assert service["ports"] == [f"127.0.0.1:{command.metrics_port}:{command.metrics_port}"]
    assert {filled(value, SET_BY_HAND) for value in service["environment"].values()} == {"key", "secret"}


def test_compose_restarts_all_and_names_what_exists(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert sorted(services) == ["broker", "coordinator", "learner", "postgres", "s3"]
    for service in services.values():
        assert service["restart"] == "always"
        assert set(service.get("depends_on", ())) <= set(services)
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source.startswith("./") or source in compose["volumes"]
    assert filled(" ".join(services["broker"]["command"]), {}) == "-c /var/lib/lwd/fleet/nats.conf"


def test_secrets_are_neither_committed_nor_built_into_the_image() -> None:
    for name in (".gitignore", ".dockerignore"):
        ignored = {line.strip("/") for line in (DEPLOY.parent / name).read_text().splitlines()}
        assert {"deploy/.env", "deploy/data"} <= ignored, name


def test_bucket_and_prefix_are_the_same_everywhere() -> None:
    texts = [
        path.read_text()
        for path in (*DEPLOY.rglob("*"), DEPLOY.parent / "docs/how-to/deploy.md")
        if path.is_file()
    ]
    assert set(re.findall(r"s3://[\w/]+", "".join(texts))) == {"s3://lwd/fleet"}


def test_the_image_runs_lwd() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    assert 'ENTRYPOINT ["lwd"]' in lines
    assert "USER lwd" in lines
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    assert all((DEPLOY.parent / name).exists() for name in copied)
