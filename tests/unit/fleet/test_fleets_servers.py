"""The offline stages put what they make where the fleet's services look for it: on the servers that the command names."""

import pytest
import toy_fleet
from servers import PostgresServer, S3Server

from lwd.cli import parse
from lwd.errors import LwdError
from lwd.fleet.folder import RunFolder, open_services
from lwd.fleet.learner import run_learner
from lwd.fleet.service import ServiceContext
from lwd.log.verify import verify


@pytest.fixture
def lwd(tmp_path, quick_compilation):
    """Runs a command of the toy experiment in one run folder."""

    def run(*arguments: str) -> None:
        parse([*arguments, "--recipe", "toy_fleet:experiment", "--out", str(tmp_path / "run")]).run()

    return run


def start_learner(folder: RunFolder) -> None:
    """As the service does; it is told to stop at once."""
    context = ServiceContext("learner", "learner")
    context.stopping.set()
    run_learner(context, toy_fleet.experiment(), folder, catch_up=False)


def test_everything_from_demonstrations_to_the_learner_is_where_the_commands_say(lwd, tmp_path):
    path, there = tmp_path / "run", (str(tmp_path / "fleet.db"), str(tmp_path / "objects"))
    named = ("--catalogue", there[0], "--objects", there[1])
    lwd("collect", *named)
    lwd("train", "sft", *named)
    lwd("collect", "--sources", "rollout", *named)
    lwd("train", "offline", *named)
    assert not (path / "catalogue.db").exists()
    assert not (path / "objects").exists()
    start_learner(RunFolder(path, *there))
    # The replay on the learner's disk is of that log: another one is refused, and named.
    with pytest.raises(LwdError, match=r"catalogue\.db.*--catalogue"):
        start_learner(RunFolder(path))


@pytest.mark.timeout(120)
def test_demonstrations_reach_postgres_and_a_bucket(
    lwd, tmp_path, monkeypatch, postgres_server: PostgresServer, s3_server: S3Server
):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    s3_server.create_bucket("collected")
    there = (postgres_server.create_database("collected"), f"s3://collected/fleet?endpoint={s3_server.url}")
    lwd("collect", "--sources", "demo", "--catalogue", there[0], "--objects", there[1])
    with open_services(RunFolder(tmp_path / "run", *there)) as services:
        assert len(services.catalogue.episodes(source="demo")) == 9
        assert verify(services.catalogue, services.objects).problems == ()
