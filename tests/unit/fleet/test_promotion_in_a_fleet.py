"""What `lwd fleet up --promote-with` runs, as processes over a real broker with TLS, with policies by hand."""

import os
import signal
import threading
import time

import pytest
import toy_fleet
from servers import free_port
from toy_policies import publish, walking

from lwd.fleet.folder import RunFolder, open_services
from lwd.fleet.local import LocalFleet
from lwd.fleet.supervisor import Supervisor
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


@pytest.fixture
def fleet(services):
    """Three robots, one of them a canary; no learner."""
    fleet = LocalFleet(
        experiment=toy_fleet.unattended(),
        recipe="toy_fleet:unattended",
        out=services.folder.path,
        broker=f"tls://127.0.0.1:{free_port()}",
        robots=3,
        promote_with=1,
        pace=10.0,  # what is recorded is delivered at once
        learner=False,
    )
    supervisor, stop = Supervisor(fleet.prepare(), fleet.logs), threading.Event()
    thread = threading.Thread(target=supervisor.run, args=(stop,))
    thread.start()
    yield supervisor
    stop.set()
    thread.join(120.0)
    assert not thread.is_alive()


@pytest.mark.timeout(600)
def test_a_bad_candidate_is_rejected_and_a_good_one_promoted(services, fleet):
    catalogue = services.catalogue

    def robots_of(snapshot, after=0):
        return {row.robot for row in catalogue.episodes(snapshot=snapshot, after_seq=after)}

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
