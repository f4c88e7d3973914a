"""The way back: an earlier policy under a new number, signed, announced, and never while a learner would publish over it."""

import time
from collections.abc import Iterator

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from servers import NatsServer

from lwd.cli import parse
from lwd.errors import ConfigError, SnapshotError
from lwd.fleet.folder import RunFolder, Services, open_services
from lwd.fleet.rollback import earlier, roll_back
from lwd.log.nats_link import NatsLink
from lwd.log.status import StatusRow, record_statuses
from lwd.snapshot import retention
from lwd.snapshot.nats_channel import NatsChannel
from lwd.snapshot.store import Snapshot, fetch, verify


def publish(services: Services, value: float, kind: str = "line") -> Snapshot:
    snapshot = services.snapshots.publish(
        {"weight": np.full(3, value, np.float32)},
        int(100 * value),
        7,
        {"robot_spec": kind, "stage": "online"},
    )
    services.channel.announce(snapshot)
    return snapshot


@pytest.fixture
def services(tmp_path) -> Iterator[Services]:
    """Three policies of one kind of robot, and one of another kind."""
    with open_services(RunFolder(tmp_path / "run")) as opened:
        for value in (1.0, 2.0, 3.0):
            publish(opened, value)
        publish(opened, 9.0, kind="other")
        yield opened


def test_the_old_bytes_get_the_next_number_and_a_signature(services):
    old = services.snapshots.read(1)
    new = roll_back(services, 1)
    assert (new.number, new.parent, new.learner_step, new.manifest) == (5, 4, 100, 7)
    assert (new.sha256, new.meta) == (old.sha256, old.meta)
    assert new.signature != old.signature
    arrays, _ = services.snapshots.load(5)
    np.testing.assert_array_equal(arrays["weight"], [1.0, 1.0, 1.0])
    assert services.channel.newest() == 5
    assert services.snapshots.newest_of("line", 5) == 5
    assert services.snapshots.newest_of("other", 5) == 4, "another kind of robot keeps its own"
    assert roll_back(services, 3).number == 6, "and back again"


def test_there_is_no_way_back_to_what_robots_load_to_what_is_gone_or_unknown(services):
    with pytest.raises(ConfigError, match="snapshot 3 is what the robots of its kind load already"):
        roll_back(services, 3)
    with pytest.raises(SnapshotError, match="snapshot 12 does not exist"):
        roll_back(services, 12)
    plan = retention.plan(services.catalogue, keep=1)
    assert [s.number for s in plan.remove] == [1, 2]
    retention.apply(services.catalogue, services.objects, plan)
    with pytest.raises(SnapshotError, match="snapshot 2 was removed"):
        roll_back(services, 2)
    assert services.snapshots.newest() == 4


def test_a_learner_at_work_would_publish_over_it(services):
    def said(ago: float) -> None:
        at = time.time() - ago
        record_statuses(
            services.catalogue,
            [StatusRow(name="learner-a", role="learner", sent_at=at, received_at=at, payload={})],
        )

    said(2.0)
    with pytest.raises(ConfigError, match=r"learner-a is at work .* Stop the learner, wait 15 s"):
        earlier(services, 1)
    assert services.snapshots.newest() == 4
    said(16.0)
    assert roll_back(services, 1).number == 5


def test_robots_behind_a_broker_hear_of_it_and_believe_it(tmp_path, nats_server: NatsServer):
    folder = RunFolder(tmp_path / "run", bus_url=nats_server.url)
    with open_services(folder) as services:
        for value in (1.0, 2.0):
            publish(services, value)
        key = services.snapshots._public
        with NatsLink(nats_server.url) as link:
            robot = NatsChannel(link, key, at_least=2, first_wait_s=20.0)  # it drives number 2
            new = roll_back(services, 1)
            deadline = time.monotonic() + 30.0
            while robot.newest() != new.number:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            heard = robot.snapshot()
            verify(heard, key)
            arrays, _ = fetch(services.objects, heard, key)
            robot.close()
    np.testing.assert_array_equal(arrays["weight"], [1.0, 1.0, 1.0])


def test_the_command_shows_then_does(services, tmp_path, capsys):
    out = ["--out", str(tmp_path / "run")]
    parse(["snapshot", "rollback", "2", *out]).run()
    shown = capsys.readouterr()
    assert "robots load snapshot 3 (learner step 300, manifest 7)" in shown.out
    assert "they would load snapshot 2 (learner step 200" in shown.out
    assert "nothing was published" in shown.err
    assert services.snapshots.newest() == 4
    parse(["snapshot", "rollback", "2", *out, "--yes"]).run()
    assert "now snapshot 5, which is snapshot 2 again" in capsys.readouterr().out
    assert services.snapshots.read(5).sha256 == services.snapshots.read(2).sha256


def test_another_machine_makes_no_key_of_its_own(services, tmp_path):
    there = [
        "--catalogue",
        str(tmp_path / "run" / "catalogue.db"),
        "--objects",
        str(tmp_path / "run" / "objects"),
    ]
    with pytest.raises(
        ConfigError, match=r"there is no .*elsewhere/keys/snapshot\.pem, the key that signs snapshots"
    ):
        parse(["snapshot", "rollback", "1", "--out", str(tmp_path / "elsewhere"), *there, "--yes"]).run()
    assert not (tmp_path / "elsewhere").exists()


def test_a_policy_of_another_fleets_key_is_not_signed_anew(services):
    foreign = Services(**{**vars(services), "snapshots": type(services.snapshots)(
        services.objects, services.catalogue, Ed25519PrivateKey.generate()
    )})  # fmt: skip
    with pytest.raises(SnapshotError, match="does not fit this fleet's public key"):
        roll_back(foreign, 1)
