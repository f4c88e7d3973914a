from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from lwd.episode import Episode
from lwd.errors import EpisodeError, StoreError
from lwd.log import manifest, tables
from lwd.log.catalogue import Catalogue
from lwd.log.codec import encode
from lwd.log.deletion import delete
from lwd.log.objects import ObjectStore
from lwd.replay import Replay, offline_rl
from lwd.replay.reader import Reader
from tests.unit.replay.replay_cases import make_episode

New = Callable[..., Replay]


class Log:
    """A log without robots and coordinator: episodes are catalogued by hand."""

    def __init__(self, folder: Path) -> None:
        self.catalogue, self.objects = Catalogue(folder / "catalogue.db"), ObjectStore(folder / "objects")
        self.gets = 0

    def get(self, key: str, max_bytes: int | None = None) -> bytes:
        """Slow at random, so that downloads overtake each other."""
        self.gets += 1
        time.sleep(random.random() / 200)
        return self.objects.get(key, max_bytes)

    def add(self, episode: Episode, *, spec: str | None = None) -> None:
        data, header = encode(episode), episode.header
        sha256 = hashlib.sha256(data).hexdigest()
        key = f"episodes/{header.episode_id}/{sha256}"
        self.objects.put_once(key, data)
        names = (
            "episode_id",
            "task",
            "instruction",
            "robot",
            "control_hz",
            "snapshot",
            "software",
            "seed",
            "operator",
        )
        row = {name: getattr(header, name) for name in (*names, "started_at")}
        row |= {
            "source": str(header.source),
            "spec": spec or header.spec,
            "outcome": str(episode.verdict.outcome),
        }
        row |= {
            "stage_score": episode.verdict.stage_score,
            "steps": episode.steps,
            "cycle_time_s": episode.cycle_time_s,
        }
        row |= {
            "intervention_steps": 0,
            "key": key,
            "sha256": sha256,
            "size": len(data),
            "catalogued_at": 0.0,
        }
        with self.catalogue.write() as connection:
            connection.execute(sa.insert(tables.episodes).values(row))

    def commit(self) -> int:
        committed = manifest.commit(self.catalogue)
        assert committed is not None
        return committed.number


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    made = Log(tmp_path / "log")
    yield made
    made.catalogue.close()


def fill(log: Log, sizes: tuple[int, ...] = (3, 1, 40)) -> None:
    count = 0
    for size in sizes:
        for _ in range(size):
            log.add(make_episode(5 + count % 7, mark=count / 100, episode_id=f"e{count:03d}"))
            count += 1
        log.commit()


def ids(replay: Replay) -> list[str]:
    return [name.decode() for name in replay.view().episodes["episode_id"]]


def test_an_empty_log(log: Log, new_replay: New) -> None:
    assert Reader(log.catalogue, log, new_replay()).refresh() == 0


def test_the_order_is_the_logs_however_one_gets_there(log: Log, new_replay: New) -> None:
    fill(log)
    at_once, by_and_by = new_replay("a"), new_replay("b")
    assert Reader(log.catalogue, log, at_once, workers=8).refresh() == 3
    reader = Reader(log.catalogue, log, by_and_by, workers=1)
    for number, episodes in ((1, 3), (2, 4), (3, 44)):
        assert reader.refresh(upto=number) == number
        assert len(by_and_by.view().episodes) == len(at_once.view(number).episodes) == episodes
        np.testing.assert_array_equal(by_and_by.view().episodes, at_once.view(number).episodes)
    assert ids(at_once) == [f"e{i:03d}" for i in range(44)]
    one = at_once.sampler(at_once.view(2), offline_rl(), 4).draw(7, 2, 16)
    two = by_and_by.sampler(by_and_by.view(2), offline_rl(), 4).draw(7, 2, 16)
    np.testing.assert_array_equal(one.chunk, two.chunk)
    np.testing.assert_array_equal(one.next_observation.proprio, two.next_observation.proprio)


def test_only_what_is_new_is_downloaded_and_nothing_uncommitted(log: Log, new_replay: New) -> None:
    fill(log)
    replay = new_replay()
    reader = Reader(log.catalogue, log, replay)
    reader.refresh()
    assert log.gets == 44
    log.add(make_episode(9, episode_id="late"))
    assert reader.refresh() == 3
    assert len(replay.view().episodes) == 44
    assert log.commit() == 4
    assert reader.refresh() == reader.refresh() == 4
    assert (log.gets, ids(replay)[-1]) == (45, "late")
    assert len(replay.view(3).episodes) == 44
    replay.close()
    again = new_replay()
    assert again.manifest == 4
    assert Reader(log.catalogue, log, again).refresh() == 4
    assert log.gets == 45


def test_an_interrupted_refresh_shows_no_part_of_a_manifest_and_goes_on(log: Log, new_replay: New) -> None:
    fill(log)
    replay = new_replay()
    reader = Reader(log.catalogue, log, replay)
    row = log.catalogue.episode("e020")
    assert row is not None
    path = Path(log.objects.url) / row.key
    good = path.read_bytes()
    path.write_bytes(good[:-9] + b"bad bytes")
    with pytest.raises(StoreError, match="has the hash"):
        reader.refresh()
    assert 4 <= replay.store.count <= 20
    assert replay.manifest == 0  # nothing is told complete before the whole refresh is
    replay.close()
    again = new_replay()
    assert again.store.count >= 4
    assert (again.manifest, ids(again)) == (2, [f"e{i:03d}" for i in range(4)])
    path.write_bytes(good)
    assert Reader(log.catalogue, log, again).refresh() == 3
    assert ids(again) == [f"e{i:03d}" for i in range(44)]


def test_a_missing_object_and_a_missing_manifest(log: Log, new_replay: New) -> None:
    fill(log, (2,))
    row = log.catalogue.episode("e001")
    assert row is not None
    replay = new_replay()
    reader = Reader(log.catalogue, log, replay)
    with pytest.raises(StoreError, match="Manifest 9 does not exist in the log; the newest is 1"):
        reader.refresh(upto=9)
    (Path(log.objects.url) / row.key).unlink()
    with pytest.raises(StoreError, match="does not exist"):
        reader.refresh()


def test_other_robot_kinds_are_left_out_and_unknown_tasks_are_an_error(log: Log, new_replay: New) -> None:
    log.add(make_episode(5, episode_id="mine"))
    log.add(make_episode(5, episode_id="other"), spec="humanoid")
    log.commit()
    log.add(make_episode(5, episode_id="other2"), spec="humanoid")
    log.commit()
    replay = new_replay()
    assert Reader(log.catalogue, log, replay).refresh() == 2
    assert (ids(replay), replay.manifest) == (["mine"], 2)
    log.add(make_episode(5, task="tea", episode_id="unknown"))
    log.commit()
    with pytest.raises(EpisodeError, match="unknown task 'tea'"):
        Reader(log.catalogue, log, new_replay("small", tasks=replay.store.tasks[:1])).refresh()


def test_a_folder_of_another_log_is_refused(log: Log, new_replay: New) -> None:
    fill(log, (2,))
    replay = new_replay()
    replay.add(make_episode(5))
    with pytest.raises(StoreError, match=r"filled from another log.*sqlite:///.*--catalogue"):
        Reader(log.catalogue, log, replay)


def test_a_replay_whose_newest_episode_was_deleted_goes_on(log: Log, new_replay: New) -> None:
    fill(log, (2,))
    replay = new_replay()
    Reader(log.catalogue, log, replay).refresh()
    delete(log.catalogue, log.objects, "e001", reason="asked for", deleted_by="test")
    replay.close()
    log.add(make_episode(5, episode_id="next"))
    log.commit()
    again = new_replay()
    assert Reader(log.catalogue, log, again).refresh() == 2
    assert ids(again) == ["e000", "e001", "next"]
    other = new_replay("other")
    other.add(make_episode(5, episode_id="e001"))  # number 1 there, 2 in the log
    with pytest.raises(StoreError, match="filled from another log"):
        Reader(log.catalogue, log, other)
