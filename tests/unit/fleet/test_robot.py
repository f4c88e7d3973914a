"""A robot process bears what its coordinator and its driver do to it."""

import errno
import json
import logging
import os
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import toy_fleet
from log_cases import open_fleet

from lwd.episode import Outcome
from lwd.errors import ConfigError, RobotError, StoreError
from lwd.fleet.registry import robot_config
from lwd.fleet.robot import Robot, RobotOptions, _build, configuration
from lwd.fleet.robot_config import RobotConfig
from lwd.fleet.service import ServiceContext
from lwd.log import codec
from lwd.log.calls import LocalCalls
from lwd.log.robots import RobotNotActiveError
from lwd.log.writer import EdgeClient
from lwd.robot.guard_limits import GuardLimits
from lwd.robot.memory import MemoryRecorder
from lwd.robot.operator import TakeoverRule
from lwd.spec import CameraSpec

CONFIG = robot_config(toy_fleet.experiment())


@pytest.fixture
def asked(tmp_path):
    """Asks for the configuration where the coordinator's handler raises this error; gives up after the first time."""

    class Impatient(ServiceContext):
        def say(self, **status):
            self.stopping.set()

    def ask(error, kept=None):
        path = tmp_path / "config.json"
        if kept is not None:
            path.write_text(json.dumps(kept))

        def handler(subject, payload):
            raise error

        calls = LocalCalls()
        served = calls.serve("calls.*.config", handler)
        try:
            return configuration(Impatient("line-00", "robot"), calls, "line-00", path)
        finally:
            served.close()

    return ask


def test_a_coordinator_without_its_database_does_not_refuse_anybody(asked):
    found = asked(StoreError("connection refused"), CONFIG.to_json())
    assert found.spec == CONFIG.spec


def test_a_robot_that_was_revoked_is_refused_whatever_it_keeps(asked):
    with pytest.raises(ConfigError, match="may not take part"):
        asked(RobotNotActiveError("revoked"), CONFIG.to_json())


@pytest.mark.parametrize("kept", [[1], {"version": 0}, None])
def test_a_robot_without_a_configuration_that_can_be_read_waits(asked, kept):
    assert asked(StoreError("connection refused"), kept) is None


def test_a_full_disk_does_not_cost_the_configuration_that_is_kept(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    path, calls = tmp_path / "config.json", LocalCalls()
    answers = [CONFIG.to_json(), {**CONFIG.to_json(), "last_seed": CONFIG.last_seed + 1}]
    calls.serve("calls.*.config", lambda subject, payload: answers[0])
    context = ServiceContext("line-00", "robot")
    configuration(context, calls, "line-00", path)
    kept = path.read_bytes()
    assert RobotConfig.from_json(json.loads(kept)).spec == CONFIG.spec
    monkeypatch.setattr(os, "fsync", full)
    del answers[0]
    assert configuration(context, calls, "line-00", path).last_seed == CONFIG.last_seed + 1
    assert path.read_bytes() == kept
    assert list(tmp_path.iterdir()) == [path]


class Loose(toy_fleet.Line):
    """Its cable falls out once."""

    fails = True

    def apply(self, action):
        if self.fails and self.k == 2:
            self.fails = False
            raise OSError(5, "Input/output error: '/dev/ttyUSB0'")
        return super().apply(action)


class Still:
    """A policy that is always there."""

    number, waits_for = 1, "nothing"

    def newest(self):
        return self

    def behind(self):
        return 0

    def chunk(self, view, seed, index):
        return np.zeros((toy_fleet.SPEC.chunk_steps, toy_fleet.SPEC.action_dim), np.float32)

    def close(self):
        pass


class Recorder(EdgeClient):
    """In place of the delivery: keeps episodes in memory."""

    def __init__(self):
        self._memory = MemoryRecorder()
        self.episodes = self._memory.episodes

    def begin(self, header):
        recording = self._memory.begin(header)
        recording.abort = lambda: None
        return recording


class Thinks(Still):
    """A policy whose chunk takes longer than its steps."""

    def chunk(self, view, seed, index):
        time.sleep(0.5)
        return super().chunk(view, seed, index)


@pytest.mark.parametrize("pace", [0.0, 1.0])
def test_a_robot_in_real_time_records_the_time_that_it_took(tmp_path, pace):
    context, recorder = ServiceContext("line-00", "robot"), Recorder()
    options = RobotOptions(folder=tmp_path, pace=pace)
    robot = Robot(context, "line-00", CONFIG, recorder, Thinks(), toy_fleet.Line(), {}, options)
    thread = threading.Thread(target=robot.run)
    began = time.monotonic()
    thread.start()
    while thread.is_alive() and not recorder.episodes:
        thread.join(0.05)
    took = time.monotonic() - began
    context.stopping.set()
    thread.join(20)
    episode = recorder.episodes[0]
    nominal = np.arange(episode.steps + 1) / toy_fleet.SPEC.control_hz
    if pace == 0:
        np.testing.assert_array_equal(episode.times_s, nominal)
    else:
        assert nominal[-1] * 1.2 < episode.cycle_time_s < took
        assert np.all(np.diff(episode.times_s) > 0)


def run_until_an_episode(robot, context, recorder):
    """Let a robot work until one of its episodes was recorded, then stop it."""
    thread = threading.Thread(target=robot.run)
    thread.start()
    while thread.is_alive() and not recorder.episodes:
        thread.join(0.05)
    context.stopping.set()
    thread.join(20)


def test_a_drivers_exception_ends_the_episode_and_not_the_robot(caplog, tmp_path):
    context, recorder = ServiceContext("line-00", "robot"), Recorder()
    robot = Robot(context, "line-00", CONFIG, recorder, Still(), Loose(), {}, RobotOptions(folder=tmp_path))
    with caplog.at_level(logging.ERROR):
        run_until_an_episode(robot, context, recorder)
    assert recorder.episodes
    assert context.telemetry.summary()["episodes_failed_total"] == 1
    assert "/dev/ttyUSB0" in caplog.text
    assert "in apply" in caplog.text, "the driver's author needs the traceback"


class Decides(toy_fleet.Walker):
    """Takes over at step 6; at first their pedal is loose."""

    def __init__(self, robot):
        super().__init__(1.0)
        self._robot, self._loose = robot, True

    def wants_control(self):
        if self._loose and self._robot.k == 5:
            self._loose = False
            raise RobotError("the operator's button cannot be read")
        return self._robot.k >= 6


def test_an_operator_decides_when_to_take_over(caplog, tmp_path):
    context, recorder, line = ServiceContext("line-00", "robot"), Recorder(), toy_fleet.Line()
    config, options = replace(CONFIG, takeover=TakeoverRule(max_takeovers=0)), RobotOptions(folder=tmp_path)
    robot = Robot(context, "line-00", config, recorder, Still(), line, {"expert": Decides(line)}, options)
    with caplog.at_level(logging.ERROR):
        run_until_an_episode(robot, context, recorder)
    episode = recorder.episodes[0]
    assert episode.header.operator == "expert"
    # the policy stands still, the operator walks 0.1 per step
    needed = {"near": 10, "far": 20}[episode.header.task]
    assert episode.interventions.tolist() == [False] * 6 + [True] * needed
    assert "button cannot be read" in caplog.text
    assert context.telemetry.summary()["episodes_failed_total"] == 1


@pytest.mark.parametrize(
    ("keys", "said"),
    [(["anna"], "nobody_takes_over operators=anna expected=expert"), (["expert"], ""), ([], "")],
)
def test_an_operator_who_never_takes_over_is_told_so(caplog, tmp_path, keys, said):
    config = replace(CONFIG, takeover=TakeoverRule())
    context, operators = ServiceContext("line-00", "robot"), {key: toy_fleet.Walker(1.0) for key in keys}
    robot = toy_fleet.Line()
    with caplog.at_level(logging.WARNING):
        Robot(
            context, "line-00", config, Recorder(), Still(), robot, operators, RobotOptions(folder=tmp_path)
        )
    assert caplog.messages == ([said] if said else [])


def other_tasks(spec):
    """Like the toy robot, with a task less and another time limit, made with what the fleet asks for."""
    robot = toy_fleet.Line()
    near = toy_fleet.TASKS["near"]
    robot.tasks = {"near": replace(near, time_limit_steps=spec.time_limits.get("near", 7))}
    robot.asked_for = spec
    return robot, {}


def test_a_robot_of_ones_own_is_made_with_the_fleets_settings(caplog):
    """Whose tier, as it came in a message, is not imported."""
    asked = replace(
        CONFIG.fleet, time_limits={"near": 30}, cameras=(CameraSpec(name="eye", height=8, width=16),)
    )
    config = replace(CONFIG, fleet=asked, tasks={"near": toy_fleet.TASKS["near"]})
    config = RobotConfig.from_json(json.loads(json.dumps(config.to_json())))
    with caplog.at_level(logging.WARNING):
        robot, _ = _build(config, f"{__name__}:other_tasks")
    assert robot.asked_for == replace(asked, tier=f"{__name__}:other_tasks")
    assert "task_differs" in caplog.text
    assert "time_limit_steps=30" in caplog.text


def test_a_robot_without_one_of_the_fleets_tasks_is_refused():
    with pytest.raises(ConfigError, match=r"no task far, .* it has near"):
        _build(CONFIG, f"{__name__}:other_tasks")


class Pushes(Still):
    """A policy that wants more than it may."""

    def chunk(self, view, seed, index):
        return super().chunk(view, seed, index) + 1


class Held(toy_fleet.Line):
    """Keeps what reached it in each episode, and when it was held."""

    def __init__(self):
        self.told, self.held = [], []

    def reset(self, task, seed):
        self.told.append([])
        return super().reset(task, seed)

    def apply(self, action):
        self.told[-1].append(action.copy())
        return super().apply(action)

    def hold(self):
        self.held.append(len(self.told))


def test_an_episode_that_the_guard_gives_up_keeps_what_was_executed_and_says_why(caplog, tmp_path):
    context, line = ServiceContext("line-00", "robot"), Held()
    options = RobotOptions(folder=tmp_path, guard=GuardLimits(high=0.25, hold=0.0, patience_s=0.6))
    with open_fleet(tmp_path) as fleet, fleet.client("line-00") as client, caplog.at_level(logging.INFO):
        robot = Robot(context, "line-00", CONFIG, client, Pushes(), line, {}, options)
        thread = threading.Thread(target=robot.run)
        thread.start()
        deadline = time.monotonic() + 60
        while "episodes_failed_total" not in context.telemetry.summary() and time.monotonic() < deadline:
            time.sleep(0.02)
        context.stopping.set()
        thread.join(20)
    numbers = context.telemetry.summary()
    assert numbers["episodes_failed_total"] == len(line.told)
    assert numbers["guarded_steps_total.bounds"] == 6 * len(line.told)
    assert "episodes_total" not in numbers
    assert line.held == list(range(1, len(line.told) + 1))
    files = sorted((tmp_path / "spool" / "line-00").glob("*.mcap"))
    assert len(files) == len(line.told)
    episode = codec.decode(files[0].read_bytes())
    assert episode.verdict.outcome is Outcome.UNJUDGED
    assert len(line.told[0]) == 6
    # Of the last one a file that was cut off has no state after it.
    np.testing.assert_array_equal(episode.actions, np.array(line.told[0])[:5])
    assert (
        f"guarded episode={episode.header.episode_id} reasons=bounds:6 first_step=0 last_step=5 given_up='the guard"
        in caplog.text
    )
    assert "gives the episode up at control step 5" in caplog.text


def test_a_robot_that_is_told_to_stop_is_held_and_one_that_succeeded_is_not(tmp_path):
    context, recorder, line = ServiceContext("line-00", "robot"), Recorder(), Held()
    options = RobotOptions(folder=tmp_path, guard=GuardLimits(hold=0.0, rate_per_s=5.0, patience_s=None))
    robot = Robot(context, "line-00", CONFIG, recorder, Pushes(), line, {}, options)
    run_until_an_episode(robot, context, recorder)
    for episode, told in zip(recorder.episodes, line.told, strict=False):
        np.testing.assert_array_equal(episode.actions, np.array(told))
        np.testing.assert_allclose(episode.actions[:2, 0], [0.5, 1.0])
    assert len(line.held) == len(line.told) - len(recorder.episodes), "those that were cut off"
    commanded = [
        told for told in line.told if told
    ]  # the last one may have been stopped before its first command
    assert context.telemetry.summary()["guarded_steps_total.rate"] == len(commanded)


def test_limits_of_another_robot_are_refused_before_the_first_episode(tmp_path):
    context, line = ServiceContext("line-00", "robot"), Held()
    options = RobotOptions(folder=tmp_path, guard=GuardLimits(high=(0.5, 0.5, 0.5), hold=0.0))
    with pytest.raises(ConfigError, match="high has 3 numbers, the actions of robot 'line' 2"):
        Robot(context, "line-00", CONFIG, Recorder(), Still(), line, {}, options)
    assert line.told == []


def test_no_message_of_a_fleet_changes_the_guard(tmp_path):
    message = {**CONFIG.to_json(), "guard": {"high": 1.0, "hold": 0.0}}
    config = RobotConfig.from_json(json.loads(json.dumps(message)))
    assert config == RobotConfig.from_json(json.loads(json.dumps(CONFIG.to_json())))
    context, recorder, line = ServiceContext("line-00", "robot"), Recorder(), Held()
    options = RobotOptions(folder=tmp_path, guard=GuardLimits(high=0.5, hold=0.0, patience_s=None))
    robot = Robot(context, "line-00", config, recorder, Pushes(), line, {}, options)
    run_until_an_episode(robot, context, recorder)
    assert max(action.max() for told in line.told for action in told) == 0.5
