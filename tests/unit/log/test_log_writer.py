"""The edge client: nothing that was recorded is lost, whatever fails; nothing leaves the spool too early."""

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from log_cases import (
    CAMERA,
    SEEING,
    Fleet,
    assert_equal,
    change,
    forge_parts,
    make_episode,
    make_header,
    record,
)

from lwd.episode import Outcome, Verdict
from lwd.errors import ConfigError, EpisodeError, StoreError
from lwd.log import codec, layout, recording
from lwd.log.scan import scan
from lwd.log.writer import EdgeClient
from lwd.robot.recorder import Recorder, Recording


def spooled(fleet: Fleet, robot: str = "robot-1") -> list[str]:
    found = (fleet.folder / "spool" / robot).iterdir()
    return sorted(path.name for path in found if not path.name.startswith("."))


def test_recorded_step_by_step_or_submitted_the_bytes_mean_the_same(fleet: Fleet):
    episode = make_episode(30, spec=SEEING.name, cameras={"wrist": (CAMERA.height, CAMERA.width)})
    with fleet.client() as client:
        recorder: Recorder = client
        recording: Recording = recorder.begin(make_header())
        assert recording is not None
        record(client, episode)
        other = make_episode(30)
        client.submit(other)
        assert client.pending()[0] == 2
        assert client.deliver() == 2
        assert client.pending() == (0, 0)
    fleet.drain()
    for expected in (episode, other):
        row = fleet.catalogue.episode(expected.header.episode_id)
        assert row is not None
        assert_equal(codec.decode(fleet.objects.get(row.key)), expected)
    assert spooled(fleet) == []


def test_the_file_on_disk_grows_with_the_episode(fleet: Fleet):
    episode = make_episode(20)
    with fleet.client(flush_s=0.5) as client:  # 5 control steps at 10 Hz
        recording = client.begin(episode.header)
        for t in range(17):
            recording.step(episode.proprio[t], episode.actions[t], False, float(episode.times_s[t]), {})
        whole = codec.recover(recording.path.read_bytes())
        assert whole is not None
        assert whole.steps == 14  # 15 steps are on disk; of the last one the result is not known
        recording.abort()
        recording.abort()
        assert client.deliver() == 1
    fleet.drain()
    (row,) = fleet.catalogue.episodes()
    assert (row.outcome, row.stage_score, row.steps) == ("unjudged", 0.0, 16)


def test_an_episode_without_a_step_is_dropped(fleet: Fleet, caplog):
    with fleet.client() as client:
        client.begin(make_header()).abort()
        verdict = Verdict(outcome=Outcome.FAILURE, stage_score=0.0)
        client.begin(make_header()).finish(np.zeros(6, np.float32), 0.0, {}, verdict)
        client.begin(make_header())
    assert spooled(fleet) == []
    assert caplog.text.count("episode_empty") == 3


def test_what_a_crash_left_is_recovered_at_the_next_start(fleet: Fleet):
    spool = fleet.folder / "spool" / "robot-1"
    spool.mkdir(parents=True)
    torn, whole, done, tiny, junk = (make_episode(12) for _ in range(5))
    (spool / f"{torn.header.episode_id}.part").write_bytes(codec.encode(torn)[:-1500])
    (spool / f"{whole.header.episode_id}.part").write_bytes(codec.encode(whole))
    (spool / f"{done.header.episode_id}.mcap").write_bytes(codec.encode(done))
    (spool / f"{done.header.episode_id}.part").write_bytes(codec.encode(done)[:-1500])
    (spool / f"{tiny.header.episode_id}.part").write_bytes(codec.encode(tiny)[:300])
    (spool / f"{junk.header.episode_id}.part").write_bytes(b"\0" * 5000)
    (spool / f"{junk.header.episode_id}.tmp").write_bytes(b"half")
    with fleet.client() as client:
        assert spooled(fleet) == sorted(f"{e.header.episode_id}.mcap" for e in (torn, whole, done, junk))
        assert client.deliver() == 4
    fleet.drain()
    outcomes = {row.episode_id: row.outcome for row in fleet.catalogue.episodes()}
    # The two whole ones keep their verdict. All steps of a file this small are in one chunk, which is torn or is not.
    assert outcomes[whole.header.episode_id] == outcomes[done.header.episode_id] == "success"
    (bad,) = fleet.catalogue.quarantined()
    assert (bad.episode_id, bad.reason) == (junk.header.episode_id, "corrupt")
    assert fleet.objects.get(bad.key) == b"\0" * 5000


def test_a_torn_file_that_cannot_be_read_is_delivered_as_it_is(fleet: Fleet):
    """A verdict that no float holds: not ours to judge, and no reason not to start."""
    episode = make_episode(5)
    messages = scan(codec.encode(episode)).messages
    verdict = {**json.loads(messages[layout.VERDICT_TOPIC][0]), "stage_score": 10**400}
    folder = fleet.folder / "spool" / "robot-1"
    folder.mkdir(parents=True)
    data = forge_parts({**messages, layout.VERDICT_TOPIC: [json.dumps(verdict).encode()]})
    (folder / f"{episode.header.episode_id}.part").write_bytes(data)
    with fleet.client() as client:
        assert client.deliver() == 1
    fleet.drain()
    assert [row.reason for row in fleet.catalogue.quarantined()] == ["schema"]


def test_running_recordings_are_not_recovered(fleet: Fleet):
    with fleet.client(flush_s=0.1) as client:
        episode = make_episode(5)
        recording = client.begin(episode.header)
        for t in range(4):
            recording.step(episode.proprio[t], episode.actions[t], False, float(episode.times_s[t]), {})
        assert client.recover() == 0
        assert spooled(fleet) == [f"{episode.header.episode_id}.part"]
    assert spooled(fleet) == [f"{episode.header.episode_id}.mcap"]  # closing makes it an unjudged episode


def test_recovery_takes_nothing_that_another_thread_is_writing(fleet: Fleet, monkeypatch):
    """The delivery thread recovers while the robot gives an episode up, and while it submits one."""
    episode = make_episode(15)
    with fleet.client(flush_s=0.5) as client:

        def meanwhile(then: Callable[..., None]) -> Callable[..., None]:
            def run(*args: object) -> None:
                monkeypatch.undo()
                other = threading.Thread(target=client.recover)
                other.start()
                other.join(0.2)
                then(*args)

            return run

        recording = client.begin(episode.header)
        for t in range(14):
            recording.step(episode.proprio[t], episode.actions[t], False, float(episode.times_s[t]), {})
        monkeypatch.setattr(recording, "_close", meanwhile(recording._close))
        recording.abort()
        monkeypatch.setattr(os, "fsync", meanwhile(os.fsync))
        client.submit(make_episode(5))
        assert client.deliver() == 2
    fleet.drain()
    assert [row.steps for row in fleet.catalogue.episodes()] == [13, 5]


def test_an_error_in_making_room_is_no_loss_of_what_is_whole(fleet: Fleet, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with fleet.client() as client:
        monkeypatch.setattr(client._keeper, "settle", full)
        record(client, make_episode(5))
        monkeypatch.undo()
        assert client.deliver() == 1
    fleet.drain()
    assert [row.outcome for row in fleet.catalogue.episodes()] == ["success"]


@pytest.mark.parametrize("state", ["runs", "waits", "was refused"])
def test_an_id_that_is_here_is_not_used_again(fleet: Fleet, state: str):
    first, second = make_episode(5, seed=1, episode_id="same"), make_episode(9, seed=2, episode_id="same")
    with fleet.client() as client:
        if state == "runs":
            client.begin(first.header)
        else:
            client.submit(first)
        if state == "was refused":
            client._spool.refuse(fleet.folder / "spool" / "robot-1" / "same.mcap", "too large")
        before = spooled(fleet)
        with pytest.raises(StoreError, match=f"{state}.*used once"):
            client.begin(second.header)
        with pytest.raises(StoreError, match=f"{state}.*used once"):
            client.submit(second)
        assert spooled(fleet) == before


@pytest.mark.parametrize("started_at", [2e10, -1.0, float("nan")])
def test_a_start_that_no_file_can_hold_is_refused_and_leaves_nothing(fleet: Fleet, started_at: float):
    with fleet.client() as client:
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(EpisodeError, match="started_at"):
            client.begin(make_header(started_at=started_at))
        assert len(os.listdir("/proc/self/fd")) == before
        assert spooled(fleet) == []


def test_whatever_ends_begin_leaves_no_file_open(fleet: Fleet, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with fleet.client() as client:
        before = len(os.listdir("/proc/self/fd"))
        monkeypatch.setattr(codec, "EpisodeStream", interrupted)
        with pytest.raises(KeyboardInterrupt):
            client.begin(make_header())
        assert len(os.listdir("/proc/self/fd")) == before
        assert spooled(fleet) == []


def test_an_episode_that_is_too_long_says_so_while_it_runs(fleet: Fleet, monkeypatch):
    episode = make_episode(5)
    monkeypatch.setattr(layout, "MAX_STEPS", 4)
    with fleet.client() as client:
        with pytest.raises(EpisodeError, match="at most 4 control steps"):
            record(client, episode)
        client._open.copy().pop().abort()
        record(client, make_episode(4))
        assert client.deliver() == 2
    fleet.drain()
    assert [row.steps for row in fleet.catalogue.episodes()] == [3, 4]


def test_an_episode_that_grows_too_large_says_so_while_it_runs_and_is_delivered(fleet: Fleet, monkeypatch):
    monkeypatch.setattr(recording, "MAX_RECORDED_BYTES", 20_000)
    episode = make_episode(400)
    with fleet.client() as client:
        with pytest.raises(EpisodeError, match="at most 20000 are recorded"):
            record(client, episode)
        client._open.copy().pop().abort()
        assert client.deliver() == 1
    fleet.drain()
    (row,) = fleet.catalogue.episodes()
    assert 10 < row.steps < 400
    assert row.outcome == "unjudged"
    assert fleet.catalogue.quarantined() == []


def test_a_spool_has_one_owner(fleet: Fleet):
    with fleet.client(), pytest.raises(StoreError, match="in use by another client"):
        fleet.client()
    fleet.client().close()


def test_names_are_checked(fleet: Fleet, tmp_path: Path):
    with pytest.raises(ConfigError, match="robot name"):
        fleet.client("a robot")
    with fleet.client() as client:
        with pytest.raises(ConfigError, match="delivers for 'robot-1'"):
            client.begin(make_header(robot="robot-2"))
        with pytest.raises(ConfigError, match="delivers for 'robot-1'"):
            client.submit(make_episode(2, robot="robot-2"))
        with pytest.raises(EpisodeError, match="episode_id"):
            client.begin(make_header(episode_id="../../x"))
        with pytest.raises(EpisodeError, match="camera name"):
            client.begin(make_header()).step(
                np.zeros(6, np.float32), np.zeros(3, np.float32), False, 0.0, {"a b": b""}
            )
        header = make_header()
        client.begin(header)
        with pytest.raises(StoreError, match="runs here already"):
            client.begin(header)
    assert not (tmp_path / "x.part").exists()


class Failing:
    """Wraps a store or a bus; fails while `failures` is not used up."""

    def __init__(self, inner: Any, failures: int) -> None:
        self.inner, self.failures, self.calls = inner, failures, 0

    def _maybe(self) -> None:
        self.calls += 1
        if self.failures > 0:
            self.failures -= 1
            raise StoreError("not reachable")

    def put_once(self, key: str, data: bytes) -> bool:
        self._maybe()
        return self.inner.put_once(key, data)

    def publish(self, *args: Any) -> None:
        self._maybe()
        self.inner.publish(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def client_of(fleet: Fleet, objects: Any, bus: Any, **options: Any) -> EdgeClient:
    return EdgeClient(fleet.folder / "spool" / "robot-1", objects, bus, "robot-1", **options)


@pytest.mark.parametrize("part", ["objects", "bus"])
def test_an_episode_stays_until_store_and_bus_have_it(fleet: Fleet, caplog, part: str):
    failing = Failing(getattr(fleet, part), 1)
    objects, bus = (failing, fleet.bus) if part == "objects" else (fleet.objects, failing)
    with client_of(fleet, objects, bus) as client:
        client.submit(make_episode(4))
        assert client.deliver() == 0
        assert client.pending()[0] == 1
        assert "episode_delivery_failed" in caplog.text
        assert client.deliver() == 1
    fleet.drain()
    assert len(fleet.catalogue.episodes()) == 1


def test_a_dead_network_is_not_asked_for_every_episode(fleet: Fleet):
    failing = Failing(fleet.objects, 1000)
    with client_of(fleet, failing, fleet.bus) as client:
        for _ in range(10):
            client.submit(make_episode(2))
        assert client.deliver() == 0
        assert failing.calls == 3
        assert client.pending()[0] == 10


def test_the_thread_delivers_at_once_and_backs_off(fleet: Fleet):
    failing = Failing(fleet.objects, 4)
    with client_of(fleet, failing, fleet.bus, retry_s=(0.01, 0.05)) as client:
        client.start()
        client.start()
        client.submit(make_episode(2))
        record(client, make_episode(3))
        deadline = time.monotonic() + 20
        while client.pending()[0] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert client.pending() == (0, 0)
        client.stop()
        client.submit(make_episode(2))
        client.start()
        client.stop()
        assert client.pending() == (0, 0)  # stopping ends with one last round
    fleet.drain()
    assert len(fleet.catalogue.episodes()) == 3


def test_an_exception_nobody_foresaw_does_not_end_the_thread(fleet: Fleet, monkeypatch):
    with fleet.client(retry_s=(0.01, 0.02)) as client:
        failures = [RuntimeError("a bug")]
        put_once = fleet.objects.put_once

        def buggy(key: str, data: bytes) -> bool:
            if failures:
                raise failures.pop()
            return put_once(key, data)

        monkeypatch.setattr(fleet.objects, "put_once", buggy)
        client.start()
        client.submit(make_episode(2))
        deadline = time.monotonic() + 20
        while client.pending()[0] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert client.pending() == (0, 0)


def test_a_full_disk_says_so_and_keeps_what_was_recorded(fleet: Fleet, monkeypatch):
    episode = make_episode(20)
    with fleet.client(flush_s=0.1) as client:
        recording = client.begin(episode.header)
        for t in range(10):
            recording.step(episode.proprio[t], episode.actions[t], False, float(episode.times_s[t]), {})

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(StoreError, match=r"No space left on device\. Check free space"):
                recording.finish(episode.proprio[10], 1.0, {}, episode.verdict)
            with pytest.raises(StoreError, match="No space left"):
                client.submit(make_episode(3))
    with fleet.client() as client:
        assert client.deliver() == 1
    fleet.drain()
    (row,) = fleet.catalogue.episodes()
    assert (row.episode_id, row.steps) == (episode.header.episode_id, 10)


def test_even_what_cannot_be_trained_on_is_delivered(fleet: Fleet):
    episode = make_episode(4)
    proprio = episode.proprio.copy()
    proprio[1] = np.nan
    with fleet.client() as client:
        record(client, change(episode, proprio=proprio, times_s=np.array([0, np.nan, 1, 2, 3.0])))
        client.deliver()
    fleet.drain()
    assert [row.reason for row in fleet.catalogue.quarantined()] == ["nan"]
