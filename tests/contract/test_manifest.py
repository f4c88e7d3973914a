"""Coordinator and manifests on every engine: each episode once, in an order that only grows."""

import dataclasses
import json
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from log_cases import SPEC, TASK, Fleet, change, forge_parts, make_episode, open_fleet
from servers import PostgresServer

from lwd.errors import StoreError
from lwd.log import codec, layout, manifest, tables
from lwd.log.bus import CatalogueBus
from lwd.log.catalogue import Catalogue
from lwd.log.coordinator import Coordinator, StepReport
from lwd.log.scan import scan

ENGINES = ("sqlite", "postgres")


@pytest.fixture(params=ENGINES)
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    url = None
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = server.create_database(f"manifest_{uuid.uuid4().hex}")
    with open_fleet(tmp_path, url) as opened:
        yield opened


def add(connection: sa.Connection, fleet: Fleet, episode_id: str) -> int:
    """Insert an episode's row; its seq."""
    row: dict[str, Any] = {**vars(make_episode(1).header), "episode_id": episode_id, "source": "online"}
    row |= {"outcome": "success", "stage_score": 1.0, "steps": 1, "cycle_time_s": 0.1, "catalogued_at": 0.0}
    row |= {"intervention_steps": 0, "key": "k", "sha256": "0" * 64, "size": 1}
    result = connection.execute(sa.insert(tables.episodes).values(row))
    return int(result.inserted_primary_key[0])


def test_numbers_parents_and_membership(fleet: Fleet):
    assert manifest.latest(fleet.catalogue) is None
    assert fleet.coordinator.commit() is None
    sent: list[str] = []
    for count in (2, 3):
        for _ in range(count):
            episode = make_episode(3)
            fleet.send_episode(episode)
            sent.append(episode.header.episode_id)
        fleet.drain()
        fleet.coordinator.commit()
    assert fleet.coordinator.commit() is None
    first, second = manifest.manifests(fleet.catalogue)
    assert (first.number, first.parent, first.episodes) == (1, None, 2)
    assert (second.number, second.parent, second.episodes) == (2, 1, 5)
    assert manifest.latest(fleet.catalogue) == second
    rows = manifest.members(fleet.catalogue, second)
    assert sorted(row.episode_id for row in rows) == sorted(sent)
    assert rows[2:] == manifest.members(fleet.catalogue, second, after_seq=first.upto_seq)
    with pytest.raises(StoreError, match="the newest is 2"):
        manifest.read(fleet.catalogue, 4)


def test_duplicates_and_reordering_count_once(fleet: Fleet):
    events = [fleet.send_episode(make_episode(3)) for _ in range(6)]
    for event in [*reversed(events), *events[::2]]:
        fleet.bus.publish(event.subject, event.payload())
    assert fleet.coordinator.step() == StepReport(catalogued=6, duplicates=9)
    for event in events:
        fleet.bus.publish(event.subject, event.payload())
    assert fleet.coordinator.step() == StepReport(duplicates=6)
    assert fleet.catalogue.quarantined() == []


def test_the_same_id_with_other_bytes_is_quarantined(fleet: Fleet):
    first = make_episode(3)
    fleet.send_episode(first)
    fleet.drain()
    late = fleet.send_episode(change(make_episode(3, seed=1), header=first.header))
    fleet.drain()
    (held,) = fleet.catalogue.episodes()
    (row,) = fleet.catalogue.quarantined(reason="duplicate")
    assert (row.sha256, row.key) == (late.sha256, late.key)
    assert held.sha256 != row.sha256


def test_text_that_no_database_stores_poisons_nothing(fleet: Fleet):
    """Lone surrogates and NULs are valid JSON and survive until something stores them."""
    event = {"version": 1, "episode_id": "\ud800", "sha256": "\0", "robot": "\0"}
    fleet.bus.publish("episodes.robot-1", event)
    for number, odd in enumerate(("\ud800\n", "\0", "a\0b")):
        messages = scan(codec.encode(make_episode(3, episode_id=f"hostile-{number}"))).messages
        fields = json.loads(messages[layout.HEADER_TOPIC][0])
        messages[layout.HEADER_TOPIC] = [json.dumps({**fields, odd: odd}).encode()]
        fleet.send(forge_parts(messages), f"hostile-{number}")
    fleet.send_episode(make_episode(3))
    assert fleet.coordinator.step() == StepReport(catalogued=1, quarantined=4)
    assert {row.reason for row in fleet.catalogue.quarantined()} == {"schema"}


def test_a_gap_in_the_sequence_does_no_harm(fleet: Fleet):
    """Postgres hands out a number that a rolled-back transaction never uses."""

    def die() -> None:
        with fleet.catalogue.write() as connection:
            add(connection, fleet, "never")
            raise RuntimeError("died")

    with fleet.catalogue.write() as connection:
        first = add(connection, fleet, "a")
    with pytest.raises(RuntimeError):
        die()
    with fleet.catalogue.write() as connection:
        second = add(connection, fleet, "b")
    assert second > first
    committed = manifest.commit(fleet.catalogue)
    assert committed is not None
    assert (committed.episodes, committed.upto_seq) == (2, second)
    held = manifest.members(fleet.catalogue, committed)
    assert [row.episode_id for row in held] == ["a", "b"]


def test_nothing_appears_below_a_committed_manifest(fleet: Fleet):
    """A slow writer took the smaller seq: neither another writer nor a manifest may overtake it."""
    done: list[str] = []

    def overtake() -> None:
        with Catalogue(fleet.catalogue.url) as other:
            with other.write() as connection:
                add(connection, fleet, "second")
            manifest.commit(other)
        done.append("second")

    thread = threading.Thread(target=overtake)
    with fleet.catalogue.write() as connection:
        add(connection, fleet, "first")
        thread.start()
        time.sleep(0.7)
        assert done == []
    thread.join(30)
    assert done == ["second"]
    committed = manifest.latest(fleet.catalogue)
    assert committed is not None
    assert committed.episodes == 2
    held = manifest.members(fleet.catalogue, committed)
    assert [row.episode_id for row in held] == ["first", "second"]


def test_two_coordinators_by_mistake_still_count_once(fleet: Fleet):
    events = [fleet.send_episode(make_episode(2)) for _ in range(24)]
    for number, event in enumerate(events):  # the bus drops no message of another id
        fleet.bus.publish(event.subject, event.payload(), f"again-{number}")
    stop = threading.Event()
    specs, kinds = {SPEC.name: SPEC}, {TASK.name: TASK}

    def coordinate() -> None:
        with Catalogue(fleet.catalogue.url) as catalogue:
            mine = Coordinator(catalogue, CatalogueBus(catalogue), fleet.objects, specs, kinds)
            mine.run(stop, commit_every_s=0.05)

    threads = [threading.Thread(target=coordinate) for _ in range(3)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        newest = manifest.latest(fleet.catalogue)
        if newest is not None and newest.episodes == 24 and not fleet.bus.waiting("episodes.*"):
            break
        time.sleep(0.05)
    stop.set()
    for thread in threads:
        thread.join(30)
    rows = fleet.catalogue.episodes()
    assert sorted(row.episode_id for row in rows) == sorted(event.episode_id for event in events)
    committed = manifest.manifests(fleet.catalogue)
    assert [entry.number for entry in committed] == list(range(1, len(committed) + 1))
    assert [entry.upto_seq for entry in committed] == sorted({entry.upto_seq for entry in committed})
    assert committed[-1].episodes == 24
    assert fleet.catalogue.quarantined() == []


def test_an_event_may_come_for_an_id_that_another_robot_used(fleet: Fleet):
    event = fleet.send_episode(make_episode(3))
    fleet.drain()
    fleet.bus.publish("episodes.robot-2", dataclasses.replace(event, robot="robot-2").payload())
    assert fleet.coordinator.step() == StepReport(duplicates=1)
    assert [row.robot for row in fleet.catalogue.episodes()] == ["robot-1"]
