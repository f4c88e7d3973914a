"""Retention by value within budgets, export that goes on, and the quarantine's verbs."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_cases import SPEC, TASK, Fleet, change, make_episode

from lwd.cli.upkeep import LogDelete
from lwd.episode import Outcome, Source, Verdict
from lwd.errors import ConfigError, StoreError
from lwd.log import codec, deletion, quarantine, retention
from lwd.log.catalogue import EpisodeRow
from lwd.log.deletion import deletions
from lwd.log.export import export
from lwd.log.objects import ObjectStore
from lwd.log.retention import Budget
from lwd.log.worth import Worth

KINDS = ("unjudged", "success", "failure", "human")


def send(fleet: Fleet, kind: str, name: str, **header) -> None:
    outcome = {"success": Outcome.SUCCESS, "failure": Outcome.FAILURE}.get(kind, Outcome.UNJUDGED)
    episode = make_episode(3, episode_id=name, **header)
    human = np.full(3, kind == "human")
    fleet.send_episode(
        change(episode, verdict=Verdict(outcome=outcome, stage_score=0.0), interventions=human)
    )


def commit(fleet: Fleet) -> None:
    fleet.drain()
    fleet.coordinator.commit()


def gone(plans) -> list[str]:
    return [row.episode_id for found in plans for row in found.delete]


def test_the_least_valuable_and_oldest_goes_first_and_the_newest_manifest_stays(fleet: Fleet):
    for number, kind in enumerate((*KINDS, *KINDS)):
        send(fleet, kind, f"{kind}-{number}")
    commit(fleet)
    send(fleet, "unjudged", "new")
    commit(fleet)
    send(fleet, "unjudged", "uncommitted")
    fleet.drain()
    rows = fleet.catalogue.episodes()
    total = sum(row.size for row in rows)
    (found,) = retention.plan(fleet.catalogue, [Budget(size=0)])
    order = [
        "unjudged-0",
        "unjudged-4",
        "success-1",
        "success-5",
        "failure-2",
        "failure-6",
        "human-3",
        "human-7",
    ]
    assert gone([found]) == order
    assert (found.used, found.freed, found.missing) == (
        total,
        total - found.missing,
        sum(r.size for r in rows[-2:]),
    )
    assert gone(retention.plan(fleet.catalogue, [Budget(size=0)], newest_too=True))[:4] == [
        "unjudged-0", "unjudged-4", "new", "uncommitted",
    ]  # fmt: skip
    (little,) = retention.plan(fleet.catalogue, [Budget(size=total - 1)])
    assert gone([little]) == ["unjudged-0"]
    assert len(fleet.catalogue.episodes()) == 10  # a plan deletes nothing
    done = retention.apply(fleet.catalogue, fleet.objects, [little], deleted_by="ann")
    (tomb,) = deletions(fleet.catalogue)
    assert done == [tomb]
    assert (tomb.episode_id, tomb.first_manifest, tomb.deleted_by) == ("unjudged-0", 1, "ann")
    assert tomb.reason == f"retention: at most {total - 1} bytes of all"
    assert not fleet.objects.exists(tomb.key)
    assert retention.plan(fleet.catalogue, [Budget(size=total - 1)])[0].delete == ()


def test_a_failure_stays_while_its_task_has_a_success_that_may_not_go(fleet: Fleet):
    send(fleet, "failure", "old-failure")
    commit(fleet)
    send(fleet, "success", "new-success")
    commit(fleet)
    (found,) = retention.plan(fleet.catalogue, [Budget(size=0)])
    assert found.delete == ()
    assert found.missing == found.used
    (found,) = retention.plan(fleet.catalogue, [Budget(size=0)], newest_too=True)
    assert gone([found]) == ["new-success", "old-failure"]


def test_budgets_are_met_in_turn(fleet: Fleet):
    send(fleet, "success", "a", source=Source.ONLINE)
    send(fleet, "success", "b", source=Source.ROLLOUT)
    send(fleet, "success", "c", source=Source.DEMO)
    commit(fleet)
    plans = retention.plan(
        fleet.catalogue,
        [Budget(size=0, source="online"), Budget(size=0, task=TASK.name), Budget(size=0, task="other")],
        newest_too=True,
    )
    assert [gone([found]) for found in plans] == [["a"], ["b", "c"], []]
    with pytest.raises(ConfigError, match="known: demo"):
        Budget(size=1, source="onlin")
    with pytest.raises(ConfigError, match="0 or more"):
        Budget(size=-1)


rows = st.lists(
    st.tuples(st.sampled_from(KINDS), st.sampled_from(["t1", "t2"]), st.integers(1, 50)), max_size=12
)


@settings(max_examples=100, deadline=None)
@given(
    rows=rows,
    size=st.integers(0, 300),
    limit=st.none() | st.integers(0, 12),
    task=st.sampled_from([None, "t1"]),
)
def test_no_failure_or_intervention_goes_before_a_success_of_its_task(rows, size, limit, task):
    made = {
        str(seq): EpisodeRow(
            seq=seq, episode_id=str(seq), task=name, instruction="", source="online", robot="r", spec="s",
            control_hz=1.0, snapshot=None, software="", seed=None, operator=None, started_at=0.0,
            outcome=kind if kind in ("success", "failure") else "unjudged", stage_score=0.0, steps=1,
            cycle_time_s=1.0, intervention_steps=int(kind == "human"), key="", sha256="", size=length,
            catalogued_at=0.0,
        )
        for seq, (kind, name, length) in enumerate(rows, 1)
    }  # fmt: skip
    found = retention._plan(made, Budget(size=size, task=task), limit)
    kept = [row for row in made.values() if row not in found.delete]
    for row in found.delete:
        assert task in (None, row.task)
        assert limit is None or row.seq <= limit
        if retention.worth(row) > Worth.SUCCESS:
            assert not any(retention.worth(k) == Worth.SUCCESS and k.task == row.task for k in kept)
    assert found.used - found.freed <= size or found.missing == found.used - found.freed - size
    if found.delete:  # nothing went that did not have to
        assert found.used - (found.freed - found.delete[-1].size) > size


def assert_gone_after(fleet: Fleet, way: str, delete: Callable[[str], None]) -> None:
    """What is left of the deleted episode "a" goes by one of the ways in which it may."""
    if way == "retention":
        retention.apply(fleet.catalogue, fleet.objects, [], deleted_by="kim")
    else:
        delete("a" if way == "the command again" else "b")
    assert list(fleet.objects.list("episodes/a")) == []
    assert deletions(fleet.catalogue)[0].object_deleted_at is not None


@pytest.mark.parametrize("way", ["the command again", "another episode's", "retention"])
def test_a_deletion_that_the_store_cut_off_is_finished(fleet: Fleet, monkeypatch, way: str):
    for name in ("a", "b"):
        fleet.send_episode(make_episode(2, episode_id=name))
    fleet.drain()
    where = {"catalogue": str(fleet.folder / "catalogue.db"), "objects": str(fleet.folder / "objects")}

    def delete(name: str) -> None:
        LogDelete(episode_id=name, reason="consent withdrawn", by="kim", yes=True, **where).run()

    def down(*_: object) -> bool:
        raise StoreError("the store is down")

    with monkeypatch.context() as patched:
        patched.setattr(ObjectStore, "delete", down)
        with pytest.raises(StoreError, match="down"):
            delete("a")
    assert len(list(fleet.objects.list("episodes/a"))) == 1
    assert_gone_after(fleet, way, delete)


@pytest.mark.parametrize("when", ["later", "while it is judged", "while its bytes are removed"])
@pytest.mark.parametrize("way", ["the command again", "another episode's", "retention"])
def test_what_a_robot_delivers_of_a_deleted_episode_goes_too(fleet: Fleet, monkeypatch, when: str, way: str):
    episodes = {name: make_episode(2, episode_id=name) for name in ("a", "b")}
    for episode in episodes.values():
        fleet.send_episode(episode)
    fleet.drain()
    where = {"catalogue": str(fleet.folder / "catalogue.db"), "objects": str(fleet.folder / "objects")}

    def delete(name: str) -> None:
        LogDelete(episode_id=name, reason="consent withdrawn", by="kim", yes=True, **where).run()

    def again() -> None:
        fleet.send_episode(episodes["a"])
        assert fleet.coordinator.step().duplicates == 1

    if when == "while its bytes are removed":
        listed = ObjectStore.list

        def late(store: ObjectStore, prefix: str = "") -> list[str]:
            found = list(listed(store, prefix))
            monkeypatch.setattr(ObjectStore, "list", listed)
            again()
            return found

        with monkeypatch.context() as patched:
            patched.setattr(ObjectStore, "list", late)
            delete("a")
        assert list(fleet.objects.list("episodes/a")) == []
        return
    delete("a")
    if when == "while it is judged":
        monkeypatch.setattr(fleet.coordinator, "_known", lambda _messages: set())
    again()
    assert len(list(fleet.objects.list("episodes/a"))) == 1
    assert deletions(fleet.catalogue)[0].object_deleted_at is None
    assert_gone_after(fleet, way, delete)


def test_a_deletion_reads_no_other_tombstone(fleet: Fleet, monkeypatch):
    for name in ("a", "b"):
        fleet.send_episode(make_episode(2, episode_id=name))
    fleet.drain()
    deletion.delete(fleet.catalogue, fleet.objects, "a", reason="", deleted_by="kim")
    read = list[str]()
    made = deletion._deletion
    monkeypatch.setattr(
        deletion, "_deletion", lambda row, used: read.append(row["episode_id"]) or made(row, used)
    )
    deletion.delete(fleet.catalogue, fleet.objects, "b", reason="", deleted_by="kim")
    assert read == ["b"]


def test_an_export_goes_on_where_it_was_cut_off(fleet: Fleet, tmp_path: Path):
    for name in "abc":
        send(fleet, "success", name)
    commit(fleet)
    send(fleet, "success", "d")
    fleet.drain()
    folder = tmp_path / "out"
    first = export(fleet.catalogue, fleet.objects, folder, limit=1)
    assert (first.episodes, first.kept) == (1, 0)
    (folder / "b.mcap").write_bytes(b"torn")
    report = export(fleet.catalogue, fleet.objects, folder, manifest=1)
    assert (report.episodes, report.kept, report.problems) == (3, 1, ())
    listed = json.loads((folder / "export.json").read_text())
    assert [(item["episode_id"], item["file"]) for item in listed["episodes"]] == [
        (n, f"{n}.mcap") for n in "abc"
    ]
    for row in fleet.catalogue.episodes(limit=3):
        assert (folder / f"{row.episode_id}.mcap").read_bytes() == fleet.objects.get(row.key)
    assert sorted(path.name for path in folder.iterdir()) == ["a.mcap", "b.mcap", "c.mcap", "export.json"]
    row = fleet.catalogue.episode("d")
    assert row is not None
    fleet.objects.delete(row.key)
    report = export(fleet.catalogue, fleet.objects, folder)
    assert [(problem.episode_id, problem.reason) for problem in report.problems] == [("d", "missing")]
    assert (report.episodes, report.kept) == (3, 3)


def test_what_was_refused_can_be_shown_released_and_discarded(fleet: Fleet):
    other = dataclasses.replace(SPEC, name="new-arm")
    episode = make_episode(3, spec="new-arm", episode_id="early")
    fleet.send_episode(episode)
    fleet.send(b"rubbish", "junk")
    fleet.bus.publish("episodes.robot-1", {"version": 9})
    fleet.drain()
    early, junk, event = fleet.catalogue.quarantined()
    shown = quarantine.show(fleet.catalogue, fleet.objects, early.id)
    assert (shown.header, shown.size) == (episode.header, len(codec.encode(episode)))
    assert shown.messages["/episode/step"] == 3
    assert quarantine.show(fleet.catalogue, fleet.objects, junk.id).header is None
    assert quarantine.show(fleet.catalogue, fleet.objects, event.id).size is None
    tasks = {TASK.name: TASK}
    still = quarantine.release(fleet.catalogue, fleet.objects, {SPEC.name: SPEC}, tasks, early.id)
    assert still is not None
    assert still.reason == "spec"
    assert quarantine.release(fleet.catalogue, fleet.objects, {other.name: other}, tasks, early.id) is None
    assert fleet.catalogue.episode("early") is not None
    fleet.send_episode(episode)  # a late duplicate changes nothing
    fleet.drain()
    assert [row.id for row in fleet.catalogue.quarantined()] == [junk.id, event.id]
    with pytest.raises(StoreError, match="no bytes"):
        quarantine.release(fleet.catalogue, fleet.objects, {}, tasks, event.id)
    for row in (junk, event):
        quarantine.discard(fleet.catalogue, fleet.objects, row.id)
    assert fleet.catalogue.quarantined() == []
    assert not fleet.objects.exists(junk.key)
    with pytest.raises(StoreError, match="does not exist"):
        quarantine.show(fleet.catalogue, fleet.objects, junk.id)
