"""`lwd status`: from what the processes last said to who waits for what."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from lwd.fleet import registry
from lwd.fleet.folder import RunFolder, Services, open_services
from lwd.fleet.registry import StatusDesk
from lwd.fleet.status import NO_FLEET, fleet_status, print_status
from lwd.fleet.telemetry import Telemetry
from lwd.log import robots
from lwd.log.catalogue import Catalogue
from lwd.log.status import StatusRow, record_statuses, status_message, statuses
from lwd.snapshot.keys import load_private_key
from lwd.snapshot.promotion import Release
from lwd.snapshot.releases import ReleaseStore


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    with open_services(RunFolder(tmp_path / "run")) as found:
        yield found


def said(
    catalogue: Catalogue, name: str, role: str, *, ago_s: float = 1.0, skew_s: float = 0.0, **payload: Any
) -> None:
    at = time.time() - ago_s
    row = StatusRow(name=name, role=role, sent_at=at + skew_s, received_at=at, payload=payload)
    record_statuses(catalogue, [row])


def publish(services: Services, count: int) -> None:
    for i in range(count):
        services.snapshots.publish({"w": np.full(3, i, np.float32)}, 10 * i, None, {})


def test_nobody_is_not_a_working_fleet(services: Services) -> None:
    found = fleet_status(services.catalogue)
    assert found["processes"] == []
    assert found["stalls"] == [NO_FLEET]


def test_a_working_fleet_has_no_stalls(services: Services) -> None:
    publish(services, 1)
    said(services.catalogue, "coordinator", "coordinator")
    said(services.catalogue, "r1", "robot", snapshot=1, waits_for=None, link=True)
    found = fleet_status(services.catalogue)
    assert found["stalls"] == []
    assert found["robots"] == {"working": 1, "silent": []}


def test_a_process_that_works_for_nothing_is_a_stall(services: Services) -> None:
    said(services.catalogue, "coordinator", "coordinator")
    said(services.catalogue, "learner", "learner", waits_for=None, warning="learns no more")
    assert fleet_status(services.catalogue)["stalls"] == ["learner learns no more."]


def test_it_says_who_waits_for_what_who_is_silent_and_whose_clock_is_off(services: Services) -> None:
    catalogue = services.catalogue
    said(catalogue, "coordinator", "coordinator")
    said(catalogue, "learner", "learner", waits_for="640 more control steps")
    said(catalogue, "r1", "robot", ago_s=40.0, waits_for="the first snapshot")
    said(catalogue, "r2", "robot", link=False)
    said(catalogue, "r3", "robot", skew_s=-9.0)
    said(catalogue, "r4", "robot", ago_s=60.0, stopping=True, waits_for="nothing of interest")
    said(catalogue, "r5", "robot", skew_s=4.0)
    found = fleet_status(catalogue)
    shown = [re.sub(r"nothing for 4\d s", "nothing for 40 s", sentence) for sentence in found["stalls"]]
    assert shown == [
        "learner waits for 640 more control steps.",
        "r1 said nothing for 40 s; look at its machine and its log.",
        "r2 has no link to the broker.",
        "r3's clock is off by -9 s; set it by NTP.",
    ]
    assert found["robots"] == {"working": 3, "silent": ["r1", "r4"]}
    silent = {process["name"]: process["silent"] for process in found["processes"]}
    assert [name for name, is_silent in silent.items() if is_silent] == ["r1", "r4"]


def test_what_services_wait_for_is_said_first_and_each_process_has_its_troubles(services: Services) -> None:
    said(services.catalogue, "a1", "robot", waits_for="the first snapshot", link=False, task="drawer", pid=7)
    said(services.catalogue, "coordinator", "coordinator", waits_for="the database")
    said(services.catalogue, "gone", "robot", ago_s=60.0, stopping=True)
    found = fleet_status(services.catalogue)
    assert found["stalls"][0] == "coordinator waits for the database."
    a1, coordinator, gone = found["processes"]
    assert a1["troubles"] == ["waits", "no link"]
    assert a1["said"] == {"task": "drawer", "link": False}
    assert (coordinator["troubles"], coordinator["stopping"]) == (["waits"], False)
    assert (gone["troubles"], gone["stopping"]) == ([], True)


def test_lag_of_each_robot(services: Services) -> None:
    publish(services, 4)
    said(services.catalogue, "learner", "learner", snapshot=4)
    said(services.catalogue, "r1", "robot", snapshot=4)
    said(services.catalogue, "r2", "robot", snapshot=1)
    said(services.catalogue, "r3", "robot")
    found = fleet_status(services.catalogue)
    behind = {process["name"]: process["behind"] for process in found["processes"]}
    assert behind == {"learner": None, "r1": 0, "r2": 3, "r3": None}


def test_the_desk_measures_lag_and_clocks(services: Services) -> None:
    publish(services, 3)
    telemetry = Telemetry({"process": "coordinator"})
    desk = StatusDesk(services, telemetry)
    desk.heard("status.r1", status_message("robot", {"snapshot": 1}))
    desk.heard("status.r2", status_message("robot", {"snapshot": 3}))
    for hostile in ("yesterday", 10**400, float("inf"), True):
        desk.heard("status.r2", {"role": "robot", "sent_at": hostile, "status": {}})
    desk.flush()
    samples = [sample for family in telemetry.collect() for sample in family.samples]
    lag = {s.labels["robot"]: s.value for s in samples if s.name == "lwd_snapshot_lag"}
    skew = {s.labels["of"]: s.value for s in samples if s.name == "lwd_clock_skew_seconds"}
    assert lag == {"r1": 2, "r2": 0}
    assert set(skew) == {"r1", "r2"}
    assert all(abs(value) < 5 for value in skew.values())
    assert [row["name"] for row in fleet_status(services.catalogue)["processes"]] == ["r1", "r2"]


def shown(telemetry: Telemetry) -> dict[str, dict[str, float]]:
    """Gauge -> whom it is about -> value."""
    found: dict[str, dict[str, float]] = {}
    for sample in (sample for family in telemetry.collect() for sample in family.samples):
        about = sample.labels.get("robot") or sample.labels.get("of")
        if about:
            found.setdefault(sample.name, {})[about] = sample.value
    return found


def test_lag_is_measured_within_a_kind_of_robots(services: Services) -> None:
    for i, kind in enumerate(("arm", "arm", "crane")):
        services.snapshots.publish({"w": np.full(3, i, np.float32)}, i, None, {"robot_spec": kind})
    telemetry = Telemetry({})
    desk = StatusDesk(services, telemetry)
    for name, kind, number in (("r1", "arm", 1), ("r2", "crane", 3), ("r3", "bird", 1)):
        robots.invite(services.catalogue, name, kind)
        desk.heard(f"status.{name}", status_message("robot", {"snapshot": number}))
    desk.flush()
    assert shown(telemetry)["lwd_snapshot_lag"] == {"r1": 1, "r2": 0}
    behind = {row["name"]: row["behind"] for row in fleet_status(services.catalogue)["processes"]}
    assert behind == {"r1": 1, "r2": 0, "r3": None}


def test_robots_that_follow_releases_are_behind_by_editions(services: Services) -> None:
    key = load_private_key(services.folder.snapshot_key)
    store, held = ReleaseStore(services.catalogue, services.snapshots, key), None
    for i in range(9):
        services.snapshots.publish({"w": np.full(3, i, np.float32)}, i, None, {"robot_spec": "arm"})
    for stable in (1, 2, 3):
        wanted = Release(edition=stable, kind="arm", stable=stable, reason="promoted", created_at=0.0)
        held = store.issue(wanted, after=held)
    editions: dict[str, dict[str, Any]] = {
        "r1": {"edition": 3},
        "r2": {"edition": 1},
        "r3": {},
        "r4": {"edition": "x"},
    }
    for name, status in editions.items():
        robots.invite(services.catalogue, name, "arm")
        said(services.catalogue, name, "robot", snapshot=2, **status)
    found = fleet_status(services.catalogue)
    behind = {row["name"]: row["behind"] for row in found["processes"]}
    assert behind == {"r1": 0, "r2": 2, "r3": 7, "r4": 7}, "r3 and r4 follow the newest of nine snapshots"
    assert found["releases"] == ["release 3 for robots of kind arm: snapshot 3"]


def test_numbers_of_who_is_gone_are_not_shown_for_ever(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(services, 3)
    telemetry = Telemetry({})
    desk = StatusDesk(services, telemetry)
    for name in ("r1", "r2", "r3"):
        robots.invite(services.catalogue, name, "arm")
        desk.heard(f"status.{name}", status_message("robot", {"snapshot": 1}))
    services.snapshots.publish({"w": np.zeros(3, np.float32)}, 1, None, {"robot_spec": "arm"})
    desk.flush()
    assert set(shown(telemetry)["lwd_snapshot_lag"]) == {"r1", "r2", "r3"}
    robots.revoke(services.catalogue, "r1")
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + registry.GONE_S - 1)
    desk.heard("status.r2", status_message("robot", {"snapshot": 1}))
    desk.flush()
    assert set(shown(telemetry)["lwd_clock_skew_seconds"]) == {"r2", "r3"}
    monkeypatch.setattr(time, "monotonic", lambda: now + registry.GONE_S + 1)
    desk.flush()
    assert [set(names) for names in shown(telemetry).values()] == [{"r2"}, {"r2"}]


@pytest.mark.parametrize(
    "status",
    [
        {"numbers": [1]},
        {"numbers": {"x": {"p50_s": "a", "p99_s": 1}}},
        {"numbers": {"x": 10**400, "[/y]": "[/z]"}},
        {"waits_for": "the file [/tmp/x]"},
        {"waits_for": {"a": 1}},
        {"snapshot": 10**400},
        {"snapshot": "[/x]"},
    ],
)
def test_whatever_a_robot_says_of_itself_the_operator_sees_the_fleet(
    services: Services, status: dict[str, Any]
):
    publish(services, 1)
    desk = StatusDesk(services, Telemetry({"process": "coordinator"}))
    desk.heard("status.r1", status_message("robot", status))
    desk.flush()
    out = io.StringIO()
    print_status(Console(file=out, width=200), fleet_status(services.catalogue))
    assert "r1" in out.getvalue()
    if "waits_for" in status:
        assert f"r1 waits for {status['waits_for']}." in out.getvalue()


def test_a_status_that_nobody_foresaw_does_not_end_those_of_the_others(
    services: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = [OverflowError("int too large"), OverflowError("int too large")]

    def record(catalogue: Catalogue, rows: list[StatusRow]) -> None:
        if failures:
            raise failures.pop()
        record_statuses(catalogue, rows)

    monkeypatch.setattr(registry, "FLUSH_EVERY_S", 0.01)
    monkeypatch.setattr(registry, "record_statuses", record)
    desk = StatusDesk(services, Telemetry({}))
    with desk.flushing():
        deadline = time.monotonic() + 20
        while not statuses(services.catalogue):
            assert time.monotonic() < deadline
            desk.heard("status.r1", status_message("robot", {"snapshot": 1}))
            time.sleep(0.02)
    assert caplog.text.count("statuses_failed") == 1


def test_people_see_latencies_and_sentences(services: Services) -> None:
    telemetry = Telemetry({})
    telemetry.observe("episode_sampleable_seconds", [0.5, 0.25, 2.0])
    said(services.catalogue, "learner", "learner", numbers=telemetry.summary(), waits_for="robots")
    out = io.StringIO()
    print_status(Console(file=out, width=200), fleet_status(services.catalogue))
    text = out.getvalue()
    assert "episode_sampleable_seconds P50 0.50 s P99 2.00 s" in text
    assert "learner waits for robots." in text
    assert "no coordinator ever reported" in text
