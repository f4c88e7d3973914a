"""What `lwd fleet up --promote-with` runs, as processes over a real broker with TLS, with policies by hand."""

import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
import toy_fleet
from servers import free_port
from toy_policies import publish, walking

from lwd.fleet.folder import RunFolder, open_services
from lwd.fleet.local import LocalFleet
from lwd.fleet.supervisor import ONE_THREAD, Managed, Supervisor
from lwd.log.status import statuses
from lwd.log.verify import verify
from lwd.snapshot.releases import newest_release, releases

KIND = toy_fleet.SPEC.name
STABLE, BAD, GOOD = 1.0, 0.55, 1.1
"""Speeds. At the second one most episodes end before the goal, and yet its chunks are not far from the first one's."""


def until(condition, timeout_s=180.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def services(tmp_path):
    with open_services(RunFolder(tmp_path / "run")) as opened:
        publish(opened, walking(STABLE))
        yield opened


@contextmanager
def running(services, robots, change=lambda managed: managed):
    """So many robots, one of them a canary; no learner. `change`: from the processes to those that are run."""
    fleet = LocalFleet(
        experiment=toy_fleet.unattended(),
        recipe="toy_fleet:unattended",
        out=services.folder.path,
        broker=f"tls://127.0.0.1:{free_port()}",
        robots=robots,
        promote_with=1,
        pace=10.0,  # what is recorded is delivered at once
        learner=False,
    )
    supervisor, stop = Supervisor(change(fleet.prepare()), fleet.logs), threading.Event()
    thread = threading.Thread(target=supervisor.run, args=(stop,))
    thread.start()
    try:
        yield supervisor
    finally:
        stop.set()
        thread.join(120.0)
        assert not thread.is_alive()


@pytest.fixture
def robots_of(services):
    """Robots that have delivered an episode under a snapshot."""

    def found(snapshot, after=0):
        return {row.robot for row in services.catalogue.episodes(snapshot=snapshot, after_seq=after)}

    return found


@pytest.fixture
def fleet(services):
    with running(services, robots=3) as supervisor:
        yield supervisor


@pytest.mark.timeout(600)
def test_robots_of_a_policy_server_run_what_releases_allow_them(services, robots_of):
    """The server loads stable and candidate; each robot asks it for what is its own."""
    port, catalogue = free_port(), services.catalogue
    serve = f"-m lwd.cli serve --recipe toy_fleet:unattended --out {services.folder.path} --port {port}"

    def served(managed):
        server = Managed(
            name="server",
            command=[sys.executable, *serve.split(), "--follow", "releases"],
            environment=ONE_THREAD,
            stage=2,
        )
        more = ("--policy-server", f"ws://127.0.0.1:{port}")
        robots = [replace(m, command=[*m.command, *more]) for m in managed if m.stage == 3]
        return [*(m for m in managed if m.stage < 3), server, *robots]

    with running(services, 2, served):
        until(lambda: len(robots_of(1)) == 2)
        bad = publish(services, walking(BAD))
        until(lambda: newest_release(catalogue, KIND).candidate == bad)
        (canary,) = newest_release(catalogue, KIND).canaries
        until(lambda: newest_release(catalogue, KIND).candidate is None)
        assert robots_of(bad) == {canary}
        assert "worse on canaries" in services.snapshots.read(bad).reason
        seq = catalogue.newest_seq()
        until(lambda: len(robots_of(1, after=seq)) == 2)
        robots = ("line-00", "line-01")
        until(lambda: {r.payload.get("edition") for r in statuses(catalogue) if r.name in robots} == {3})


@pytest.mark.timeout(600)
def test_a_bad_candidate_is_rejected_and_a_good_one_promoted(services, fleet, robots_of):
    catalogue = services.catalogue
    until(lambda: len(robots_of(1)) == 3)
    assert newest_release(catalogue, KIND).edition == 1

    bad = publish(services, walking(BAD))
    until(lambda: newest_release(catalogue, KIND).candidate == bad)
    (canary,) = newest_release(catalogue, KIND).canaries
    until(lambda: robots_of(bad) == {canary})
    os.kill(fleet.pids["promoter"], signal.SIGKILL)
    until(lambda: newest_release(catalogue, KIND).candidate is None)
    assert services.snapshots.read(bad).status == "rejected"
    assert "worse on canaries" in services.snapshots.read(bad).reason
    seq = catalogue.newest_seq()
    until(lambda: canary in robots_of(1, after=seq))  # it went back to the lower number

    good = publish(services, walking(GOOD))
    until(lambda: newest_release(catalogue, KIND).stable == good)
    until(lambda: len(robots_of(good)) == 3)
    assert robots_of(bad) == {canary}, "no other robot ever ran the bad one"
    found, followed = releases(catalogue), dict.fromkeys(("line-00", "line-01", "line-02", "promoter"), 5)
    assert [(r.edition, r.stable, r.candidate) for r in found] == [
        (1, 1, None),
        (2, 1, bad),
        (3, 1, None),
        (4, 1, good),
        (5, good, None),
    ]
    assert found[-1].previous == 1
    until(lambda: {r.name: r.payload.get("edition") for r in statuses(catalogue)}.items() >= followed.items())
    assert verify(catalogue, services.objects).problems == ()
