import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
from sim_runs import run_episodes

from lwd.episode import Episode, Source
from lwd.errors import ConfigError, RobotError, UnknownNameError
from lwd.robot.control import Assignment
from lwd.robot.memory import MemoryRecorder
from lwd.robot.operator import TakeoverRule
from lwd.robot.sim import worker
from lwd.robot.sim.fleet import SimFleet
from lwd.robot.sim.fleet_spec import FleetSpec
from lwd.robot.sim.run import ActBatch, EpisodeReport, run

LINE = FleetSpec(tier="robots_for_tests:line")


def scripted(batch: ActBatch) -> np.ndarray:
    """Chunks that follow from seed and chunk index alone, so that batching cannot matter."""
    rows = [
        np.random.default_rng([s, c]).uniform(0, 1, (4, 2))
        for s, c in zip(batch.seeds, batch.chunk_index, strict=True)
    ]
    return np.array(rows, np.float32)


def assignments(n: int) -> list[Assignment]:
    rule = TakeoverRule(stall_steps=15, max_steps=6)
    return [
        Assignment(task="walk", seed=i, snapshot=i % 3, action_noise=0.2, takeover=rule) for i in range(n)
    ]


def same(a: Episode, b: Episode) -> bool:
    fields = ("proprio", "actions", "interventions", "times_s")
    return all(np.array_equal(getattr(a, f), getattr(b, f)) for f in fields) and a.verdict == b.verdict


def test_an_episode_does_not_depend_on_how_many_robots_and_workers_there_are():
    with SimFleet(LINE, robots=5, workers=2) as fleet:
        many = run_episodes(fleet, assignments(12), scripted)
        again = run_episodes(fleet, assignments(12)[::-1], scripted)[::-1]
    with SimFleet(LINE, robots=1, workers=1) as fleet:
        one = run_episodes(fleet, assignments(12), scripted)
    assert [e.header.seed for e in many] == list(range(12))
    assert all(same(a, b) and same(a, c) for a, b, c in zip(many, again, one, strict=True))
    assert many[4].header.snapshot == 1
    assert many[4].header.operator == "expert"
    assert many[4].steps == len(many[4].proprio) - 1
    np.testing.assert_allclose(np.diff(many[4].times_s), 0.1)


def test_an_operator_who_decides_does_so_in_worker_processes_too():
    with SimFleet(FleetSpec(tier="robots_for_tests:decided"), robots=3, workers=2) as fleet:
        episodes = run_episodes(fleet, assignments(4), scripted)
    # takes over at steps 2 and 9, each time to the end of the round
    wanted = [s in (2, 3, 9, 10, 11) for s in range(60)]
    assert all(e.interventions.tolist() == wanted[: e.steps] for e in episodes)
    assert min(e.steps for e in episodes) > 12


def test_a_button_of_a_terminal_is_refused_in_worker_processes_which_have_none():
    spec = FleetSpec(tier="robots_for_tests:with_enter")
    with (
        SimFleet(spec, robots=2, workers=2) as fleet,
        pytest.raises(RobotError, match=r"button cannot be read \(standard input: it has ended\)"),
    ):
        run_episodes(fleet, assignments(2), scripted)


def test_one_call_of_the_policy_per_round_and_worker_and_only_for_robots_that_it_drives():
    calls: list[ActBatch] = []

    def act(batch: ActBatch) -> np.ndarray:
        calls.append(batch)
        return scripted(batch)

    driven = [Assignment(task="walk", seed=i) for i in (0, 1)]
    demos = [Assignment(task="walk", seed=i, source=Source.DEMO, driver="operator") for i in (2, 3)]
    with SimFleet(LINE, robots=4, workers=1) as fleet:
        episodes = run_episodes(fleet, [*driven, *demos], act)
    assert {seed for call in calls for seed in call.seeds.tolist()} == {0, 1}
    assert len(calls) == max(-(-e.steps // 4) for e in episodes[:2])
    assert calls[0].chunk_index.tolist() == [0, 0]
    assert calls[1].chunk_index.tolist() == [1, 1]
    assert calls[0].instructions == ("Walk.", "Walk.")
    assert calls[0].proprio.shape == (2, 2)
    assert episodes[2].interventions.all()


def test_reports_and_recordings_agree():
    reports: list[EpisodeReport] = []
    recorder = MemoryRecorder()
    left = assignments(6)
    with SimFleet(LINE, robots=3, workers=2) as fleet:
        run(fleet, lambda _: left.pop() if left else None, scripted, recorder, reports.append)
    assert [r.header.episode_id for r in reports] == [e.header.episode_id for e in recorder.episodes]
    assert [r.steps for r in reports] == [e.steps for e in recorder.episodes]
    assert [r.intervention_steps for r in reports] == [int(e.interventions.sum()) for e in recorder.episodes]
    assert all((r.takeovers > 0) == (r.intervention_steps > 0) for r in reports)


@pytest.mark.parametrize(
    ("tier", "said"),
    [
        ("nocolon", "package.module:function"),
        (".a:b", "package.module:function"),
        (":make", "package.module:function"),
        ("no_such_module:make", "cannot be imported"),
        ("robots_for_tests:nothing", "cannot be imported"),
        ("robots_for_tests:TASKS", "expected a function"),
        ("robots_for_tests:without_argument", "one argument, the FleetSpec"),
        ("robots_for_tests:without_operators", "expected an Environment and a mapping"),
    ],
)
def test_a_robot_of_ones_own_that_cannot_be_made_says_what_is_expected(tier, said):
    with pytest.raises(ConfigError, match=said):
        FleetSpec(tier=tier).build()


def test_a_workers_exception_arrives_with_its_traceback():
    spec = FleetSpec(tier="robots_for_tests:raising")
    with (
        SimFleet(spec, robots=2, workers=2) as fleet,
        pytest.raises(RobotError, match="the gripper fell off"),
    ):
        run_episodes(fleet, assignments(2), scripted)


def test_a_dead_worker_is_an_error_and_not_a_hang():
    spec = FleetSpec(tier="robots_for_tests:dying")
    with (
        SimFleet(spec, robots=2, workers=2) as fleet,
        pytest.raises(RobotError, match="died with exit code 7"),
    ):
        run_episodes(fleet, assignments(2), scripted)


def test_a_worker_killed_between_rounds_is_an_error():
    with SimFleet(LINE, robots=1, workers=1) as fleet:

        def act(batch: ActBatch) -> np.ndarray:
            os.kill(fleet.pids[0], signal.SIGKILL)
            return scripted(batch)

        with pytest.raises(RobotError, match="died with exit code -9"):
            run_episodes(fleet, assignments(1), act)


def test_a_hanging_worker_is_an_error_and_is_ended():
    spec = FleetSpec(tier="robots_for_tests:hanging")
    start = time.monotonic()
    with SimFleet(spec, robots=1, workers=1, answer_timeout_s=0.5) as fleet:
        pid = fleet.pids[0]
        with pytest.raises(RobotError, match="did not answer in time"):
            run_episodes(fleet, assignments(1), scripted)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert time.monotonic() - start < 15


def test_an_answer_that_comes_after_its_time_is_not_taken_for_the_next_runs():
    spec = FleetSpec(tier="robots_for_tests:hanging")
    with SimFleet(spec, robots=1, workers=1, answer_timeout_s=0.5) as fleet:
        with pytest.raises(RobotError, match="did not answer in time and was ended"):
            run_episodes(fleet, assignments(1), scripted)
        with pytest.raises(RobotError, match="died with exit code"):
            run_episodes(fleet, assignments(1), scripted)


def test_the_fleet_survives_an_error_of_the_caller():
    def broken(batch: ActBatch) -> np.ndarray:
        raise KeyError("no such policy")

    with SimFleet(LINE, robots=4, workers=2) as fleet:
        with pytest.raises(KeyError):
            run_episodes(fleet, assignments(4), broken)
        with pytest.raises(RobotError, match="expected finite chunks of shape"):
            run_episodes(fleet, assignments(4), lambda b: np.zeros((len(b.robots), 4, 3), np.float32))
        with pytest.raises(UnknownNameError, match="wlak"):
            run_episodes(fleet, [Assignment(task="wlak", seed=0)], scripted)
        assert len(run_episodes(fleet, assignments(4), scripted)) == 4


def test_what_was_under_way_when_a_policy_failed_is_not_taken_for_the_next_runs():
    calls = 0

    def fails_in_the_third_round(batch: ActBatch) -> np.ndarray:
        nonlocal calls
        calls += 1
        return scripted(batch) * (np.nan if calls == 3 else 1)

    with SimFleet(LINE, robots=4, workers=2) as fleet:
        clean = run_episodes(fleet, assignments(4), scripted)
        with pytest.raises(RobotError, match="finite: False"):
            run_episodes(fleet, assignments(4), fails_in_the_third_round)
        again = run_episodes(fleet, assignments(4), scripted)
    assert all(same(a, b) for a, b in zip(clean, again, strict=True))


def test_draining_forgets_the_errors_of_workers_too():
    with SimFleet(FleetSpec(tier="robots_for_tests:raising"), robots=2, workers=2) as fleet:
        demo = Assignment(task="walk", seed=0, source=Source.DEMO, driver="operator")
        for command in (demo, None):  # begin, which raises nothing, and a round of the operator
            for group in (0, 1):
                fleet.send(group, {group: command})
            fleet.drain()
        with pytest.raises(RobotError, match="no round is under way"):
            fleet.receive()


def test_a_worker_whose_fleet_is_closed_in_a_round_ends_without_a_traceback():
    ours, theirs = multiprocessing.Pipe()
    ours.send((LINE, [0]))
    ours.close()
    worker.serve(theirs)


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="one robot per worker"):
        SimFleet(LINE, robots=1, workers=2)
    with pytest.raises(RobotError, match="cannot be imported"):
        SimFleet(FleetSpec(tier="no_such_module:robot"), robots=1, workers=1)


def test_scene_fleets_of_different_sizes_run_identical_episodes():
    spec = FleetSpec(time_limits={"restock": 40, "rearrange": 40})
    rule = TakeoverRule(stall_steps=12, max_steps=10)
    wanted = [Assignment(task=t, seed=s, takeover=rule) for s in (1, 2) for t in ("restock", "rearrange")]
    wanted += [
        Assignment(task="restock", seed=5, driver="operator", operator=o) for o in ("demonstrator", "play")
    ]

    def act(batch: ActBatch) -> np.ndarray:
        chunks = [
            np.random.default_rng([s, c]).uniform(-1, 1, (5, 5))
            for s, c in zip(batch.seeds, batch.chunk_index, strict=True)
        ]
        return np.array(chunks, np.float32)

    with SimFleet(spec, robots=4, workers=2) as fleet:
        many = run_episodes(fleet, wanted, act)
    with SimFleet(spec, robots=1, workers=1) as fleet:
        one = run_episodes(fleet, wanted, act)
    assert all(same(a, b) for a, b in zip(many, one, strict=True))
    assert many[0].interventions[12:].any()
    assert not many[0].interventions[:12].any()
    assert many[0].proprio.shape == (many[0].steps + 1, 40)
