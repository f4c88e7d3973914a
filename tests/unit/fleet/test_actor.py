"""The actor: the newest snapshot at every episode's boundary, its number in the episode, and waiting that says what for."""

import json
import threading
import time
from dataclasses import replace
from multiprocessing import Pipe

import pytest
import toy_fleet

from lwd.episode import Source
from lwd.fleet.actor import Actor, run_actor
from lwd.fleet.collect import first_seed
from lwd.fleet.folder import open_services
from lwd.fleet.policies import load_policy, publish
from lwd.fleet.process import ProcessContext
from lwd.fleet.services import make_coordinator
from lwd.log.writer import EdgeClient
from lwd.replay.rate import RateLimit
from lwd.robot.control import Assignment
from lwd.robot.memory import MemoryRecorder
from lwd.robot.sim.fleet import SimFleet
from lwd.robot.sim.fleet_spec import FleetSpec
from lwd.robot.sim.run import run

X = toy_fleet.experiment()


class Watched:
    """A process context whose words the test can read."""

    def __init__(self):
        self.stop = threading.Event()
        self._receive, send = Pipe(duplex=False)
        self.context = ProcessContext("actor", self.stop, send)
        self.said = []

    def hear(self):
        while self._receive.poll():
            self.said.append(self._receive.recv())
        return self.said


@pytest.fixture
def services(trained_copy):
    with open_services(trained_copy) as opened:
        yield opened


@pytest.fixture
def watched():
    return Watched()


def newer(services, learner_step, stage="online"):
    policy, _ = load_policy(X, services, 1)
    return publish(X, services, policy, stage=stage, learner_step=learner_step, manifest=1).number


def with_rate(**rate):
    return replace(X, online=replace(X.online, rate=RateLimit(**rate)))


def test_assignments_take_tasks_in_turn_fresh_seeds_and_the_newest_snapshot(services, watched):
    actor = Actor(watched.context, X, services)
    newest = services.channel.newest()
    given = [actor.assign(robot) for robot in range(4)]
    first = first_seed(X, Source.ONLINE)
    assert [a.seed for a in given] == [first, first + 1, first + 2, first + 3]
    assert sorted(a.task for a in given) == ["far", "far", "near", "near"]
    assert {a.snapshot for a in given} == {newest}
    assert {a.source for a in given} == {Source.ONLINE}
    assert given[0].takeover == X.online.takeover


def test_a_new_snapshot_drives_the_episodes_that_begin_after_it(services, watched):
    """And the number that is written into an episode is that of the snapshot that drove it."""
    actor, recorder, published = Actor(watched.context, X, services), MemoryRecorder(), []
    finished = []

    def on_episode(done):
        actor.finished(done)
        finished.append(done)
        if len(finished) in (3, 8):
            published.append((len(finished), newer(services, 5 * len(finished))))
            time.sleep(0.15)  # the channel may answer from its cache for 0.1 s

    def assign(robot):
        return actor.assign(robot) if len(finished) < 14 else None

    with SimFleet(X.fleet.deployed, robots=1, workers=1) as robots:
        run(robots, assign, actor.driver.act_batch, recorder, on_episode)
    first = services.snapshots.list()[-3].number
    order = [episode.header.snapshot for episode in recorder.episodes]
    assert order == [first] * 3 + [published[0][1]] * 5 + [published[1][1]] * 6
    lines = [json.loads(x) for x in (services.folder.path / "episodes.jsonl").read_text().splitlines()]
    assert [line["snapshot"] for line in lines] == order
    assert [line["episode_id"] for line in lines] == [e.header.episode_id for e in recorder.episodes]
    assert actor.control_steps == sum(e.steps for e in recorder.episodes)
    for line, episode in zip(lines, recorder.episodes, strict=True):
        assert line["intervention_steps"] == episode.interventions.sum()
        assert (line["outcome"], line["steps"]) == (episode.verdict.outcome.value, episode.steps)
        assert line["cycle_time_s"] == pytest.approx(episode.cycle_time_s)
    assert watched.hear()[-1]["last"]["snapshot"] == order[-1]


def test_the_fleet_waits_for_the_learner_and_says_so(services, watched):
    actor = Actor(
        watched.context,
        with_rate(learner_steps_per_control_step=0.05, learner_slack_steps=10, actor_slack_steps=20),
        services,
    )
    actor.control_steps = 500  # 25 learner steps; 20 may be missing
    given = []
    thread = threading.Thread(target=lambda: given.append(actor.assign(0)))
    thread.start()
    deadline = time.monotonic() + 30
    while not any("learner" in (word.get("waits_for") or "") for word in watched.hear()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert given == []
    sentence = next(word["waits_for"] for word in watched.said if word.get("waits_for"))
    assert (
        sentence == "the learner, which is 25 learner steps behind (at 0 for 500 control steps; 20 allowed)"
    )
    number = newer(services, 5)
    thread.join(timeout=30)
    assert given[0].snapshot == number


def test_the_offline_learners_steps_do_not_count_as_online_ones(services, watched):
    """An offline snapshot at learner step 10 is online step 0."""
    actor = Actor(
        watched.context,
        with_rate(learner_steps_per_control_step=0.05, learner_slack_steps=10, actor_slack_steps=20),
        services,
    )
    actor.control_steps = 500
    watched.stop.set()
    assert actor.assign(0) is None
    assert actor._newest_within_rate() == services.channel.newest()  # a stop ends the wait
    assert actor._snapshot_step == {services.channel.newest(): 0}


def test_enough_experience_or_a_stop_ends_the_collection(services, watched):
    actor = Actor(watched.context, X, services)
    actor.control_steps = X.online.control_steps
    assert actor.assign(0) is None
    actor.control_steps = 0
    assert actor.assign(0) is not None
    watched.stop.set()
    assert actor.assign(0) is None


def three_episodes(actor):
    """Made under this actor's policy, in memory."""
    recorder, left = MemoryRecorder(), [3]

    def assign(robot):
        left[0] -= 1
        return actor.assign(robot) if left[0] >= 0 else None

    with SimFleet(X.fleet.deployed, robots=1, workers=1) as robots:
        run(robots, assign, actor.driver.act_batch, recorder, actor.finished)
    return recorder.episodes


def spool(services, episodes, *, deliver):
    robot = episodes[0].header.robot
    with EdgeClient(services.folder.path / "spool" / robot, services.objects, services.bus, robot) as client:
        for episode in episodes:
            client.submit(episode)
        if deliver:
            client.deliver()


def catalogue(services, *experiments):
    coordinator = make_coordinator(experiments, services)
    while coordinator.step().handled:
        pass


def test_a_restarted_actor_goes_on_counting_and_repeats_no_seed(services, watched):
    actor = Actor(watched.context, X, services)
    spool(services, three_episodes(actor), deliver=True)
    catalogue(services, X)
    again = Actor(watched.context, X, services)
    assert again.control_steps == actor.control_steps > 0
    assert again.assign(0).seed == first_seed(X, Source.ONLINE) + 3


def test_what_a_killed_actor_left_in_its_spools_is_counted_before_an_episode_begins(services, watched):
    actor = Actor(watched.context, X, services)
    episodes = three_episodes(actor)
    spool(services, episodes, deliver=False)
    enough = replace(X, online=replace(X.online, control_steps=actor.control_steps))
    stop = threading.Event()
    coordinator = threading.Thread(target=make_coordinator(X, services).run, args=(stop,))
    coordinator.start()
    run_actor(watched.context, enough, services.folder)
    stop.set()
    coordinator.join()
    rows = services.catalogue.episodes(source="online")
    assert {row.episode_id for row in rows} == {episode.header.episode_id for episode in episodes}


def test_another_kind_of_robot_in_the_same_log_changes_nothing(services, watched):
    """Not the count, not the seeds, and its snapshot drives nobody here."""
    other = FleetSpec(tier="toy_fleet:other_line")
    elsewhere = replace(X, fleet=replace(X.fleet, deployed=other, demonstrated=other))
    seed = first_seed(X, Source.ONLINE) + 7
    assignment = Assignment(
        task="near", seed=seed, source=Source.ONLINE, driver="operator", operator="expert"
    )
    with SimFleet(other, robots=1, workers=1) as robots:
        recorder, asked = MemoryRecorder(), iter([assignment])
        run(robots, lambda robot: next(asked, None), lambda batch: None, recorder, lambda report: None)
    spool(services, recorder.episodes, deliver=True)
    catalogue(services, X, elsewhere)
    assert [row.spec for row in services.catalogue.episodes(source="online")] == ["other-line"]
    own = services.snapshots.newest()
    policy, _ = load_policy(X, services, own)
    publish(elsewhere, services, policy, stage="online", learner_step=5, manifest=1)
    actor = Actor(watched.context, X, services)
    assert actor.control_steps == 0
    given = actor.assign(0)
    assert (given.seed, given.snapshot) == (first_seed(X, Source.ONLINE), own)
    number = newer(services, 5)
    assert actor.assign(0).snapshot == number
