"""A robot without network: what it keeps within its budget and on a full disk, what it drops, and what it says of it."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_cases import Fleet, assert_equal, change, make_episode, make_header, record

from lwd.episode import Episode, Outcome, Source, Verdict
from lwd.errors import ConfigError, StoreError
from lwd.log import codec, losses
from lwd.log.calls import CallBusyError, CallRefusedError
from lwd.log.keeper import Keeper
from lwd.log.losses import Drop, Losses, Total
from lwd.log.spool import Spool
from lwd.log.worth import About, Worth, about
from lwd.log.writer import EdgeClient


def made(kind: str, name: str, steps: int = 4) -> Episode:
    """An episode of a class, all of the same size for the same `steps`."""
    outcome = {"success": Outcome.SUCCESS, "failure": Outcome.FAILURE}.get(kind, Outcome.UNJUDGED)
    # An id sorts by time; the padding keeps all files of one size.
    episode = make_episode(steps, episode_id=f"{name:0>8}")
    return change(
        episode,
        verdict=Verdict(outcome=outcome, stage_score=0.5),
        interventions=np.full(steps, kind == "human"),
    )


def kept(client: EdgeClient, folder: Path) -> list[str]:
    return sorted(path.stem.lstrip("0") for path in folder.glob("*.mcap"))


def dropped(client: EdgeClient) -> dict[str, int]:
    return {
        worth.name.lower(): total.episodes
        for worth, total in client.status().dropped.items()
        if total.episodes
    }


@pytest.fixture
def folder(fleet: Fleet) -> Path:
    return fleet.folder / "spool" / "robot-1"


def test_worth_follows_from_source_verdict_and_interventions():
    def worth(source: Source, outcome: Outcome, steps: int = 0) -> Worth:
        return About(source=source, outcome=outcome, intervention_steps=steps).worth

    assert worth(Source.ONLINE, Outcome.UNJUDGED) == Worth.UNJUDGED
    assert worth(Source.ROLLOUT, Outcome.SUCCESS) == Worth.SUCCESS
    assert worth(Source.ONLINE, Outcome.FAILURE) == Worth.FAILURE
    assert worth(Source.ONLINE, Outcome.UNJUDGED, 1) == Worth.HUMAN
    assert worth(Source.DEMO, Outcome.SUCCESS) == worth(Source.PLAY, Outcome.UNJUDGED) == Worth.HUMAN
    assert about(made("human", "a")).intervention_steps == 4


def test_over_budget_successes_go_first_newest_first_and_interventions_last(fleet: Fleet, folder: Path):
    size = len(codec.encode(made("success", "x")))
    slack = 100  # a class's name is longer or shorter by a few bytes
    with fleet.client(budget_bytes=5 * size + slack) as client:
        for kind, name in (
            ("success", "a"),
            ("human", "b"),
            ("failure", "c"),
            ("success", "d"),
            ("unjudged", "e"),
        ):
            client.submit(made(kind, name))
        assert kept(client, folder) == ["a", "b", "c", "d", "e"]
        expected = {  # each line: what comes, and what is gone after it
            "f": "e", "g": "d", "h": "a", "i": "i", "j": "g",
        }  # fmt: skip
        held = {"a", "b", "c", "d", "e"}
        for (name, gone), kind in zip(
            expected.items(), ("failure", "failure", "human", "success", "human"), strict=True
        ):
            client.submit(made(kind, name))
            held = (held | {name}) - {gone}
            assert kept(client, folder) == sorted(held), name
        assert dropped(client) == {"unjudged": 1, "success": 3, "failure": 1}
        assert client.status().used_bytes <= 5 * size + slack


@settings(max_examples=12, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(["unjudged", "success", "failure", "human"]), min_size=1, max_size=8),
    room=st.integers(1, 6),
)
def test_no_intervention_or_failure_ever_goes_before_a_success(tmp_path_factory, kinds: list[str], room: int):
    size = len(codec.encode(made("success", "x"))) + 20
    spool = Spool(tmp_path_factory.mktemp("spool"))
    keeper = Keeper(spool, room * size)
    lost: list[Worth] = []
    for number, kind in enumerate(kinds):
        episode = made(kind, str(number))
        name, data, known = episode.header.episode_id, codec.encode(episode), about(episode)
        keeper.store(lambda name=name, data=data, known=known: spool.add(name, data, known), known)
        lost = [drop.worth for drop in keeper.untold()]
        left = [known.worth for path in spool.whole() if (known := spool.about(path)) is not None]
        # Model: the most valuable `room` of all that came, counted by class.
        came = sorted((Worth[kind.upper()] for kind in kinds[: number + 1]), reverse=True)
        assert sorted(left, reverse=True) == came[:room]
        assert sorted(lost + left, reverse=True) == came
    spool.close()


def test_what_was_dropped_is_listed_by_the_coordinator_once(fleet: Fleet, folder: Path):
    size = len(codec.encode(made("success", "x")))
    with fleet.client(budget_bytes=size + 50) as client:
        client.submit(made("failure", "a"))
        client.submit(made("success", "b"))
        assert client.status().unreported == 1
    with fleet.client(budget_bytes=size + 50) as client:  # after a restart the numbers are still there
        assert dropped(client) == {"success": 1}
        assert client.status().unreported == 1
        assert client.deliver() == 1
        assert client.status().unreported == 0
        client.deliver()
    with fleet.client() as client:
        client.deliver()
        assert dropped(client) == {"success": 1}
    fleet.drain()
    (row,) = fleet.catalogue.quarantined(reason="dropped")
    assert (row.episode_id, row.robot, row.key) == ("0000000b", "robot-1", "")
    assert "class success" in row.detail
    assert "budget" in row.detail
    assert [row.episode_id for row in fleet.catalogue.episodes()] == ["0000000a"]


def test_a_report_about_a_delivered_episode_says_nothing(fleet: Fleet):
    """A crash between the event and the file's removal, then a drop: nothing was lost, in whatever order they arrive."""
    for first in ("event", "report"):
        episode = make_episode(3, robot="robot-1")
        name = episode.header.episode_id
        report = {
            "version": 1, "kind": "dropped", "episode_id": name, "robot": "robot-1", "worth": "success", "size": 1,
            "why": "budget", "at": 1.0,
        }  # fmt: skip
        send = [
            lambda episode=episode: fleet.send_episode(episode),
            lambda r=report: fleet.bus.publish("episodes.robot-1", r),
        ]
        for step in send if first == "event" else reversed(send):
            step()
            fleet.drain()
        assert fleet.catalogue.episode(name) is not None
    assert fleet.catalogue.quarantined() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"robot": "robot-2"},
        {"episode_id": "../x"},
        {"size": -1},
        {"size": True},
        {"worth": "x\n"},
        {"at": float("1e300")},
        {"why": None},
        {"version": 2},
    ],
)
def test_a_report_that_does_not_fit_is_refused(fleet: Fleet, changes: dict[str, Any]):
    report = {
        "version": 1, "kind": "dropped", "episode_id": "a", "robot": "robot-1", "worth": "success", "size": 1,
        "why": "budget", "at": 1.0,
    }  # fmt: skip
    fleet.bus.publish("episodes.robot-1", {**report, **changes})
    fleet.drain()
    (row,) = fleet.catalogue.quarantined()
    assert row.reason == "schema"


def test_a_crash_between_the_journal_and_the_file_counts_once(fleet: Fleet, folder: Path):
    with fleet.client() as client:
        client.submit(made("success", "a"))
        client.submit(made("success", "b"))
    Losses(folder / ".dropped.jsonl").add(
        Drop(episode_id="0000000a", worth=Worth.SUCCESS, size=10, at=1.0, why="budget")
    )
    with fleet.client() as client:
        assert kept(client, folder) == ["b"]
        assert dropped(client) == {"success": 1}


def test_the_journal_survives_torn_and_foreign_lines(tmp_path: Path):
    path = tmp_path / "journal"
    journal = Losses(path)
    drops = [Drop(episode_id=name, worth=Worth.FAILURE, size=7, at=2.0, why="budget") for name in "abc"]
    journal.add(drops[0])
    with path.open("a") as file:
        file.write('\n{"drop": {"episode_id": "z", "wor')  # torn by a full disk
    journal.add(drops[1])
    with path.open("a") as file:
        file.write('\n[1]\n{"drop": 3}\n{"totals": {"X": 1}}\nrubbish')
    journal.add(drops[2])
    journal.told("a")
    again = Losses(path)
    assert again.untold() == drops[1:]
    assert again.totals()[Worth.FAILURE] == Total(episodes=3, size=21)
    for name in "bc":
        again.told(name)
    long = path.stat().st_size
    assert Losses(path).totals()[Worth.FAILURE] == Total(episodes=3, size=21)
    assert path.stat().st_size < long  # compacted, and still the same
    assert Losses(path).totals()[Worth.FAILURE] == Total(episodes=3, size=21)


@pytest.mark.parametrize(
    "line",
    [
        '{"totals": {"SUCCESS": {"episodes": "x", "size": 1}}}',
        '{"totals": {"SUCCESS": [1, 2]}}',
        '{"drop": {"episode_id": "b", "worth": "SUCCESS", "size": "big", "at": 1, "why": "budget"}}',
        '{"drop": {"episode_id": "b", "worth": "SUCCESS", "size": 1, "at": "noon", "why": "budget"}}',
        '{"drop": {"episode_id": "b", "worth": "SUCCESS", "size": 1, "at": 1, "why": ["?"]}}',
    ],
)
def test_a_damaged_journal_does_not_stop_a_robot(tmp_path: Path, line: str):
    path = tmp_path / "journal"
    path.write_text(line)
    journal = Losses(path)
    journal.add(Drop(episode_id="a", worth=Worth.SUCCESS, size=7, at=2.0, why="budget"))
    assert journal.totals()[Worth.SUCCESS] == Total(episodes=1, size=7)
    assert [drop.episode_id for drop in journal.untold()] == ["a"]


def test_the_journal_stays_small_while_a_robot_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(losses, "MAX_JOURNAL_BYTES", 1000)
    path = tmp_path / "journal"
    journal = Losses(path)
    for name in range(50):
        journal.add(Drop(episode_id=f"e{name}", worth=Worth.SUCCESS, size=7, at=2.0, why="budget"))
        journal.told(f"e{name}")
        assert path.stat().st_size < 1200
    assert Losses(path).totals()[Worth.SUCCESS] == Total(episodes=50, size=350)


def test_a_running_episode_takes_from_successes_but_not_from_failures(fleet: Fleet, folder: Path):
    size = len(codec.encode(made("success", "x")))
    with fleet.client(budget_bytes=3 * size, flush_s=0.1) as client:
        for kind, name in (("failure", "a"), ("success", "b"), ("human", "c")):
            client.submit(made(kind, name))
        long = made("success", "d", steps=40)
        recording = client.begin(long.header)
        for t in range(40):
            recording.step(long.proprio[t], long.actions[t], False, float(long.times_s[t]), {})
        assert kept(client, folder) == ["a", "c"]  # "b" made room; the failure did not
        recording.finish(long.proprio[40], 4.0, {}, long.verdict)
        assert kept(client, folder) == ["a", "c"]  # a success in the end: it goes itself
        assert dropped(client) == {"success": 2}
        too_long = made("human", "e", steps=100)
        assert len(codec.encode(too_long)) > 3 * size
        record(client, too_long)
        assert kept(client, folder) == [
            "c"
        ]  # it took the failure, and did not fit: the newest of the class goes
        assert dropped(client) == {"success": 2, "failure": 1, "human": 1}
        assert client.status().used_bytes <= 3 * size


class FullDisk:
    """`os.write` and `os.fsync` on a disk that has `free` bytes left; removing files gives theirs back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, free: int) -> None:
        self.capacity = used(folder) + free
        write = os.write

        def bounded(handle: int, data: bytes) -> int:
            room = self.capacity - used(folder)
            if room <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(handle, data[:room])

        monkeypatch.setattr(os, "write", bounded)


def used(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.[pm]*"))


def test_on_a_full_disk_recording_goes_on_and_the_file_is_whole(fleet: Fleet, folder: Path, monkeypatch):
    with fleet.client(flush_s=0.1) as client:
        for kind, name in (("success", "a"), ("human", "b"), ("success", "c"), ("failure", "d")):
            client.submit(made(kind, name, steps=40))
        size = len(codec.encode(made("success", "x", steps=40)))
        FullDisk(monkeypatch, folder, free=size)
        episode = made("failure", "e", steps=40)
        record(client, episode)
        assert kept(client, folder) == ["a", "b", "d", "e"]
        assert_equal(codec.decode((folder / "0000000e.mcap").read_bytes()), episode)
        assert dropped(client) == {"success": 1}
        assert client.status().unreported == 1


def test_where_nothing_may_go_a_full_disk_is_an_error_and_the_rest_is_kept(
    fleet: Fleet, folder: Path, monkeypatch
):
    with fleet.client(flush_s=0.1) as client:
        client.submit(made("failure", "a"))
        episode = made("success", "b", steps=40)
        recording = client.begin(episode.header)
        with monkeypatch.context() as patch:
            FullDisk(patch, folder, free=300)

            def go_on() -> None:
                for t in range(40):
                    times = float(episode.times_s[t])
                    recording.step(episode.proprio[t], episode.actions[t], False, times, {})

            with pytest.raises(StoreError, match="No space left"):
                go_on()
        assert kept(client, folder) == ["a"]
        assert dropped(client) == {}
        recording.step(episode.proprio[0], episode.actions[0], False, 9.0, {})  # there is room again
        recording.abort()
        half = codec.decode((folder / "0000000b.mcap").read_bytes())
        assert 2 <= half.steps < 40
        assert np.array_equal(half.proprio[:-1], episode.proprio[: half.steps])


def test_a_full_disk_does_not_wait_for_what_is_being_delivered(folder: Path):
    spool = Spool(folder)
    for name, outcome in (("a", Outcome.UNJUDGED), ("b", Outcome.SUCCESS)):
        spool.add(name, b"x" * 100, About(source=Source.ONLINE, outcome=outcome, intervention_steps=0))
    keeper = Keeper(spool, budget_bytes=200)
    with keeper.delivering(folder / "a.mcap"):
        assert not keeper.room(10, full=False, worth=Worth.HUMAN)  # "a" makes that room by itself
        assert keeper.room(10, full=True, worth=Worth.HUMAN)
    assert [path.stem for path in spool.whole()] == ["a"]
    spool.close()


def test_a_large_spool_is_read_once(fleet: Fleet, folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Drops and status are on a recording's way: they look into no file and list no folder."""
    size = len(codec.encode(made("success", "x")))
    with fleet.client() as client:
        for name in "abc":
            client.submit(made("success", name))

    def never(*_: object) -> None:
        raise AssertionError("the spool was read again")

    with fleet.client(budget_bytes=3 * size + 50) as client:
        for name in ("about", "whole", "set_aside"):
            monkeypatch.setattr(Spool, name, never)
        client.submit(made("failure", "d"))
        assert client.status().waiting == 3
        assert client.status().used_bytes < 3 * size + 50
        monkeypatch.undo()
        assert kept(client, folder) == ["a", "b", "d"]


def test_what_is_known_of_a_spool_is_what_is_in_it(fleet: Fleet, folder: Path):
    def check(client: EdgeClient, waiting: int, refused: int) -> None:
        found = client.status()
        files = [*folder.glob("*.mcap"), *folder.glob("*.part"), *folder.glob("refused/*.mcap")]
        assert (found.waiting, found.refused) == (waiting, refused)
        assert found.used_bytes == sum(path.stat().st_size for path in files)

    with fleet.client() as client:
        recording = client.begin(make_header(episode_id="r"))
        check(client, 0, 0)
        for name in ("a", "b"):
            client.submit(made("success", name))
        check(client, 2, 0)
        client._spool.refuse(folder / "0000000a.mcap", "too large")
        check(client, 1, 1)
        record(client, made("failure", "c"))
        check(client, 2, 1)
        client.retry_refused("0000000a")
        check(client, 3, 0)
        recording.abort()  # without a step nothing is left of it
        client.deliver()
        check(client, 0, 0)


def test_worth_is_read_from_the_file_where_the_note_is_lost(fleet: Fleet, folder: Path):
    with fleet.client() as client:
        for kind, name in (("failure", "a"), ("success", "b"), ("human", "c")):
            client.submit(made(kind, name))
    (folder / ".0000000a.about").unlink()
    (folder / ".0000000b.about").write_text('{"source": "onl')
    (folder / ".gone.about").write_text("{}")
    (folder / "junk.mcap").write_bytes(b"rubbish")
    size = len(codec.encode(made("success", "x")))
    with fleet.client(budget_bytes=2 * size + 50) as client:
        assert kept(client, folder) == ["a", "c"]
        assert dropped(client) == {"unjudged": 1, "success": 1}
    assert not (folder / ".gone.about").exists()


def test_a_budget_that_cannot_work_is_refused(fleet: Fleet):
    with pytest.raises(ConfigError, match="budget_bytes"):
        fleet.client(budget_bytes=0)
    fleet.client().close()  # the refused one did not keep the lock


class Refusing:
    """A store that refuses some episodes, for good or not."""

    def __init__(self, inner: Any, errors: dict[str, Exception]) -> None:
        self.inner, self.errors, self.asked = inner, errors, []

    def put_once(self, key: str, data: bytes) -> bool:
        name = key.split("/")[1].lstrip("0")
        self.asked.append(name)
        if name in self.errors:
            raise self.errors[name]
        return self.inner.put_once(key, data)


def test_what_is_refused_for_good_is_set_aside_and_holds_up_nobody(fleet: Fleet, folder: Path, caplog):
    refused = CallRefusedError("grants: episode a is not robot 'robot-1's", "NotAllowedError")
    store = Refusing(fleet.objects, {name: refused for name in "abcd"})
    with EdgeClient(folder, store, fleet.bus, "robot-1") as client:
        for name in "abcdef":
            client.submit(made("success", name))
        assert client.deliver() == 2
        assert [(item.episode_id, item.reason) for item in client.refused()] == [
            (f"0000000{name}", str(refused)) for name in "abcd"
        ]
        assert client.pending() == (0, 0)
        assert client.status().refused == 4
        assert client.status().used_bytes == sum(item.size for item in client.refused())
        assert caplog.text.count("episode_refused") == 4
    store.errors.clear()
    with EdgeClient(folder, store, fleet.bus, "robot-1") as client:
        assert client.deliver() == 0  # never by itself, not even after a restart
        assert len(client.refused()) == 4
        assert client.retry_refused("0000000b")
        assert not client.retry_refused("../0000000a")
        assert client.deliver() == 1
        assert [item.episode_id for item in client.refused()] == ["0000000a", "0000000c", "0000000d"]
    with EdgeClient(folder, store, fleet.bus, "robot-1", budget_bytes=1) as client:
        assert client.refused() == []  # they count in the budget
        assert dropped(client) == {"success": 3}


@pytest.mark.parametrize(
    "error",
    [
        CallBusyError("too many calls"),
        CallRefusedError("robot 'robot-1' was revoked", "RobotNotActiveError"),
        CallRefusedError("the handler failed", "KeyError"),
        StoreError("unreachable"),
    ],
)
def test_what_may_be_mended_stays_and_comes_after_the_others(fleet: Fleet, folder: Path, error: Exception):
    store = Refusing(fleet.objects, {name: error for name in "abc"})
    with EdgeClient(folder, store, fleet.bus, "robot-1") as client:
        for name in "abcde":
            client.submit(made("success", name))
        assert client.deliver() == 0  # three in a row: it looks like the network
        assert client.deliver() == 2  # those that did not fail come first now
        assert client.refused() == []
        assert kept(client, folder) == ["a", "b", "c"]
        store.errors.clear()
        assert client.deliver() == 3


def test_a_file_that_is_too_large_is_not_even_sent(fleet: Fleet, folder: Path, monkeypatch):
    store = Refusing(fleet.objects, {})
    with EdgeClient(folder, store, fleet.bus, "robot-1") as client:
        client.submit(made("success", "a"))
        monkeypatch.setattr("lwd.log.writer.MAX_EPISODE_BYTES", 100)
        assert client.deliver() == 0
        (item,) = client.refused()
        assert "at most 100 are allowed" in item.reason
        assert store.asked == []


def test_a_file_of_another_robot_is_quarantined(fleet: Fleet):
    episode = make_episode(3, robot="robot-2")
    event = fleet.send(codec.encode(episode), episode.header.episode_id, robot="robot-1")
    fleet.drain()
    (row,) = fleet.catalogue.quarantined()
    assert (row.reason, row.robot, row.key) == ("robot", "robot-1", event.key)
    assert "robot-2" in row.detail
    assert fleet.catalogue.episodes() == []


def test_an_episode_in_delivery_is_not_dropped(fleet: Fleet, folder: Path):
    size = len(codec.encode(made("success", "x")))
    with fleet.client(budget_bytes=size + 50) as client:
        client.submit(made("success", "a"))
        put = fleet.objects.put_once
        seen: list[list[str]] = []

        def slow(key: str, data: bytes) -> bool:
            client.submit(made("failure", "b"))  # the robot goes on meanwhile
            seen.append(kept(client, folder))
            return put(key, data)

        fleet.objects.put_once = slow
        client.deliver()
        fleet.objects.put_once = put
        assert seen[0] == ["a", "b"]  # "a" leaves by itself; the failure does not go in its place
        assert kept(client, folder) == ["b"]
        assert dropped(client) == {}
    fleet.drain()
    assert fleet.catalogue.episode("0000000a") is not None


def test_header_is_of_this_robot(fleet: Fleet):
    with fleet.client() as client, pytest.raises(ConfigError):
        client.begin(make_header(robot="robot-9"))
