"""Real processes, really killed: every episode that a robot finished is catalogued once, with identical bytes."""

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from log_cases import Fleet, assert_equal, change, make_episode, open_fleet

from lwd.log import codec, manifest
from lwd.log.verify import verify

HERE = Path(__file__).parent


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with open_fleet(tmp_path) as opened:
        yield opened


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> list[str]:
    """Kill if need be, and return what was printed in whole lines."""
    process.kill()
    assert process.stdout is not None
    # Not `communicate`: with a time-out it forgets the lines that came with one that was read before.
    with process.stdout as lines:
        output = lines.read()
    process.wait(60)
    return [line for line in output.split("\n")[:-1] if line]


def run_to_end(process: subprocess.Popen[str]) -> list[str]:
    output, _ = process.communicate(timeout=60)
    return output.splitlines()


def assert_counted(fleet: Fleet, finished: dict[str, int], began: set[str]) -> None:
    """All finished episodes are catalogued once and unchanged; nothing else but beginnings of begun ones."""
    rows = fleet.catalogue.episodes()
    by_id = {row.episode_id: row for row in rows}
    assert len(by_id) == len(rows)
    assert set(finished) <= set(by_id) <= began
    for episode_id, row in by_id.items():
        episode = codec.decode(fleet.objects.get(row.key))
        if episode_id in finished:
            expected = change(make_episode(30, seed=finished[episode_id]), header=episode.header)
            assert_equal(episode, expected)
        else:
            assert 1 <= row.steps <= 30
    assert fleet.catalogue.quarantined() == []
    assert verify(fleet.catalogue, fleet.objects).problems == ()


def test_killed_in_mid_episode_the_steps_on_disk_are_kept(fleet: Fleet):
    robot = start("robot_process.py", fleet.folder, 1, 0, "mid-episode")
    assert robot.stdout is not None
    while robot.stdout.readline().split()[-1:] != ["12"]:
        pass
    finish(robot)
    with fleet.client() as client:
        client.deliver()
    fleet.drain()
    (row,) = fleet.catalogue.episodes()
    # It writes through at each step here; of the last one the result is not known.
    assert (row.outcome, row.stage_score, row.steps) == ("unjudged", 0.0, 11)
    episode = codec.decode(fleet.objects.get(row.key))
    expected = make_episode(30, seed=0)
    assert (episode.proprio == expected.proprio[: row.steps + 1]).all()
    assert (episode.actions == expected.actions[: row.steps]).all()


@pytest.mark.parametrize("point", ["before-rename", "after-sync", "before-put", "after-put", "after-publish"])
def test_killed_at_each_point_of_finishing_and_delivering(fleet: Fleet, point: str):
    process = start("robot_process.py", fleet.folder, 1, 5, point)
    lines = run_to_end(process)
    assert process.returncode == -9
    began = {line.split()[1] for line in lines if line.startswith("began")}
    assert len(began) == 1
    with fleet.client() as client:
        client.deliver()
        assert client.pending() == (0, 0)
    fleet.drain()
    # Even where `finish` did not return, all bytes were on disk: nothing of the episode is lost.
    assert_counted(fleet, dict.fromkeys(began, 5), began)


@pytest.mark.parametrize("point", ["before-record", "before-ack", "in-commit"])
def test_a_coordinator_killed_at_each_point(fleet: Fleet, point: str):
    episodes = [make_episode(30, seed=i) for i in range(5)]
    for episode in episodes:
        fleet.send_episode(episode)
    process = start("coordinator_process.py", fleet.folder, point)
    process.communicate(timeout=60)
    assert process.returncode == -9
    assert manifest.latest(fleet.catalogue) is None
    # What it had claimed comes again once its visibility is over; its clock is not waited for here.
    waiting = fleet.bus.consume("episodes.*", visibility_s=0.0)
    for event in [fleet.send_episode(episode) for episode in episodes]:
        assert event.sha256
    fleet.bus.nack(waiting)
    fleet.drain()
    committed = fleet.coordinator.commit()
    assert committed is not None
    assert (committed.number, committed.episodes) == (1, 5)
    ids = {episode.header.episode_id: i for i, episode in enumerate(episodes)}
    assert_counted(fleet, ids, set(ids))


def test_robot_and_coordinator_killed_at_random_again_and_again(fleet: Fleet):
    """One robot and one coordinator, both killed at random moments and started again; then all is counted."""
    rng = random.Random(20261121)
    finished: dict[str, int] = {}
    began: set[str] = set()
    numbers = [0]

    def account(lines: list[str]) -> None:
        for words in (line.split() for line in lines):
            if words[0] == "began":
                began.add(words[1])
            elif words[0] == "finished":
                finished[words[1]] = int(words[2])

    coordinator = start("coordinator_process.py", fleet.folder)
    try:
        for round_ in range(5):
            robot = start("robot_process.py", fleet.folder, 1000, 1000 * round_)
            assert robot.stdout is not None
            account([robot.stdout.readline().strip()])  # it is up
            time.sleep(rng.uniform(0.1, 0.6))
            if round_ % 2:
                finish(coordinator)
                coordinator = start("coordinator_process.py", fleet.folder)
            account(finish(robot))
            newest = manifest.latest(fleet.catalogue)
            numbers.append(0 if newest is None else newest.number)
    finally:
        finish(coordinator)
    with fleet.client() as client:
        client.deliver()
        assert client.pending() == (0, 0)
    fleet.bus.nack(fleet.bus.consume("episodes.*", limit=10_000, visibility_s=0.0))
    with fleet.catalogue.write() as connection:
        connection.exec_driver_sql(
            "UPDATE events SET visible_at = 0"
        )  # no need to wait for the dead ones' claims
    fleet.drain()
    fleet.coordinator.commit()
    assert len(finished) > 10
    assert_counted(fleet, finished, began)
    assert numbers == sorted(numbers)
    committed = manifest.manifests(fleet.catalogue)
    assert [entry.number for entry in committed] == list(range(1, len(committed) + 1))
    sizes = [entry.episodes for entry in committed]
    assert sizes == sorted(sizes)
    newest = committed[-1]
    assert len(manifest.members(fleet.catalogue, newest)) == newest.episodes
    assert newest.episodes == len(fleet.catalogue.episodes())


def test_two_coordinators_by_mistake_still_count_once(fleet: Fleet):
    """It is to be one; a second one started by mistake must do no harm."""
    processes = [start("coordinator_process.py", fleet.folder) for _ in range(2)]
    try:
        episodes = [make_episode(30, seed=i) for i in range(30)]
        for episode in episodes:
            for _ in range(2):
                fleet.send_episode(episode)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            newest = manifest.latest(fleet.catalogue)
            if newest is not None and newest.episodes == 30 and not fleet.bus.waiting("episodes.*"):
                break
            time.sleep(0.02)
    finally:
        for process in processes:
            finish(process)
    ids = {episode.header.episode_id: i for i, episode in enumerate(episodes)}
    assert_counted(fleet, ids, set(ids))
    newest = manifest.latest(fleet.catalogue)
    assert newest is not None
    assert newest.episodes == 30
