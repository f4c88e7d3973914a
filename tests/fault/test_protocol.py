"""The protocol as a state machine: robots, coordinator, store, bus, learner and readers in any order, with any faults.

The real edge client, coordinator, catalogue, embedded bus and snapshot store; the faults are in `protocol_faults`. `make
test` walks a few hundred steps; `pytest tests/fault/test_protocol.py --hypothesis-profile=nightly` walks tens of
thousands.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from log_cases import SPEC, TASK, change, make_episode
from protocol_faults import (
    BUS_FAULTS,
    COORDINATOR_FAULTS,
    STORE_FAULTS,
    DiedError,
    FaultyBus,
    FaultyStore,
    Plan,
)

from lwd.episode import Episode, Outcome, Verdict
from lwd.errors import StoreError
from lwd.log import admission, manifest
from lwd.log.bus import CatalogueBus
from lwd.log.catalogue import Catalogue
from lwd.log.coordinator import Coordinator
from lwd.log.manifest import Manifest
from lwd.log.objects import ObjectStore
from lwd.log.writer import EdgeClient
from lwd.snapshot.follower import SnapshotFollower
from lwd.snapshot.store import SnapshotStore

ROBOTS = {"robot-1": None, "robot-2": None, "robot-3": 9_000}
"""Robots, and the budgets of their spools in bytes; an episode here has 3 to 4 thousand."""
KEY, FOREIGN = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
NIGHTLY = settings.get_current_profile_name() == "nightly"

robots = st.sampled_from(sorted(ROBOTS))
plans = st.builds(
    Plan,
    bus=st.lists(st.sampled_from(BUS_FAULTS), max_size=3),
    store=st.lists(st.sampled_from(STORE_FAULTS), max_size=2),
)
endings = st.sampled_from(["success", "failure", "unjudged", "human"])


@dataclasses.dataclass
class Robot:
    """One robot's process: it has a client until it dies."""

    name: str
    client: EdgeClient
    follower: SnapshotFollower
    loaded: list[int] = dataclasses.field(default_factory=list)


class Protocol(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="lwd-protocol-"))
        self.catalogue = Catalogue(self.folder / "catalogue.db")
        self.store = ObjectStore(self.folder / "objects")
        self.late: list[tuple[Any, ...]] = []
        self.number = 0
        self.finished: dict[str, bytes] = {}
        self.half: set[str] = set()
        self.seen: dict[int, tuple[Manifest, list[str]]] = {}
        self.reader: tuple[int, list[str]] = (0, [])
        self.published: dict[int, int] = {}
        self.robots = {name: self.boot(name, None) for name in ROBOTS}
        self.coordinator, self.coordinator_plan, self.coordinator_objects = self.boot_coordinator()

    # Processes

    def boot(self, name: str, before: Robot | None) -> Robot:
        """Start a robot's process on what its predecessor left on the disk."""
        plan = Plan()
        bus, objects = FaultyBus(CatalogueBus(self.catalogue), plan, self.late), FaultyStore(self.store, plan)
        client = EdgeClient(self.folder / name, objects, bus, name, flush_s=0.1, budget_bytes=ROBOTS[name])
        rows = SnapshotStore(self.store, self.catalogue, KEY.public_key())
        held = before.loaded if before else []
        follower = SnapshotFollower(rows.latest, objects, KEY.public_key(), held[-1] if held else None)
        return Robot(name, client, follower, held)

    def boot_coordinator(self) -> tuple[Coordinator, Plan, FaultyStore]:
        plan = Plan()
        objects = FaultyStore(self.store, Plan())
        bus = FaultyBus(CatalogueBus(self.catalogue), plan, self.late)
        coordinator = Coordinator(self.catalogue, bus, objects, {SPEC.name: SPEC}, {TASK.name: TASK})
        return coordinator, plan, objects

    def kill(self, name: str) -> None:
        """SIGKILL and a restart: no code of the client runs, its memory is gone, the kernel frees its lock."""
        robot = self.robots[name]
        for recording in robot.client._open:
            recording._file.close()  # without a flush
        robot.client._spool.close()
        self.robots[name] = self.boot(name, robot)

    def use(self, robot: Robot, plan: Plan) -> None:
        """From now on these faults happen to this robot."""
        robot.client._bus.plan.bus, robot.client._bus.plan.store = list(plan.bus), list(plan.store)

    # Robots

    @rule(name=robots, ending=endings, steps=st.integers(2, 4))
    def record(self, name: str, ending: str, steps: int) -> None:
        episode = self.episode(name, ending, steps)
        recording = self.robots[name].client.begin(episode.header)
        self.walk(recording, episode)
        recording.finish(episode.proprio[-1], float(episode.times_s[-1]), {}, episode.verdict)
        path = self.folder / name / f"{episode.header.episode_id}.mcap"
        self.finished[episode.header.episode_id] = path.read_bytes() if path.exists() else b""

    @rule(name=robots, ending=endings)
    def die_while_recording(self, name: str, ending: str) -> None:
        episode = self.episode(name, ending, 4)
        recording = self.robots[name].client.begin(episode.header)
        self.walk(recording, episode)
        self.half.add(episode.header.episode_id)
        self.kill(name)

    @rule(name=robots, plan=plans)
    def deliver(self, name: str, plan: Plan) -> None:
        robot = self.robots[name]
        self.use(robot, plan)
        try:
            robot.client.deliver()
        except DiedError:
            self.kill(name)
        self.use(self.robots[name], Plan())

    @rule(name=robots, ending=endings, plan=plans)
    def work(self, name: str, ending: str, plan: Plan) -> None:
        """What a robot does most of the time, as one rule: hypothesis leaves some rules out of each walk."""
        self.record(name, ending, 3)
        self.deliver(name, plan)

    @rule(name=robots, ending=endings, plan=plans)
    def work_and_coordinate(self, name: str, ending: str, plan: Plan) -> None:
        self.record(name, ending, 2)
        self.deliver(name, plan)
        self.coordinate("", False, 2, False)
        self.deliver(name, Plan())

    @rule(name=robots)
    def restart(self, name: str) -> None:
        self.kill(name)

    @rule(name=robots)
    def load_newest(self, name: str) -> None:
        robot = self.robots[name]
        found = robot.follower.poll()
        if found is not None:
            arrays, snapshot = found
            assert snapshot.number > (robot.loaded[-1] if robot.loaded else 0)
            assert self.published[snapshot.number] == int(arrays["a"][0])
            robot.loaded.append(snapshot.number)

    # Network

    @precondition(lambda self: self.late)
    @rule(data=st.data())
    def late_message_arrives(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.late) - 1))
        CatalogueBus(self.catalogue).publish(*self.late.pop(index))

    # Coordinator

    @rule(
        fault=st.sampled_from(COORDINATOR_FAULTS),
        blind=st.booleans(),
        limit=st.integers(1, 4),
        dies=st.booleans(),
    )
    def coordinate(self, fault: str, blind: bool, limit: int, dies: bool) -> None:
        self.coordinator_plan.bus = [fault]
        self.coordinator_objects.blind = blind
        with contextlib.suppress(StoreError, DiedError):
            if dies:  # between the checks and the transaction
                self.coordinator._record = died
            self.coordinator.step(limit)
        self.coordinator_plan.bus, self.coordinator_objects.blind = [], False
        if dies or fault.startswith("dies"):
            self.coordinator, self.coordinator_plan, self.coordinator_objects = self.boot_coordinator()

    @rule(dies=st.booleans())
    def commit(self, dies: bool) -> None:
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(DiedError):
            if dies:
                patch.setattr(manifest, "move_head", died)
            self.coordinator.commit()

    # Learner and readers

    @rule(dies=st.booleans())
    def publish(self, dies: bool) -> None:
        self.number += 1
        store = SnapshotStore(self.store, self.catalogue, KEY)
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(DiedError):
            if dies:
                patch.setattr("lwd.snapshot.store.move_head", died)
            arrays = {"a": np.full(3, self.number, np.float32)}
            snapshot = store.publish(arrays, self.number, manifest=None, meta={})
            self.published[snapshot.number] = self.number
        for name in (*ROBOTS, *ROBOTS):  # the second time there is nothing newer
            self.load_newest(name)

    @rule()
    def forge(self) -> None:
        """Somebody who can write catalogue and store, but has another key."""
        forged = SnapshotStore(self.store, self.catalogue, FOREIGN)
        forged.publish({"a": np.full(3, -1.0, np.float32)}, 0, manifest=None, meta={})

    @rule()
    def follow(self) -> None:
        newest = manifest.latest(self.catalogue)
        if newest is not None:
            at, held = self.reader
            new = manifest.members(self.catalogue, newest, after_seq=at)  # as `replay.reader` does
            self.reader = (new[-1].seq if new else at, held + [row.episode_id for row in new])
            assert len(set(self.reader[1])) == len(self.reader[1]) == newest.episodes

    # What always holds

    @invariant()
    def manifests_only_grow(self) -> None:
        found = manifest.manifests(self.catalogue)
        assert [item.number for item in found] == list(range(1, len(found) + 1))
        for item in found:
            if item.number not in self.seen:
                rows = manifest.members(self.catalogue, item)
                self.seen[item.number] = (item, [row.episode_id for row in rows])
            assert self.seen[item.number][0] == item
        newest = manifest.latest(self.catalogue)
        assert (newest.number if newest else 0) == len(found)

    @invariant()
    def each_episode_at_most_once_with_its_own_bytes(self) -> None:
        rows = self.catalogue.episodes()
        assert len({row.episode_id for row in rows}) == len(rows)
        for row in rows:
            assert row.episode_id in self.finished or row.episode_id in self.half

    @invariant()
    def robots_never_go_back(self) -> None:
        for robot in self.robots.values():
            assert robot.loaded == sorted(set(robot.loaded))
            assert set(robot.loaded) <= set(self.published)

    def teardown(self) -> None:
        """Everything heals and drains."""
        try:
            self.heal()
            self.check_all()
        finally:
            for robot in self.robots.values():
                robot.client.close()
            self.catalogue.close()
            shutil.rmtree(self.folder)

    def heal(self) -> None:
        for late in self.late:
            CatalogueBus(self.catalogue).publish(*late)
        for name in ROBOTS:
            self.kill(name)
            client = self.robots[name].client
            for _ in range(20):
                client.deliver()
            assert client.pending() == (0, 0)
            assert client.status().unreported == 0
            assert client.refused() == []
        for _ in range(200):
            if not self.coordinator.step().handled:
                break
        assert CatalogueBus(self.catalogue).waiting("episodes.*") == 0
        self.coordinator.commit()
        self.follow()

    def check_all(self) -> None:
        rows = {row.episode_id: row for row in self.catalogue.episodes()}
        lost = {row.episode_id for row in self.catalogue.quarantined(reason="dropped")}
        assert lost.isdisjoint(rows)
        assert set(self.finished) == (set(rows) | lost) - self.half
        for name, data in self.finished.items():
            if name in rows and data:
                assert self.store.get(rows[name].key) == data
        assert [row.reason for row in self.catalogue.quarantined() if row.reason != "dropped"] == []
        assert sorted(self.reader[1]) == sorted(rows)
        for item, ids in self.seen.values():
            again = manifest.members(self.catalogue, item)
            assert [row.episode_id for row in again] == ids
        for robot in self.robots.values():
            assert {drop for drop in lost if self.robot_of(drop) == robot.name} == set() or ROBOTS[robot.name]

    def robot_of(self, episode_id: str) -> str:
        return "robot-" + episode_id[-1]

    def episode(self, robot: str, ending: str, steps: int) -> Episode:
        self.number += 1
        outcome = {"success": Outcome.SUCCESS, "failure": Outcome.FAILURE}.get(ending, Outcome.UNJUDGED)
        made = make_episode(steps, seed=self.number, robot=robot, episode_id=f"{self.number:05d}-{robot[-1]}")
        human = np.full(steps, ending == "human")
        return change(made, verdict=Verdict(outcome=outcome, stage_score=0.0), interventions=human)

    def walk(self, recording: Any, episode: Episode) -> None:
        for t in range(episode.steps):
            human, times = bool(episode.interventions[t]), float(episode.times_s[t])
            recording.step(episode.proprio[t], episode.actions[t], human, times, {})


def died(*_: Any, **__: Any) -> Any:
    raise DiedError


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch):
    """Processes die here, machines do not: no need to wait for the disk. Pauses are left out too."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(admission, "_pause_s", lambda message: 0.0)

    def no_sync(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    sa.event.listen(sa.pool.Pool, "connect", no_sync)
    yield
    sa.event.remove(sa.pool.Pool, "connect", no_sync)


@pytest.mark.timeout(6 * 3600 if NIGHTLY else 300)
def test_any_interleaving_counts_each_episode_once(quick_disk):
    limits: dict[str, Any] = (
        {"max_examples": 500, "stateful_step_count": 60}
        if NIGHTLY
        else {"max_examples": 25, "stateful_step_count": 40}
    )
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    run_state_machine_as_test(
        Protocol, settings=settings(deadline=None, suppress_health_check=checks, **limits)
    )
