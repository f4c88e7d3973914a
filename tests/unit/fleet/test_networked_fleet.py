"""`lwd fleet up --broker`: the whole loop over a real broker with TLS, as the processes that a deployment runs."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from servers import free_port

from lwd.fleet.folder import open_services
from lwd.fleet.learner_rounds import rounds_published
from lwd.log.manifest import manifests
from lwd.log.status import statuses
from lwd.log.verify import verify

UP = ["fleet", "up", "--robots", "2", "--pace", "4"]


def until(condition, fleet, timeout_s=120.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert fleet.poll() is None, "lwd fleet up ended"
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def fleet(trained_copy, tmp_path, request):
    """The running command with the toy's recipe, or the one that the test names; its log is `up.log`."""
    recipe = f"toy_fleet:{getattr(request, 'param', 'experiment')}"
    command = [sys.executable, "-m", "lwd.cli", *UP, "--recipe", recipe, "--out", str(trained_copy.path)]
    command += ["--broker", f"tls://127.0.0.1:{free_port()}"]
    with (tmp_path / "up.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    yield process
    if process.poll() is None:
        process.kill()  # its children notice
        process.wait()


def started(tmp_path, name):
    lines = [
        line
        for line in (tmp_path / "up.log").read_text().splitlines()
        if f"process_started name={name} " in line
    ]
    return [int(line.split("pid=")[1].split()[0]) for line in lines]


@pytest.mark.timeout(300)
def test_the_fleet_learns_survives_kills_and_stops_clean(fleet, trained_copy, tmp_path):
    with open_services(trained_copy) as services:
        before = services.catalogue.newest_seq()
        online = lambda: services.catalogue.newest_seq() - before  # noqa: E731
        first = services.snapshots.newest()
        # Robots deliver, the learner publishes, robots drive with what it published.
        until(lambda: services.snapshots.newest() > first, fleet)
        number = services.snapshots.newest()
        until(
            lambda: any((r.snapshot or 0) >= number for r in services.catalogue.episodes(source="online")),
            fleet,
        )
        until(lambda: any(trained_copy.checkpoints("online").glob("[1-9]*")), fleet)
        for name in ("learner", "coordinator", "line-00"):
            os.kill(started(tmp_path, name)[0], signal.SIGKILL)
        os.kill(started(tmp_path, "broker")[0], signal.SIGKILL)
        count, number = online(), services.snapshots.newest()
        until(lambda: online() > count + 4 and services.snapshots.newest() > number, fleet)
        said = {row.name: row for row in statuses(services.catalogue)}
        fleet.send_signal(signal.SIGTERM)
        fleet.wait(90)
        assert fleet.returncode == 0, (tmp_path / "up.log").read_text()[-3000:]
        # Nothing is left behind: not a process, not an episode in a spool, not a damaged object.
        for name in ("broker", "coordinator", "learner", "line-00", "line-01"):
            for pid in started(tmp_path, name):
                with pytest.raises(ProcessLookupError):
                    os.kill(pid, 0)
        assert len(started(tmp_path, "line-00")) == 2
        assert list((trained_copy.path / "robots").glob("*/spool/*.mcap")) == []
        assert verify(services.catalogue, services.objects).problems == ()
        assert services.catalogue.quarantined() == []
        rows = services.catalogue.episodes(source="online")
        assert {row.robot for row in rows} == {"line-00", "line-01"}
        assert all(row.ended_at is not None for row in rows)
    assert {said[name].role for name in ("line-00", "learner", "coordinator")} == {
        "robot",
        "learner",
        "coordinator",
    }
    assert said["line-01"].payload["numbers"]["episodes_total"] > 0
    resumed = (trained_copy.path / "logs" / "learner.log").read_text()
    assert "learner_resumed" in resumed
    shown = subprocess.run(
        [sys.executable, "-m", "lwd.cli", "status", "--json", "--out", str(trained_copy.path)],
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert json.loads(shown.stdout)["quarantined"] == 0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fleet", ["in_turns"], indirect=True)
def test_a_learner_that_takes_turns_and_robots_that_go_on_meanwhile(fleet, trained_copy, tmp_path):
    with open_services(trained_copy) as services:
        until(lambda: len(rounds_published(services)) >= 2, fleet)
        first, second = rounds_published(services)[:2]
        driven = lambda: {row.snapshot for row in services.catalogue.episodes(source="online")}  # noqa: E731
        until(lambda: second.number in driven(), fleet)
        fleet.send_signal(signal.SIGTERM)
        fleet.wait(90)
        assert fleet.returncode == 0, (tmp_path / "up.log").read_text()[-3000:]
        assert len(started(tmp_path, "learner")) == 1
        assert (first.learner_step, second.learner_step) == (12, 24)
        assert first.manifest < second.manifest
        while_it_learned = [
            row
            for row in services.catalogue.episodes(source="online")
            if row.snapshot < first.number and row.seq > upto_seq(services.catalogue, first.manifest)
        ]
        assert while_it_learned, "robots did not wait for the first round"
        assert verify(services.catalogue, services.objects).problems == ()


def upto_seq(catalogue, manifest):
    """The newest episode of a manifest."""
    [found] = [item for item in manifests(catalogue, after=manifest - 1) if item.number == manifest]
    return found.upto_seq
