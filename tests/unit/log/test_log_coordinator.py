"""The coordinator: each episode once, each bad one in the quarantine with its reason and its bytes."""

import dataclasses
import hashlib
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from log_cases import CAMERA, SEEING, SPEC, TASK, Fleet, change, forge_parts, make_episode

from lwd.episode import SCHEMA_VERSION, Episode, Source
from lwd.errors import StoreError
from lwd.log import admission, codec, layout, manifest, quarantine, tables
from lwd.log.admission import MISSING_LOOKS
from lwd.log.coordinator import AWAY_GETS, FETCHERS, Coordinator, StepReport
from lwd.log.events import EpisodeEvent
from lwd.log.scan import scan
from lwd.log.validate import jpeg_size


def broken(name: str, index: tuple[int, int], value: float) -> Episode:
    episode = make_episode(5)
    getattr(episode, name)[index] = value
    return episode


def future() -> tuple[str, bytes]:
    episode = make_episode(5)
    messages = scan(codec.encode(episode)).messages
    fields = json.loads(messages[layout.HEADER_TOPIC][0])
    fields["schema_version"] = SCHEMA_VERSION + 1
    return episode.header.episode_id, forge_parts(
        {**messages, layout.HEADER_TOPIC: [json.dumps(fields).encode()]}
    )


def flipped() -> tuple[str, bytes]:
    episode = make_episode(5)
    data = bytearray(codec.encode(episode))
    data[len(data) // 2] ^= 4
    return episode.header.episode_id, bytes(data)


def huge_score() -> tuple[str, bytes]:
    """A stage score that no float holds."""
    episode = make_episode(5)
    messages = scan(codec.encode(episode)).messages
    fields = {**json.loads(messages[layout.VERDICT_TOPIC][0]), "stage_score": 10**400}
    return episode.header.episode_id, forge_parts(
        {**messages, layout.VERDICT_TOPIC: [json.dumps(fields).encode()]}
    )


def cut() -> tuple[str, bytes]:
    episode = make_episode(5)
    return episode.header.episode_id, codec.encode(episode)[:-100]


def with_cameras(sizes: dict[str, tuple[int, int]]) -> Episode:
    return make_episode(3, spec=SEEING.name, cameras=sizes)


BAD: dict[str, tuple[str, Any]] = {
    "truncated": ("truncated", cut),
    "corrupt": ("corrupt", flipped),
    "garbage": ("corrupt", lambda: ("garbage", b"PK\x03\x04" * 50)),
    "empty": ("truncated", lambda: ("empty", b"")),
    "future schema": ("schema", future),
    "stage score of 400 digits": ("schema", huge_score),
    "id of another": ("schema", lambda: ("somebody-else", codec.encode(make_episode(3)))),
    "nan state": ("nan", lambda: broken("proprio", (2, 1), np.nan)),
    "infinite action": ("nan", lambda: broken("actions", (2, 1), np.inf)),
    "action out of range": ("spec", lambda: broken("actions", (2, 1), 1.01)),
    "unknown spec": ("spec", lambda: make_episode(3, spec="centipede")),
    "other control rate": ("spec", lambda: make_episode(3, control_hz=20.0)),
    "unknown task": ("task", lambda: make_episode(3, task="juggle")),
    "state width": ("shape", lambda: make_episode(3, proprio_dim=7)),
    "action width": ("shape", lambda: make_episode(3, action_dim=4)),
    "no step": ("shape", lambda: make_episode(0)),
    "clock ran backwards": ("times", lambda: change(make_episode(2), times_s=np.array([0.0, 0.2, 0.1]))),
    "negative time": ("times", lambda: change(make_episode(2), times_s=np.array([-0.1, 0.2, 0.3]))),
    "camera missing": ("shape", lambda: with_cameras({})),
    "camera too many": ("shape", lambda: with_cameras({"wrist": (8, 12), "head": (8, 12)})),
    "picture size": ("shape", lambda: with_cameras({"wrist": (12, 8)})),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_quarantined_with_its_reason_and_its_bytes(fleet: Fleet, case: str):
    reason, make = BAD[case]
    made = make()
    episode_id, data = (made.header.episode_id, codec.encode(made)) if isinstance(made, Episode) else made
    for _ in range(2):  # delivered twice, listed once
        fleet.send(data, episode_id)
        fleet.drain()
    (row,) = fleet.catalogue.quarantined()
    assert (row.episode_id, row.reason, row.robot) == (episode_id, reason, "robot-1")
    assert len(row.detail) > 10
    assert fleet.objects.get(row.key) == data
    assert fleet.catalogue.episodes() == []
    assert fleet.bus.waiting("episodes.*") == 0
    assert fleet.coordinator.commit() is None


def test_good_episodes_are_accepted(fleet: Fleet):
    size = (CAMERA.height, CAMERA.width)
    for episode in (
        make_episode(1),
        make_episode(100),
        with_cameras({"wrist": size}),
        make_episode(3, source=Source.DEMO, snapshot=None),
    ):
        fleet.send_episode(episode)
    assert fleet.coordinator.step() == StepReport(catalogued=4)
    assert fleet.catalogue.quarantined() == []
    assert jpeg_size(b"\xff\xd8\xff") is None


def test_bytes_that_are_not_what_was_announced(fleet: Fleet):
    event = fleet.send_episode(make_episode(3))
    path = fleet.folder / "objects" / event.key
    path.write_bytes(path.read_bytes()[:-1] + b"?")  # rot
    longer = fleet.send_episode(make_episode(3))
    with open(fleet.folder / "objects" / longer.key, "ab") as file:
        file.write(b"more")
    fleet.drain()
    assert [row.reason for row in fleet.catalogue.quarantined()] == ["hash", "hash"]


def test_duplicates_and_reordering_count_once(fleet: Fleet):
    episodes = [make_episode(3) for _ in range(6)]
    events = [fleet.send_episode(episode) for episode in episodes]
    for event in [*reversed(events), *events[::2]]:
        fleet.bus.publish(event.subject, event.payload())
    report = fleet.coordinator.step()
    assert report == StepReport(catalogued=6, duplicates=9)
    for event in events:
        fleet.bus.publish(event.subject, event.payload())
    assert fleet.coordinator.step() == StepReport(duplicates=6)
    assert len(fleet.catalogue.episodes()) == 6
    assert fleet.catalogue.quarantined() == []


@pytest.mark.parametrize("together", [True, False])
def test_the_same_id_with_other_bytes_is_quarantined(fleet: Fleet, together: bool):
    first = make_episode(3)
    second = change(make_episode(3, seed=1), header=first.header)
    fleet.send_episode(first)
    if not together:
        fleet.drain()
    late = fleet.send_episode(second)
    fleet.drain()
    (held,) = fleet.catalogue.episodes()
    (row,) = fleet.catalogue.quarantined(reason="duplicate")
    assert fleet.objects.get(held.key) == codec.encode(first)
    assert (row.sha256, row.key) == (late.sha256, late.key)
    assert fleet.objects.get(row.key) == codec.encode(second)


@pytest.mark.parametrize(
    "change_event",
    [{"version": 2}, {"episode_id": "../x"}, {"sha256": "AB"}, {"size": -1}, {"size": True}, {"robot": None}],
)
def test_a_malformed_event_is_quarantined_once(fleet: Fleet, change_event):
    event = EpisodeEvent(episode_id="e", robot="robot-1", sha256="a" * 64, size=5)
    payload = {**event.payload(), **change_event}
    for _ in range(2):
        fleet.bus.publish("episodes.robot-1", payload)
        fleet.drain()
    (row,) = fleet.catalogue.quarantined()
    assert row.reason == "schema"
    fleet.bus.publish("episodes.robot-1", {})
    fleet.drain()
    assert len(fleet.catalogue.quarantined()) == 2


HOSTILE = {
    "a time of 400 digits": {"ended_at": 10**400},
    "a size of 400 digits": {"size": 10**400},
    "nested as deep as JSON is read": {"x": "@"},
    "a report with a time of 400 digits": {
        "kind": "dropped",
        "worth": "success",
        "why": "budget",
        "at": 10**400,
    },
}


@pytest.mark.parametrize("case", HOSTILE)
def test_no_message_of_a_robot_ends_or_holds_up_the_coordinator(fleet: Fleet, case: str):
    """A robot's own program may put any JSON on its subject."""
    event = EpisodeEvent(episode_id="hostile", robot="robot-1", sha256="a" * 64, size=5)
    for number, depth in enumerate(range(900, 1000, 10)):
        text = json.dumps({**event.payload(), **HOSTILE[case]}).replace('"@"', "[" * depth + "]" * depth)
        row = {"subject": event.subject, "message_id": str(number), "payload": text, "published_at": 1.0}
        with fleet.catalogue.write() as connection:
            connection.execute(sa.insert(tables.events).values(row))
    good = fleet.send_episode(make_episode(3))
    stop = threading.Event()
    stop.set()
    fleet.coordinator.run(stop)
    assert [row.episode_id for row in fleet.catalogue.episodes()] == [good.episode_id]
    refused = {row.reason for row in fleet.catalogue.quarantined()}
    assert refused == (set() if "ended_at" in HOSTILE[case] else {"schema"})  # its object may still come


@pytest.mark.parametrize("task", [TASK.name, "juggle"])
def test_what_was_missing_is_judged_when_it_comes_again(fleet: Fleet, monkeypatch, task: str):
    episode = make_episode(3, task=task)
    data, name = codec.encode(episode), episode.header.episode_id
    event = fleet.send(data, name)
    fleet.objects.delete(event.key)
    monkeypatch.setattr(admission, "MISSING_LOOKS", 1)
    fleet.drain()
    assert [row.reason for row in fleet.catalogue.quarantined()] == ["missing"]
    fleet.send(data, name)
    fleet.drain()
    good = task == TASK.name
    assert [row.episode_id for row in fleet.catalogue.episodes()] == ([name] if good else [])
    assert [row.reason for row in fleet.catalogue.quarantined()] == ([] if good else ["task"])


def test_who_announces_anothers_refused_episode_does_not_hide_it(fleet: Fleet):
    """A cloned disk: the clone announces first. What the operator then sees and mends is the owner's refusal."""
    episode = make_episode(3, robot="owner", task="juggle")
    data, name = codec.encode(episode), episode.header.episode_id
    for robot, reason in (("clone", "robot"), ("owner", "task"), ("clone", "task")):
        fleet.send(data, name, robot=robot)
        fleet.drain()
        (row,) = fleet.catalogue.quarantined()
        assert row.reason == reason
    assert row.robot == "owner"
    tasks = {"juggle": dataclasses.replace(TASK, name="juggle")}
    assert quarantine.release(fleet.catalogue, fleet.objects, {SPEC.name: SPEC}, tasks, row.id) is None
    assert [row.episode_id for row in fleet.catalogue.episodes()] == [name]


def test_text_that_no_database_stores_poisons_nothing(fleet: Fleet):
    """Lone surrogates are valid JSON and survive until something encodes them."""
    fleet.bus.publish("episodes.robot-1", {"version": 1, "episode_id": "\ud800", "sha256": "\ud800"})
    messages = scan(codec.encode(make_episode(3, episode_id="hostile"))).messages
    fields = json.loads(messages[layout.HEADER_TOPIC][0])
    messages[layout.HEADER_TOPIC] = [json.dumps({**fields, "\ud800\n": 1}).encode()]
    fleet.send(forge_parts(messages), "hostile")
    fleet.send_episode(make_episode(3))
    assert fleet.coordinator.step() == StepReport(catalogued=1, quarantined=2)
    assert [row.reason for row in fleet.catalogue.quarantined()] == ["schema", "schema"]


def test_a_robot_cannot_speak_for_another(fleet: Fleet):
    event = fleet.send_episode(make_episode(3))
    fleet.drain()
    other = dataclasses.replace(event, episode_id="forged")
    fleet.bus.publish("episodes.robot-2", other.payload())
    fleet.drain()
    (row,) = fleet.catalogue.quarantined()
    assert (row.reason, row.robot) == ("schema", "robot-2")


def test_a_bug_in_one_check_delays_only_that_episode(fleet: Fleet, monkeypatch, caplog):
    poison = make_episode(3)

    def buggy(episode: Episode, *_: Any) -> None:
        if episode.header.episode_id == poison.header.episode_id:
            raise RuntimeError("a bug")

    monkeypatch.setattr("lwd.log.admission.validate", buggy)
    for episode in (poison, make_episode(3)):
        fleet.send_episode(episode)
    assert fleet.coordinator.step() == StepReport(catalogued=1, deferred=1)
    assert "admission_failed" in caplog.text


def test_an_event_before_its_object_is_tried_again(fleet: Fleet, monkeypatch):
    episode = make_episode(3)
    event = fleet.send_episode(episode)
    path = fleet.folder / "objects" / event.key
    hidden = path.rename(fleet.folder / "hidden")
    assert fleet.coordinator.step() == StepReport(deferred=1)
    hidden.rename(path)
    assert fleet.coordinator.step().handled == 0  # it pauses first
    later = time.time() + 60
    monkeypatch.setattr(time, "time", lambda: later)
    assert fleet.coordinator.step() == StepReport(catalogued=1)


def test_an_object_that_never_comes_is_listed(fleet: Fleet, monkeypatch):
    event = fleet.send_episode(make_episode(3))
    (fleet.folder / "objects" / event.key).unlink()
    now = time.time()
    for attempt in range(MISSING_LOOKS):
        assert fleet.catalogue.quarantined() == []
        monkeypatch.setattr(time, "time", lambda attempt=attempt: now + 60 * attempt)
        fleet.coordinator.step()
    (row,) = fleet.catalogue.quarantined()
    assert (row.reason, row.episode_id) == ("missing", event.episode_id)


def test_what_was_missing_during_an_outage_is_released_together(fleet: Fleet, monkeypatch):
    monkeypatch.setattr(admission, "MISSING_LOOKS", 1)
    sent = [
        (codec.encode(e), e.header.episode_id) for e in (make_episode(3), make_episode(3), make_episode(3))
    ]
    for event in [fleet.send(data, name) for data, name in sent]:
        fleet.objects.delete(event.key)
    fleet.drain()
    for data, name in sent[:2]:
        fleet.objects.put_once(f"episodes/{name}/{hashlib.sha256(data).hexdigest()}", data)
    known = {SPEC.name: SPEC}, {TASK.name: TASK}
    done, left = quarantine.release_all(fleet.catalogue, fleet.objects, *known, "missing")
    assert (done, [row.episode_id for row in left]) == (2, [sent[2][1]])
    assert len(fleet.catalogue.episodes()) == 2
    with pytest.raises(StoreError, match="nothing is quarantined as 'spec'"):
        quarantine.release_all(fleet.catalogue, fleet.objects, *known, "spec")


class Away:
    """A store that can be away; `asked` counts gets."""

    def __init__(self, fleet: Fleet):
        self.objects, self.away, self.asked, self.stops = fleet.objects, True, 0, threading.Event()

    def get(self, key: str, max_bytes: int | None = None) -> bytes:
        self.asked += 1
        self.stops.set()
        if self.away:
            raise StoreError("down")
        return self.objects.get(key, max_bytes)

    def coordinator(self, fleet: Fleet) -> Coordinator:
        return Coordinator(fleet.catalogue, fleet.bus, self, {SPEC.name: SPEC}, {TASK.name: TASK})


def test_an_outage_does_not_count_as_looking_for_an_object_that_is_not_there(fleet: Fleet, monkeypatch):
    episode = make_episode(3)
    event = fleet.send_episode(episode)
    hidden = (fleet.folder / "objects" / event.key).rename(fleet.folder / "hidden")
    store, now = Away(fleet), time.time()
    coordinator = store.coordinator(fleet)

    def step(times: int) -> None:
        nonlocal now
        for _ in range(times):
            now += 60
            monkeypatch.setattr(time, "time", lambda at=now: at)
            assert coordinator.step() == StepReport(deferred=1)

    step(2 * MISSING_LOOKS)
    store.away = False
    step(MISSING_LOOKS - 1)
    store.away = True
    step(1)
    store.away = False
    step(MISSING_LOOKS - 1)  # in a row
    hidden.rename(fleet.folder / "objects" / event.key)
    monkeypatch.setattr(time, "time", lambda: now + 60)
    assert coordinator.step() == StepReport(catalogued=1)


def test_a_store_that_is_away_is_not_asked_for_everything_that_waits(fleet: Fleet):
    for _ in range(40):
        fleet.send_episode(make_episode(3))
    store, stop = Away(fleet), threading.Event()
    coordinator = store.coordinator(fleet)
    assert coordinator.step(limit=20) == StepReport(deferred=20)
    assert store.asked < AWAY_GETS + FETCHERS
    stop.set()
    coordinator.run(stop)  # ends though 20 more wait, each for a time-out of the store
    assert store.asked < AWAY_GETS + FETCHERS
    store.coordinator(fleet).run(stop)
    assert store.asked < 2 * (AWAY_GETS + FETCHERS)


def test_a_coordinator_that_is_told_to_stop_leaves_the_rest_of_a_batch_to_its_successor(fleet: Fleet):
    for _ in range(20):
        fleet.send_episode(make_episode(3))
    store = Away(fleet)
    store.away = False
    report = store.coordinator(fleet).step(stop=store.stops)
    assert report.catalogued + report.deferred == 20
    assert 1 <= report.catalogued <= FETCHERS
    assert fleet.coordinator.step().catalogued == report.deferred  # at once


def test_a_store_that_is_down_loses_and_refuses_nothing(fleet: Fleet, monkeypatch):
    class Down:
        def get(self, key: str, max_bytes: int | None = None) -> bytes:
            raise StoreError("down")

    for _ in range(3):
        fleet.send_episode(make_episode(3))
    down = Coordinator(fleet.catalogue, fleet.bus, Down(), {}, {})
    assert down.step() == StepReport(deferred=3)
    later = time.time() + 60
    monkeypatch.setattr(time, "time", lambda: later)
    assert fleet.coordinator.step() == StepReport(catalogued=3)


def test_dying_between_commit_and_acknowledgement_counts_once(fleet: Fleet, monkeypatch):
    for _ in range(3):
        fleet.send_episode(make_episode(3))
    with monkeypatch.context() as patch:
        patch.setattr(fleet.bus, "ack", lambda messages: (_ for _ in ()).throw(StoreError("cut off")))
        with pytest.raises(StoreError):
            fleet.coordinator.step()
    assert len(fleet.catalogue.episodes()) == 3
    later = time.time() + 1000
    monkeypatch.setattr(time, "time", lambda: later)
    assert fleet.coordinator.step() == StepReport(duplicates=3)
    assert len(fleet.catalogue.episodes()) == 3
    assert fleet.bus.waiting("episodes.*") == 0


def test_run_commits_what_its_predecessor_catalogued_though_nothing_new_comes(fleet: Fleet):
    """It died between a step and the commit; the message is acknowledged, so only the catalogue knows."""
    fleet.send_episode(make_episode(5))
    fleet.drain()
    assert manifest.latest(fleet.catalogue) is None
    stop = threading.Event()
    worker = threading.Thread(target=fleet.coordinator.run, args=(stop, 0.05), daemon=True)
    worker.start()
    try:
        deadline = time.monotonic() + 20
        while manifest.latest(fleet.catalogue) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        newest = manifest.latest(fleet.catalogue)
        assert newest is not None
        assert newest.episodes == 1
    finally:
        stop.set()
        worker.join(20)


def test_a_quiet_coordinator_does_not_take_the_write_lock(fleet: Fleet, monkeypatch: pytest.MonkeyPatch):
    commits: list[float] = []
    monkeypatch.setattr(fleet.coordinator, "commit", lambda: commits.append(time.monotonic()))
    stop = threading.Event()
    worker = threading.Thread(target=fleet.coordinator.run, args=(stop, 0.01), daemon=True)
    worker.start()
    time.sleep(0.7)
    stop.set()
    worker.join(20)
    assert len(commits) <= 2  # when it begins and when it ends


def test_run_commits_and_survives_an_outage(fleet: Fleet, monkeypatch):
    stop, failures = threading.Event(), [StoreError("down")] * 2
    consume = fleet.bus.consume

    def flaky(*args: Any, **options: Any):
        if failures:
            raise failures.pop()
        return consume(*args, **options)

    monkeypatch.setattr(fleet.bus, "consume", flaky)
    thread = threading.Thread(target=fleet.coordinator.run, args=(stop, 0.05))
    thread.start()
    try:
        for _ in range(3):
            fleet.send_episode(make_episode(3))
        deadline = time.monotonic() + 20
        while (manifest.latest(fleet.catalogue) is None) and time.monotonic() < deadline:
            time.sleep(0.02)
        fleet.send_episode(make_episode(3))
    finally:
        stop.set()
        thread.join(20)
    newest = manifest.latest(fleet.catalogue)
    assert newest is not None
    assert newest.episodes == 4  # the last step and the last commit happen after stop
    assert failures == []


def test_log_lines_name_the_numbers(fleet: Fleet, caplog):
    caplog.set_level("INFO", "lwd.log")
    episode = make_episode(3)
    fleet.send_episode(episode)
    bad = fleet.send_episode(make_episode(3, task="two"))
    fleet.drain()
    fleet.coordinator.commit()
    text = caplog.text
    assert (
        f"episode_catalogued episode={episode.header.episode_id} task=drawer source=online snapshot=3" in text
    )
    assert f"episode_quarantined episode={bad.episode_id} reason=task" in text
    assert "manifest_committed manifest=1 episodes=1" in text
    assert all("\n" not in record.getMessage() for record in caplog.records)


MEASURE = """
import sys, tempfile, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from log_cases import make_episode, open_fleet

with open_fleet(Path(sys.argv[2])) as fleet:
    for _ in range(200):
        fleet.send_episode(make_episode(50))
    began = time.perf_counter(), time.process_time()
    fleet.drain()
    print(time.perf_counter() - began[0], time.process_time() - began[1])
    assert len(fleet.catalogue.episodes()) == 200
"""


def test_it_handles_200_small_episodes_a_second(tmp_path: Path):
    """Measured without the type checks of the test run, in processor time, since this machine is shared."""
    tests = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", MEASURE, tests, str(tmp_path / "fleet")]
    output = subprocess.run(command, capture_output=True, text=True, check=True)
    _, processor = map(float, output.stdout.split())
    assert 200 / processor > 200


def test_reports_add_up():
    assert StepReport(catalogued=1, duplicates=2, quarantined=3, deferred=4).handled == 10
    assert dataclasses.asdict(StepReport()) == {
        "catalogued": 0,
        "duplicates": 0,
        "quarantined": 0,
        "deferred": 0,
    }
