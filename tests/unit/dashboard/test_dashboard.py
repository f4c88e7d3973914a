"""The page of a running fleet: what it says, how it treats what robots say, what it answers and what it refuses."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import sqlalchemy as sa

from lwd.dashboard import gather, server
from lwd.dashboard.gather import Gathering
from lwd.dashboard.server import Shared, page, serving
from lwd.errors import ConfigError
from lwd.evaluate.intervals import wilson
from lwd.fleet.folder import RunFolder, Services, open_services
from lwd.fleet.metrics_log import MetricsLog
from lwd.fleet.status import fleet_status
from lwd.log import robots, tables
from lwd.log.catalogue import Catalogue
from lwd.log.status import StatusRow, record_statuses


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    with open_services(RunFolder(tmp_path / "run")) as found:
        yield found


def said(
    name: str, role: str = "robot", *, ago_s: float = 1.0, skew_s: float = 0.0, **payload: Any
) -> StatusRow:
    at = time.time() - ago_s
    return StatusRow(name=name, role=role, sent_at=at + skew_s, received_at=at, payload=payload)


def deliver(catalogue: Catalogue, *episodes: tuple[str, int | None, str, int], ago_s: float = 60.0) -> None:
    """Episodes of (robot, snapshot, outcome, control steps of a person)."""
    now = time.time()
    row: dict[str, Any] = {
        **dict(
            task="drawer",
            instruction="open",
            source="online",
            spec="arm",
            control_hz=10.0,
            software="0.1.0",
            seed=1,
        ),
        **dict(
            operator=None,
            started_at=now,
            stage_score=0.0,
            steps=100,
            cycle_time_s=10.0,
            key="k",
            sha256="s",
            size=1,
        ),
        **dict(catalogued_at=now - ago_s, received_at=now - ago_s, ended_at=now - ago_s - 2.5),
    }
    with catalogue.write() as connection:
        for robot, snapshot, outcome, steps in episodes:
            name = os.urandom(8).hex()
            own = dict(
                episode_id=name, robot=robot, snapshot=snapshot, outcome=outcome, intervention_steps=steps
            )
            connection.execute(sa.insert(tables.episodes).values({**row, **own}))


def publish(services: Services, count: int) -> None:
    for i in range(count):
        services.snapshots.publish({"w": np.full(3, i, np.float32)}, 10 * i, None, {})


def gathered(folder: RunFolder) -> dict[str, Any]:
    """The document as a browser reads it: JSON without NaN."""
    gathering = Gathering(folder)
    try:
        return read(Shared(gathering.document).document())
    finally:
        gathering.close()


def read(document: bytes) -> dict[str, Any]:
    return json.loads(document, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


# ---- what it says ----------------------------------------------------------------------------------------------------


def test_a_run_folder_is_shown_as_status_has_it(run_folder: Path) -> None:
    folder = RunFolder(run_folder)
    with MetricsLog(folder.metrics("evaluator")) as metrics:
        metrics.write(snapshot=1, episodes=40, time_s=1.0, **{"success/average": 0.5})
        metrics.write(snapshot=2, episodes=40, time_s=2.0, **{"success/average": 0.75})
        metrics.write(snapshot=2, episodes=20, time_s=3.0, **{"success/average": 1.0})
        metrics.write(snapshot=3, episodes=20, time_s=4.0, **{"success/average": None})
    files = sorted(run_folder.rglob("*"))
    shown = gathered(folder)
    assert sorted(run_folder.rglob("*")) == files, "looking makes nothing"
    with Catalogue(folder.catalogue) as catalogue:
        status = fleet_status(catalogue)
    assert [shown[name] for name in ("episodes", "quarantined", "manifest", "stalls", "releases")] == [
        status[name] for name in ("episodes", "quarantined", "manifest", "stalls", "releases")
    ]
    assert shown["snapshot"]["number"] == status["snapshot"]["number"] == 2
    assert [
        (one["number"], one["score"]["value"], one["score"]["episodes"]) for one in shown["snapshots"]
    ] == [
        (2, 1.0, 20),
        (1, 0.5, 40),
    ]
    assert [one["snapshot"] for one in shown["evaluations"]] == [1, 2]
    assert shown["evaluations"][0]["low"] == wilson(20, 40).low
    assert [(one["reason"], one["count"]) for one in shown["refused"]] == [("shape", 1)]
    assert [(robot["name"], robot["state"]) for robot in shown["robots"]] == [("robot-1", "no status")]
    assert shown["per_hour"] == 2, "a demonstration is not the fleet's"
    assert shown["sources"] == {}


def test_success_alone_and_helped_by_hand(services: Services) -> None:
    publish(services, 2)
    wins, helped, failed = ("r1", 1, "success", 0), ("r1", 1, "success", 30), ("r2", 2, "failure", 10)
    deliver(services.catalogue, *[wins] * 12, *[helped] * 4, *[failed] * 4, ("r2", 2, "unjudged", 0))
    deliver(services.catalogue, *[("r3", 2, "success", 0)] * 20, ago_s=7000)  # not in the last hour
    deliver(
        services.catalogue, *[("r4", 999, "success", 0)] * 30, ago_s=20000
    )  # of no snapshot that was published
    shown = gathered(services.folder)
    assert (shown["alone"]["value"], shown["helped"]["value"], shown["alone"]["episodes"]) == (0.6, 0.2, 20)
    assert shown["takeovers"]["value"] == 8 / 21
    assert shown["human_steps"] == (4 * 30 + 4 * 10) / 2100
    assert shown["per_hour"] == 21
    assert shown["bins"][-1] == [12, 4, 4, 1]
    assert np.sum(shown["bins"], axis=0).tolist() == [32, 4, 4, 1]
    # Snapshot 1 has 16 judged episodes, too few for a point of its own.
    assert [(p["snapshot"], p["value"], p["episodes"]) for p in shown["fleet"]] == [(2, 32 / 40, 40)]
    rows = {robot["name"]: robot for robot in shown["robots"]}
    assert rows["r1"]["hour"] == {"alone": 12, "helped": 4, "failure": 0, "unjudged": 0}
    assert (rows["r1"]["last"], rows["r1"]["lag_s"], rows["r2"]["last"]) == ("helped", 2.5, "unjudged")


def test_new_episodes_come_and_only_the_window_is_counted(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "WINDOW", 10)
    gathering = Gathering(services.folder)
    deliver(services.catalogue, *[("r1", None, "failure", 0)] * 6)
    assert gathering.document()["alone"]["episodes"] == 6
    deliver(services.catalogue, *[("r1", None, "success", 0)] * 9, ago_s=1800)
    found = gathering.document()
    assert (found["alone"]["episodes"], found["alone"]["value"]) == (10, 0.9)
    gathering.close()


def test_those_that_need_somebody_stand_first(services: Services) -> None:
    publish(services, 40)
    for name in ("r-invited", "r-revoked"):
        robots.invite(services.catalogue, name, "arm")
    deliver(services.catalogue, ("r-quiet", 40, "success", 0), ("r-revoked", 40, "success", 0))
    robots.revoke(services.catalogue, "r-revoked")
    rows = [
        said("coordinator", "coordinator", numbers={"episodes": 7.0, "late": {"p50_s": 0.5, "p99_s": 2}}),
        said("learner", "learner", waits_for="40 more control steps", learner_step=3000, snapshot=40),
        said("r-works", snapshot=40, waits_for=None, link=True, state="runs", task="drawer"),
        said("r-old", snapshot=3),
        said("r-waits", waits_for="the first snapshot"),
        said("r-clock", skew_s=-9.0),
        said("r-link", link=False, waits_for="the coordinator"),
        said("r-silent", ago_s=100.0),
        said("r-stopped", ago_s=100.0, stopping=True, waits_for="the delivery of 1 episodes"),
    ]
    record_statuses(services.catalogue, rows)
    shown = gathered(services.folder)
    assert [(row["name"], row["state"]) for row in shown["robots"]] == [
        ("r-silent", "silent"),
        ("r-link", "no link"),
        ("r-clock", "clock off"),
        ("r-waits", "waits"),
        ("r-old", "old policy"),
        ("r-works", "works"),
        ("r-stopped", "stopped"),
        ("r-quiet", "no status"),
        ("r-invited", "never heard"),
    ]
    named = {row["name"]: row for row in shown["robots"]}
    assert named["r-old"]["behind"] == 37
    assert (named["r-waits"]["waits_for"], named["r-stopped"]["waits_for"]) == ("the first snapshot", "")
    assert [(row["name"], row["state"]) for row in shown["services"]] == [
        ("coordinator", "works"),
        ("learner", "waits"),
    ]
    assert shown["services"][0]["facts"] == ["episodes 7", "late P50 0.50 s P99 2.00 s"]
    assert shown["services"][1]["facts"] == ["snapshot 40", "learner_step 3000"]
    assert shown["stalls"][0] == "learner waits for 40 more control steps."
    assert (len(shown["stalls"]), shown["more_stalls"]) == (5, 1)


HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script>\u202e" + "x" * 500


def test_whatever_robots_say_the_answer_is_bounded_and_json(services: Services) -> None:
    publish(services, 1)
    odd: Sequence[dict[str, Any]] = [
        {
            "waits_for": HOSTILE,
            "task": HOSTILE,
            "state": HOSTILE,
            HOSTILE: HOSTILE,
            "numbers": {HOSTILE: HOSTILE},
        },
        {"waits_for": {"a": [HOSTILE]}, "task": [1], "snapshot": "\ud800", "numbers": [1], "spool": [2]},
        {"numbers": {"x": float("nan"), "y": 10**400, "z": {"p50_s": float("inf")}}, "behind": float("nan")},
        {
            "spool": {
                "waiting": float("nan"),
                "refused": -1,
                "used_bytes": 10**400,
                "dropped": {"success": {"episodes": "7"}},
            }
        },
        {"spool": {"dropped": {"success": {"episodes": 3, "size": 5}, "human": 7, HOSTILE: {"episodes": 1}}}},
        {"snapshot": 10**400, "up_s": float("inf"), "stopping": "no", "link": 0},
    ]
    rows = [said(f"r{i}", role, **payload) for role in ("robot", "imp") for i, payload in enumerate(odd)]
    record_statuses(services.catalogue, [replace(row, name=f"{row.role}-{row.name}") for row in rows])
    shown = gathered(services.folder)
    assert (len(shown["robots"]), len(shown["services"])) == (6, 6)
    assert shown["dropped"] == 4
    assert len(json.dumps(shown)) < 12_000
    assert (
        max(len(one) for one in re.findall(r'"((?:[^"\\]|\\.)*)"', json.dumps(shown, ensure_ascii=False)))
        <= 300
    )


def test_two_hundred_robots_are_all_there_and_more_are_cut(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [said(f"r{i}", ago_s=60.0 if i == 150 else 1.0, task="drawer", waits_for=None) for i in range(200)]
    record_statuses(services.catalogue, rows)
    shown = gathered(services.folder)
    assert [row["name"] for row in shown["robots"][:3]] == ["r150", "r0", "r1"]
    assert len(shown["robots"]) == 200
    assert len(json.dumps(shown)) < 60_000
    monkeypatch.setattr(gather, "MAX_ROWS", 20)
    shown = gathered(services.folder)
    assert [row["name"] for row in shown["robots"][:2]] == ["r150", "r0"]
    assert (len(shown["robots"]), shown["states"]) == (20, {"silent": 1, "works": 199})


# ---- what is away ----------------------------------------------------------------------------------------------------


def test_a_source_that_goes_away_says_so_and_what_it_said_stays(run_folder: Path) -> None:
    folder = RunFolder(run_folder)
    gathering = Gathering(folder)
    before = gathering.document()
    with Catalogue(folder.catalogue) as catalogue, catalogue.write() as connection:
        connection.execute(sa.text("ALTER TABLE quarantine RENAME TO elsewhere"))
    folder.metrics("evaluator").parent.mkdir()
    folder.metrics("evaluator").write_text("nonsense\n{}\n")
    after = gathering.document()
    gathering.close()
    assert {name: after["sources"][name][:40] for name in sorted(after["sources"])}.keys() == {
        "catalogue",
        "evaluations",
    }
    assert "no such table: quarantine" in after["sources"]["catalogue"]
    assert "not valid JSON" in after["sources"]["evaluations"]
    assert {**after, "sources": {}} == before


def test_a_server_that_is_away_from_the_beginning(tmp_path: Path) -> None:
    shown = gathered(RunFolder(tmp_path, "postgresql://lwd:secret@127.0.0.1:1/lwd"))
    assert "open failed" in shown["sources"]["catalogue"] or "read failed" in shown["sources"]["catalogue"]
    assert shown["name"] == "127.0.0.1/lwd"
    assert "secret" not in json.dumps(shown)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_our_own_does_not_end_the_page(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise KeyError("nobody foresaw it")

    monkeypatch.setattr(gather, "_refused", failing)
    assert gathered(services.folder)["sources"] == {
        "catalogue": "the dashboard's own error, see its log: KeyError"
    }


# ---- one gathering for all -------------------------------------------------------------------------------------------


def test_many_viewers_cost_one_gathering() -> None:
    calls: list[float] = []

    def slow() -> dict[str, Any]:
        calls.append(time.monotonic())
        time.sleep(0.3)
        return {"call": len(calls)}

    shared = Shared(slow)
    with ThreadPoolExecutor(20) as pool:
        documents = list(pool.map(lambda _: shared.document(), range(60)))
    assert set(documents) == {b'{"call": 1}'}
    assert len(calls) == 1


def test_who_asks_while_a_source_hangs_gets_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PATIENCE_S", 0.05)
    monkeypatch.setattr(server, "EVERY_S", 0.0)
    asked, go_on = threading.Event(), threading.Event()
    answers: list[Any] = [{"a": 1}, {"a": float("nan")}]

    def hanging() -> dict[str, Any]:
        if not answers:
            asked.set()
            assert go_on.wait(20)
        return answers.pop(0) if answers else {"a": 2}

    shared = Shared(hanging)
    assert shared.document() == b'{"a": 1}'
    time.sleep(0.01)
    assert shared.document() == b'{"a": 1}', "what is no JSON is not shown"
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(shared.document)
        assert asked.wait(20)
        assert shared.document() == b'{"a": 1}'
        go_on.set()
        assert first.result(20) == b'{"a": 2}'


# ---- what it answers -------------------------------------------------------------------------------------------------


@pytest.fixture
def address() -> Iterator[str]:
    with serving(lambda: {"robots": [HOSTILE], "sources": {}}, "127.0.0.1", 0) as url:
        yield urlsplit(url).netloc


def ask(
    address: str, method: str = "GET", path: str = "/", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body


def test_the_page_loads_nothing_from_elsewhere_and_sets_texts_as_texts(address: str) -> None:
    status, headers, body = ask(address)
    html = body.decode()
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    for name in ("script", "style"):
        (inside,) = re.findall(rf"<{name}>(.*?)</{name}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in headers["content-security-policy"]
    assert "--success: #00876a" in html, "the report's colours"
    assert set(re.findall(r"https?://[^\s\"']+", html)) == {"http://www.w3.org/2000/svg"}
    assert not re.findall(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|srcdoc|style=|\son\w+=", html
    )


def test_every_answer_has_the_headers(address: str) -> None:
    for method, path in (
        ("GET", "/"),
        ("GET", "/status.json"),
        ("GET", "/nothing"),
        ("POST", "/"),
        ("HEAD", "/"),
    ):
        _, headers, _ = ask(address, method, path)
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "Python" not in headers["server"]


def test_it_only_shows(address: str) -> None:
    assert (
        ask(address, path="/status.json?x=1")[2] == json.dumps({"robots": [HOSTILE], "sources": {}}).encode()
    )
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"):
        status, headers, _ = ask(address, method, "/status.json")
        assert (status, headers["allow"]) == (405, "GET, HEAD")
    for path in ("/", "/status.json"):
        status, headers, body = ask(address, "HEAD", path)
        assert (status, body) == (200, b"")
        assert int(headers["content-length"]) == len(ask(address, "GET", path)[2])
    for path in ("/page.html", "/../server.py", "/status.json/"):
        assert ask(address, path=path)[0] == 404


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.", ""]
)
def test_a_name_that_somebody_pointed_here_is_refused(address: str, host: str) -> None:
    status, _, body = ask(address, path="/status.json", host=host)
    assert status == 421
    assert b"localhost" in body


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9000", "LOCALHOST", "[::1]:8460"])
def test_this_machines_own_names_are_answered_whatever_port_ssh_chose(address: str, host: str) -> None:
    assert ask(address, path="/status.json", host=host)[0] == 200


def test_it_answers_so_many_at_once_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_REQUESTS", 2)
    with serving(dict, "127.0.0.1", 0) as url:
        address = urlsplit(url).netloc
        host, port = address.split(":")
        held = [socket.create_connection((host, int(port)), timeout=20) for _ in range(2)]
        refused = socket.create_connection((host, int(port)), timeout=20)
        assert refused.recv(1) == b"", "closed unanswered"
        for one in [*held, refused]:
            one.close()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                assert ask(address)[0] == 200
                break
            except (http.client.HTTPException, OSError):
                time.sleep(0.05)
        else:
            pytest.fail("the places are not free again")


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.7", "", "fleet.example"])
def test_other_machines_are_not_served(lwd: Any, run_folder: Path, host: str) -> None:
    code, out, err = lwd("dashboard", "--out", run_folder, "--host", host)
    assert (code, out) == (2, "")
    assert f"--host is {host}; expected 127.0.0.1, ::1, localhost." in err
    assert "ssh -L 8460:127.0.0.1:8460" in err


def test_a_taken_port_and_one_that_is_none_are_refused(address: str) -> None:
    with (
        pytest.raises(ConfigError, match="Choose another --port"),
        serving(dict, "127.0.0.1", int(address.split(":")[1])),
    ):
        pass
    with pytest.raises(ConfigError, match="--port is 65536"), serving(dict, "127.0.0.1", 65536):
        pass


def test_the_style_of_the_report_is_found() -> None:
    html, _ = page()
    assert b"/* the report's */" not in html


BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(BROWSER is None, reason="no chromium to look at the page with")
def test_a_browser_shows_it(services: Services, tmp_path: Path) -> None:
    rows = [
        said("coordinator", "coordinator", waits_for=HOSTILE),
        said("evil", waits_for=HOSTILE, task=HOSTILE),
    ]
    record_statuses(
        services.catalogue, [*rows, *[said(f"r{i}", ago_s=60.0 if i == 7 else 1.0) for i in range(199)]]
    )
    publish(services, 2)
    deliver(services.catalogue, *[("r1", 2, "success", 0)] * 30, *[("evil", 1, "failure", 5)] * 30)
    gathering = Gathering(services.folder)
    with serving(gathering.document, "127.0.0.1", 0) as url:
        command = [
            str(BROWSER),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'browser'}",
        ]
        done = subprocess.run(
            [*command, "--virtual-time-budget=5000", "--dump-dom", url],
            capture_output=True,
            text=True,
            timeout=120,
        )
    gathering.close()
    # Only the body's part before the script is what people see.
    shown = done.stdout.partition("<main>")[2].partition("<script>\n")[0]
    assert '<h1 id="name">run</h1>' in shown
    assert "1 of 200 robots needs somebody" in shown
    assert shown.count('<td class="text" title="works">') == 198
    assert shown.index(">r7<") < shown.index(">evil<") < shown.index(">r0<")
    assert "&lt;img src=x onerror=alert(1)&gt;" in shown
    assert "<img" not in shown
    assert "<script" not in shown
    assert shown.count("<svg") == 2
    assert shown.count("<circle") == 2
    assert "cannot be read" not in shown


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_told_to(run_folder: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "lwd.cli", "dashboard", "--out", str(run_folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[0]
            assert read(ask(urlsplit(url).netloc, path="/status.json")[2])["episodes"] == 3
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, err) == (0, "")
