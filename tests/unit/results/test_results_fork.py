"""A fork has everything that the first run had, the write-ahead log included, and never writes back."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from log_cases import make_episode, open_fleet

from lwd.errors import ConfigError
from lwd.fleet.folder import RunFolder, open_services
from lwd.results.fork import fork


@pytest.fixture
def parent(tmp_path):
    """A run with an episode, a snapshot and a replay file."""
    folder = tmp_path / "parent"
    with open_fleet(folder) as fleet:
        fleet.send_episode(make_episode(10, episode_id="0199aa00" + "f" * 24))
        fleet.drain()
        fleet.coordinator.commit()
    publish(folder, 50)
    (folder / "replay" / "learner").mkdir(parents=True)
    (folder / "replay" / "learner" / "actions.f32").write_bytes(b"1234")
    (folder / "timing.json").write_text("{}")
    (folder / "episodes.jsonl").write_text("{}\n")
    return folder


def publish(folder, step):
    with open_services(RunFolder(folder)) as services:
        arrays = {"weight": np.full(3, step, np.float32)}
        services.snapshots.publish(arrays, step, 1, {"stage": "sft"})


def steps(folder):
    with open_services(RunFolder(folder)) as services:
        assert services.catalogue.counts()["episodes"] == 1
        return [snapshot.learner_step for snapshot in services.snapshots.list()]


def test_rows_that_are_still_in_the_write_ahead_log_come_along(parent, tmp_path):
    catalogue = parent / "catalogue.db"
    with closing(sqlite3.connect(catalogue)) as reader:
        # An open reader keeps SQLite from moving the log into the file when the writer closes.
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM snapshots").fetchone()
        publish(parent, 100)
        assert (parent / "catalogue.db-wal").stat().st_size > 0
        shutil.copy(catalogue, tmp_path / "copy.db")
        with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
            assert copy.execute("SELECT count(*) FROM snapshots").fetchone() == (1,), "a plain copy loses it"
        fork(parent, tmp_path / "child")
    assert steps(tmp_path / "child") == [50, 100]


def test_a_fork_shares_objects_and_nothing_else(parent, tmp_path):
    child = tmp_path / "deep" / "child"
    fork(parent, child)
    objects = [path for path in (parent / "objects").rglob("*") if path.is_file()]
    assert objects
    for path in objects:
        assert (child / path.relative_to(parent)).samefile(path)
    for name in ("replay/learner/actions.f32", "keys/snapshot.pem", "catalogue.db"):
        assert not (child / name).samefile(parent / name)
    assert (child / "episodes.jsonl").read_text() == "{}\n", (
        "what the data cost is a cost of the second run too"
    )
    assert not (child / "timing.json").exists(), "the phases of the first run are not those of the second"

    publish(child, 100)
    (child / "replay" / "learner" / "actions.f32").write_bytes(b"12345678")
    assert steps(parent) == [50]
    assert steps(child) == [50, 100]
    assert (parent / "replay" / "learner" / "actions.f32").read_bytes() == b"1234"


def test_what_a_fork_that_was_cut_left_is_in_nobodys_way(parent, tmp_path):
    (tmp_path / "child.part" / "objects").mkdir(parents=True)
    fork(parent, tmp_path / "child")
    assert steps(tmp_path / "child") == [50]
    assert not (tmp_path / "child.part").exists()


def test_a_fork_of_nothing_or_onto_something_is_refused(parent, tmp_path):
    with pytest.raises(ConfigError, match=r"is no run folder: it has no catalogue\.db"):
        fork(tmp_path / "nothing", tmp_path / "child")
    with pytest.raises(ConfigError, match="exists already"):
        fork(parent, parent)
    assert not (tmp_path / "child").exists()
