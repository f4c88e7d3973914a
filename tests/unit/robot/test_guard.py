"""What the guard lets through, whatever is commanded; hand-worked, at 10 control steps per second."""

import json
import logging
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from robots_for_tests import Decider, Line, Pusher

from lwd.episode import Outcome
from lwd.errors import ConfigError, RobotError
from lwd.robot import guard as guard_module
from lwd.robot.control import Assignment, ControlLoop
from lwd.robot.environment import Environment, HoldingEnvironment, Sensed
from lwd.robot.guard import TOLERANCE, Guard
from lwd.robot.guard_limits import GuardLimits, load_limits
from lwd.robot.operator import TakeoverRule
from lwd.robot.silence import SilenceWatch

HERTZ = 10.0
WALK = Assignment(task="walk", seed=3)
FOREVER = None
BY_OPERATORS = {"expert": Pusher()}
WATCH = "lwd-silence"


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def limits(**given) -> GuardLimits:
    """Deltas, and a guard that never gives up unless a test says so."""
    return GuardLimits(**{"hold": 0.0, "patience_s": FOREVER, **given})


class Told(Line):
    """A line that keeps what reached it, and can be held."""

    def reset(self, task, seed):
        self.told, self.holds = [], 0
        self.held = threading.Event()
        return super().reset(task, seed)

    def apply(self, action):
        self.told.append(action.copy())
        return super().apply(action)

    def hold(self):
        self.holds += 1
        self.held.set()


class WithoutHold(Line):
    def reset(self, task, seed):
        self.told = []
        return super().reset(task, seed)

    def apply(self, action):
        self.told.append(action.copy())
        return super().apply(action)


def through(found: GuardLimits, wanted) -> tuple[np.ndarray, list[str]]:
    """What the guard of a line makes of these commands [T, 2], and why."""
    guard = Guard(found, Line())
    guard.begin()
    executed = [
        guard.command(np.asarray(w, np.float32), stale=False, operated=False) for w in np.asarray(wanted)
    ]
    return np.array(executed), [event.reason for event in guard.events]


def first_coordinate(found: GuardLimits, wanted: list[float]) -> tuple[list[float], list[str]]:
    executed, reasons = through(found, [[w, 0.0] for w in wanted])
    assert not executed[:, 1].any()
    return executed[:, 0].astype(np.float64).round(5).tolist(), reasons


def test_bounds_of_each_coordinate():
    executed, reasons = through(limits(low=(-0.5, 0.0), high=(0.25, 0.0)), [[1, 1], [-1, -1], [0.2, 0.0]])
    np.testing.assert_array_equal(executed, np.array([[0.25, 0], [-0.5, 0], [0.2, 0]], np.float32))
    assert reasons == ["bounds", "bounds"]


def test_a_command_changes_by_no_more_than_the_rate_and_a_new_episode_begins_from_the_hold():
    """1 per second is 0.1 per step; the robot stands at the hold, 0, when an episode begins."""
    executed, reasons = first_coordinate(limits(rate_per_s=1.0), [1, 1, 1, 0.25, 0.25, -1])
    assert executed == [0.1, 0.2, 0.3, 0.25, 0.25, 0.15]
    assert reasons == ["rate", "rate", "rate", "rate"]


def test_the_rate_changes_by_no_more_than_its_limit():
    """4 per second squared is 0.04 per step squared."""
    executed, reasons = first_coordinate(
        limits(rate_per_s=1.0, rate_change_per_s2=4.0), [1, 1, 1, 1, 0.22, 0.22, 0.22]
    )
    # changes 0.04, 0.08, 0.1 (the rate), 0.1; then back: 0.06, 0.02, -0.02
    assert executed == [0.04, 0.12, 0.22, 0.32, 0.38, 0.4, 0.38]
    assert reasons == ["rate"] * 4 + ["rate_change", "rate", "rate"]


def test_which_limit_a_command_breaks():
    found = limits(high=0.5, rate_per_s=2.0, rate_change_per_s2=10.0)  # 0.2 and 0.1 per step
    guard = Guard(found, Line())
    guard.begin()
    for wanted in ([0.0, 0.15], [0.15, 0.1], [0.0, 0.9], [0.4, 0.1]):
        guard.command(np.array(wanted, np.float32), stale=False, operated=False)
    assert [tuple(event) for event in guard.events] == [
        (0, "rate_change", 1),  # from rest by 0.15
        (1, "rate_change", 0),
        (2, "bounds", 1),
        (3, "rate", 0),
    ]


def test_it_slows_down_in_time_for_a_bound():
    """Nobody can stop at 0.5 from a step of 0.3 that may shrink by 0.1 per step, unless it begins to before."""
    executed, reasons = first_coordinate(limits(high=0.5, rate_change_per_s2=10.0), [0.5] * 8)
    # steps 0.1 and 0.2; 0.2 once more, as the command asks, would have to be followed by 0, which is 0.2 fewer: so 0.15, 0.05
    assert executed == [0.1, 0.3, 0.45, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert reasons == ["rate_change", "rate_change", "bounds"]


numbers = st.floats(-1, 1, width=32)


@settings(deadline=None)
@given(
    st.lists(st.tuples(numbers, numbers), min_size=1, max_size=60),
    st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
    st.floats(0.01, 30),
    st.floats(0.01, 500),
    st.booleans(),
)
def test_no_limit_is_ever_broken_and_what_is_within_them_passes_bit_for_bit(wanted, ends, rate, change, last):
    low, high = min(ends), max(ends)
    start = (low + high) / 2
    found = limits(
        low=low,
        high=high,
        rate_per_s=rate,
        rate_change_per_s2=change,
        hold="last" if last else start,
        start=start,
    )
    executed, _ = through(found, wanted)
    assert executed.dtype == np.float32
    path = np.concatenate([[[start] * 2], [[start] * 2], executed]).astype(np.float64)
    slack = 4 * TOLERANCE
    assert executed.min() >= low - TOLERANCE
    assert executed.max() <= high + TOLERANCE
    assert np.abs(np.diff(path, axis=0)).max() <= rate / HERTZ + slack
    assert np.abs(np.diff(path, n=2, axis=0)).max() <= change / HERTZ**2 + slack
    again, reasons = through(found, executed)
    assert again.tobytes() == executed.tobytes()
    assert reasons == []


def run(loop: ControlLoop, chunk, assignment: Assignment = WALK) -> list:
    """An episode with the same chunk over and over, to its verdict."""
    done = loop.begin(assignment)
    rounds = []
    while done.verdict is None:
        done = loop.run(np.asarray(chunk, np.float32) if done.wants_chunk else None)
        rounds.append(done)
    return rounds


def actions(rounds: list) -> np.ndarray:
    return np.concatenate([r.actions for r in rounds])


SLOW = limits(high=0.5, rate_per_s=1.0)
FORWARD = [[1.0, 0.0]] * 4


def test_without_a_guard_nothing_changes_and_a_guard_that_forbids_nothing_changes_nothing():
    assignment = Assignment(task="walk", seed=3, action_noise=0.3, takeover=TakeoverRule(stall_steps=9))
    loops = [ControlLoop(Line(), BY_OPERATORS, guard) for guard in (None, limits(hold="last", stale_s=100.0))]
    first, second = (actions(run(loop, FORWARD, assignment)) for loop in loops)
    assert first.tobytes() == second.tobytes()
    assert [loop.guarded for loop in loops] == [(), ()]


def test_what_is_recorded_is_what_reached_the_robot_across_chunks():
    robot = Told()
    loop = ControlLoop(robot, BY_OPERATORS, SLOW)
    rounds = run(loop, FORWARD)
    executed = actions(rounds)
    assert executed.tobytes() == np.array(robot.told).tobytes()
    # the second chunk goes on from where the first one was cut to
    np.testing.assert_allclose(executed[:6, 0], [0.1, 0.2, 0.3, 0.4, 0.5, 0.5], atol=1e-6)
    assert rounds[-1].verdict.outcome is Outcome.SUCCESS
    assert robot.holds == 0
    assert [event.step for event in loop.guarded] == list(range(len(executed)))


def test_an_operator_is_limited_too_from_where_the_policy_was():
    loop = ControlLoop(Line(), {"expert": Pusher()}, limits(rate_per_s=1.0))
    loop.begin(Assignment(task="walk", seed=3, takeover=TakeoverRule(stall_steps=2, max_steps=50)))
    done = loop.run(np.array([[-1.0, 0.0]] * 4, np.float32))
    assert done.interventions.tolist() == [False, False, True, True]
    np.testing.assert_allclose(done.actions[:, 0], [-0.1, -0.2, -0.1, 0.0], atol=1e-6)


def test_an_operator_never_makes_the_guard_give_up_and_a_policy_begins_to_count_anew_after_one():
    robot = Told()
    operator = Decider(robot, *range(2, 30))
    loop = ControlLoop(robot, {"expert": operator}, limits(high=0.25, patience_s=0.3))
    loop.begin(Assignment(task="walk", seed=3, takeover=TakeoverRule()))
    for _ in range(8):
        done = loop.run(np.array(FORWARD, np.float32) if not robot.told or done.wants_chunk else None)
    assert done.interventions.tolist() == [True] * 4
    assert done.wants_chunk
    assert len(loop.guarded) >= 32
    done = loop.run(np.array(FORWARD, np.float32))
    assert (len(done.actions), done.wants_chunk) == (3, False)


def test_an_episode_begins_from_the_start_and_not_from_the_last_one():
    robot = WithoutHold()
    loop = ControlLoop(robot, {}, limits(hold="last", start=-0.5, rate_per_s=1.0))
    for _ in range(2):
        loop.begin(WALK)
        loop.run(np.full((4, 2), 0.5, np.float32))
        np.testing.assert_allclose(np.array(robot.told)[:4, 0], [-0.4, -0.3, -0.2, -0.1], atol=1e-6)


def test_without_a_start_the_first_absolute_target_may_be_anywhere_within_its_bounds():
    executed, reasons = through(
        limits(hold="last", high=0.5, rate_per_s=1.0, rate_change_per_s2=100.0), [[0.9, -0.7], [0.9, 0.7]]
    )
    np.testing.assert_allclose(executed, [[0.5, -0.7], [0.5, -0.6]], atol=1e-6)
    assert reasons == ["bounds", "bounds"]


def test_the_guard_gives_an_episode_up_that_it_has_to_change_all_the_time():
    robot = Told()
    loop = ControlLoop(robot, {}, limits(high=0.25, patience_s=0.7))
    loop.begin(WALK)
    mixed = np.array([[0.5, 0], [0.1, 0], [0.5, 0], [0.5, 0]], np.float32)  # the second one passes
    rounds = [loop.run(mixed), loop.run(np.array(FORWARD, np.float32))]
    assert rounds[1].wants_chunk
    done = loop.run(mixed)
    assert len(done.actions) == 1, "seven steps in a row: 0.7 s"
    assert (done.verdict, done.wants_chunk) == (None, False)
    assert robot.holds == 1, "at once"
    assert len(robot.told) == 9
    expected = (
        r"gives the episode up at control step 8: it had to change every command since step 2, the last one for "
        r"bounds \(coordinate 0: 0.5 after 0.25\); GuardLimits.patience_s is 0.7 s"
    )
    for _ in range(2):
        with pytest.raises(RobotError, match=expected):
            loop.run(None)
    loop.end()
    assert robot.holds == 1
    assert actions([*rounds, done]).tobytes() == np.array(robot.told).tobytes()
    assert len(run(ControlLoop(robot, {}, limits(high=0.25)), FORWARD)) > 9, "without patience it never does"
    loop.begin(WALK)
    assert loop.run(np.zeros((4, 2), np.float32)).wants_chunk, "the next episode begins anew"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("driver", ["policy", "operator"])
def test_what_is_no_number_stops_and_holds(driver, bad):
    robot, operator = Told(), Pusher()
    loop = ControlLoop(robot, {"expert": operator}, limits())
    begun = loop.begin(Assignment(task="walk", seed=3, driver=driver))
    loop.run(np.array(FORWARD, np.float32) if begun.wants_chunk else None)
    operator.act = lambda: np.array([bad, 0.0], np.float32)
    with pytest.raises(RobotError, match=r"not finite.* It was not executed"):
        loop.run(np.full((4, 2), bad, np.float32) if begun.wants_chunk else None)
    assert (len(robot.told), robot.holds) == (4, 1)
    assert [tuple(event) for event in loop.guarded] == [(4, "refused", None)]
    with pytest.raises(RobotError, match="not finite"):
        loop.run(np.array(FORWARD, np.float32))
    assert len(robot.told) == 4


def test_a_robot_without_a_hold_of_its_own_is_brought_to_the_guards_within_the_limits():
    robot = WithoutHold()
    loop = ControlLoop(robot, {}, limits(rate_per_s=2.0))
    loop.begin(WALK)
    loop.run(np.array(FORWARD, np.float32))
    loop.end()
    told = np.array(robot.told)[:, 0]
    np.testing.assert_allclose(told, [0.2, 0.4, 0.6, 0.8, 0.6, 0.4, 0.2, 0.0], atol=1e-6)
    loop.end()
    assert len(robot.told) == 8


def test_absolute_targets_are_held_where_they_were_sent_as_soon_as_the_limits_allow():
    robot = WithoutHold()
    loop = ControlLoop(robot, {}, limits(hold="last", start=0.0, rate_change_per_s2=10.0))
    loop.begin(WALK)
    loop.run(np.array([[0.1, 0], [0.3, 0], [0.5, 0], [0.7, 0]], np.float32))
    loop.end()
    np.testing.assert_allclose(
        np.array(robot.told)[4:, 0], [0.8], atol=1e-6
    )  # after a step of 0.2 one of 0.1


def test_a_hold_ends_though_its_driver_fails_or_it_is_far_away(caplog, monkeypatch):
    class Broken(Told):
        def hold(self):
            raise OSError("the bus is down")

    loop = ControlLoop(Broken(), {}, limits())
    loop.begin(WALK)
    with caplog.at_level(logging.ERROR):
        loop.end()
    assert "hold_failed" in caplog.text
    assert "the bus is down" in caplog.text

    monkeypatch.setattr(guard_module, "HOLD_S", 0.5)
    robot = WithoutHold()
    loop = ControlLoop(robot, {}, limits(hold=1.0, start=-1.0, rate_per_s=0.01))
    loop.begin(WALK)
    loop.run(np.zeros((4, 2), np.float32))
    loop.end()
    assert len(robot.told) == 4 + 5


@pytest.mark.parametrize("where", ["apply", "act", "wants_control"])
def test_whatever_is_raised_in_a_round_the_robot_is_held(monkeypatch, where):
    def broken(*_):
        raise OSError("unplugged")

    robot = Told()
    loop = ControlLoop(robot, {"expert": Decider(robot, 1)}, limits())
    loop.begin(Assignment(task="walk", seed=3, takeover=TakeoverRule()))
    monkeypatch.setattr(robot if where == "apply" else Decider, where, broken)
    with pytest.raises(OSError, match="unplugged"):
        loop.run(np.array(FORWARD, np.float32))
    assert robot.holds == 1


def test_an_episode_that_is_left_is_held_before_the_next_one():
    holds = []
    robot = Told()
    robot.hold = lambda: holds.append(len(robot.told))
    loop = ControlLoop(robot, {}, limits())
    loop.begin(WALK)
    loop.run(np.array(FORWARD, np.float32))
    loop.begin(WALK)
    assert holds == [4]
    loop.end()
    assert holds == [4, 0]


class Lagging(Told):
    """Its camera freezes between two of its control steps."""

    frozen = (6, 7)

    def _sensed(self):
        sensed = super()._sensed()
        age = 60.0 if self.k in self.frozen else 0.0
        return Sensed(sensed.proprio, at=time.monotonic() - age)


def test_what_was_sensed_too_long_ago_holds_the_rest_of_the_chunk():
    robot = Lagging()
    loop = ControlLoop(robot, {}, limits(stale_s=30.0, rate_per_s=5.0))
    loop.begin(WALK)
    rounds = [loop.run(np.array(FORWARD, np.float32)) for _ in range(3)]
    np.testing.assert_allclose(
        actions(rounds)[:, 0], [0.5, 1, 1, 1, 1, 1, 0.5, 0, 0.5, 1, 1, 1], atol=1e-6
    )  # the hold, 0, is approached within the limits
    assert [event.step for event in loop.guarded if event.reason == "stale"] == [6, 7]


def test_a_chunk_that_took_too_long_is_not_executed_at_all():
    """Of the next one the observation is new."""
    loop = ControlLoop(Told(), {}, limits(stale_s=0.2))
    done = loop.begin(WALK)
    time.sleep(0.3)  # the policy thinks
    done = loop.run(np.array(FORWARD, np.float32))
    assert not done.actions.any()
    assert [event.reason for event in loop.guarded] == ["stale"] * 4


def test_a_sensor_that_stays_stale_ends_the_episode():
    robot = Lagging()
    robot.frozen = range(2, 60)
    loop = ControlLoop(robot, {}, limits(stale_s=30.0, patience_s=1.0))
    done = loop.begin(WALK)
    while done.wants_chunk:
        done = loop.run(np.array(FORWARD, np.float32))
    assert (len(robot.told), robot.holds, done.verdict) == (12, 1, None)
    with pytest.raises(
        RobotError, match=r"every command since step 2, the last one for stale; .*patience_s is 1.0 s"
    ):
        loop.run(None)


def test_an_operator_commands_though_what_was_sensed_is_stale():
    robot = Lagging()
    loop = ControlLoop(robot, {"expert": Pusher()}, limits(stale_s=30.0))
    assert run(loop, FORWARD, Assignment(task="walk", seed=3, driver="operator"))[-1].verdict is not None
    assert loop.guarded == ()


def test_a_stale_beginning_without_anything_to_hold_at_sends_no_command():
    robot = Lagging()
    robot.frozen = (0,)
    loop = ControlLoop(robot, {}, limits(stale_s=30.0, hold="last"))
    loop.begin(WALK)
    with pytest.raises(RobotError, match=r"before the first command .* give GuardLimits.start"):
        loop.run(np.array(FORWARD, np.float32))
    assert (robot.told, robot.holds) == ([], 1)


def test_the_watchdog_holds_a_robot_whose_policy_hangs_once_and_in_bounded_time():
    robot = Told()
    loop = ControlLoop(robot, {}, limits(silence_s=1.0))
    loop.begin(WALK)
    assert WATCH not in threads(), "before its first command the robot stands"
    loop.run(np.array(FORWARD, np.float32))
    began = time.monotonic()
    assert robot.held.wait(30)
    assert time.monotonic() - began > 0.5
    with pytest.raises(RobotError, match=r"no command came for more than 1 s .* before control step 4"):
        loop.run(np.array(FORWARD, np.float32))  # the policy is back, too late
    loop.end()
    assert (len(robot.told), robot.holds) == (4, 1)
    assert [tuple(event) for event in loop.guarded] == [(4, "silence", None)]


def test_the_watchdog_holds_a_robot_whose_driver_hangs():
    class Stuck(Told):
        def apply(self, action):
            if self.k == 2:
                assert self.held.wait(30), "nobody has held it"
                raise OSError("the bus timed out")
            return super().apply(action)

    robot = Stuck()
    loop = ControlLoop(robot, {}, limits(silence_s=1.0))
    loop.begin(WALK)
    with pytest.raises(OSError, match="timed out"):
        loop.run(np.array(FORWARD, np.float32))
    assert robot.holds == 1


def test_the_watchdog_lets_a_healthy_robot_work_and_ends_with_the_episode():
    """Commands come every few milliseconds, for longer than `silence_s`; it is long for the sake of busy machines."""

    class Steady(Told):
        def apply(self, action):
            time.sleep(0.05)
            return super().apply(action)

    robot = Steady()
    loop = ControlLoop(robot, {}, limits(silence_s=2.0))
    rounds = run(loop, [[0.4, 0.0]] * 4)
    assert len(actions(rounds)) == 50
    assert (robot.holds, loop.given_up) == (0, None)
    assert WATCH not in threads()
    with pytest.raises(RobotError, match=r"the episode has ended, .* begin another"):
        loop.run(np.array(FORWARD, np.float32))
    loop.end()
    assert robot.holds == 0


def test_a_watch_that_was_stopped_never_calls():
    called = []
    watch = SilenceWatch(0.05, lambda: called.append(1))
    assert watch.feed()
    stopped_in_time = not watch.stop()
    time.sleep(0.2)
    assert bool(called) is not stopped_in_time  # on a machine that stood still for 50 ms it had fired before


def test_only_a_robot_with_a_hold_can_have_a_watchdog():
    assert isinstance(Told(), HoldingEnvironment)
    assert isinstance(Line(), Environment)
    assert not isinstance(Line(), HoldingEnvironment)
    with pytest.raises(
        ConfigError, match=r"silence_s is 1.0, but the environment of robot 'line' has no hold\(\)"
    ):
        ControlLoop(Line(), {}, limits(silence_s=1.0))


def test_limits_of_another_robot_are_refused():
    with pytest.raises(ConfigError, match="high has 3 numbers, the actions of robot 'line' 2"):
        ControlLoop(Line(), {}, limits(high=(1.0, 1.0, 0.5)))
    for tiny in ({"rate_per_s": 1e-5}, {"rate_change_per_s2": (1.0, 1e-300)}):
        with pytest.raises(
            ConfigError, match="per control step, which is less than a command can be held to"
        ):
            ControlLoop(Line(), {}, limits(**tiny))
    with pytest.raises(ConfigError, match=r"control step of robot 'line' lasts 0\.1 s"):
        ControlLoop(Told(), {}, limits(silence_s=0.1))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"low": -1.5}, "low is -1.5, high 1.0; expected -1 <= low <= high <= 1"),
        ({"low": 0.5, "high": 0.25}, "low is 0.5, high 0.25"),
        ({"high": float("nan")}, "high nan"),
        ({"low": 0.5, "hold": 0.0}, "hold is 0.0; expected it within low 0.5"),
        ({"high": (0.5, 0.5), "start": (0.0, 0.75)}, r"start is \(0.0, 0.75\)"),
        ({"hold": float("nan")}, "hold is nan"),
        ({"start": float("nan")}, "start is nan"),
        ({"rate_per_s": 0.0}, "rate_per_s is 0.0; expected positive"),
        ({"rate_change_per_s2": (1.0, float("inf"))}, "rate_change_per_s2 is"),
        ({"patience_s": -1.0}, "patience_s is -1.0"),
        ({"stale_s": float("nan")}, "stale_s is nan"),
        ({"low": (-1.0, -1.0), "high": (1.0,)}, r"lists of lengths low 2, high 1; expected"),
        ({"low": ()}, "lists of lengths low 0"),
    ],
)
def test_limits_that_are_none_are_refused(given, said):
    with pytest.raises(ConfigError, match=said):
        limits(**given)


def read(tmp_path, text: str) -> GuardLimits:
    path = tmp_path / "guard.json"
    path.write_text(text)
    return load_limits(path)


def test_a_file_of_limits(tmp_path):
    found = {
        "low": [-1, -0.5],
        "hold": ["last", 0],
        "start": None,
        "patience_s": None,
        "silence_s": 1,
        "high": 0.5,
    }
    assert read(tmp_path, json.dumps(found)) == GuardLimits(
        low=(-1.0, -0.5), high=0.5, hold=("last", 0.0), patience_s=None, silence_s=1.0
    )
    assert read(tmp_path, '{"hold": 0}') == GuardLimits(hold=0.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"hold": 0, "hihg": 0.5}', "unknown limit 'hihg'. Did you mean 'high'?"),
        ("{}", "does not say what a hold commands"),
        ('{"hold": null}', "hold has None; expected a number"),
        ('{"hold": "zero"}', "hold has 'zero'; expected a number, .*, or \"last\""),
        ('{"hold": 0, "low": "last"}', "low has 'last'; expected a number, or a list"),
        ('{"hold": 0, "high": true}', "high has True"),
        ('{"hold": 0, "high": [0.5, [0.5]]}', r"high has \[0.5\]"),
        ('{"hold": 0, "high": null}', "high has None"),
        ('{"hold": 0, "high": []}', "lists of lengths high 0"),
        ('{"hold": 0, "stale_s": [1, 1]}', r"stale_s has \[1, 1\]; expected a number\."),
        ('{"hold": 0, "rate_per_s": 1e999}', "rate_per_s has inf"),
        ('{"hold": 0, "rate_per_s": NaN}', "NaN is not a number"),
        ('{"hold": 0, "high": 1' + "0" * 400 + "}", "high has 1000"),
        ('{"hold": 0, "high": 0.1, "high": 1}', "a name stands in it twice"),
        ('{"hold": 0, "high": 2}', "guard .*guard.json': GuardLimits: low is -1.0, high 2.0"),
        ("[0]", "no JSON object"),
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
    ],
)
def test_a_file_that_is_no_limits_is_refused_with_its_name(tmp_path, text, said):
    with pytest.raises(ConfigError, match=said) as caught:
        read(tmp_path, text)
    assert "guard.json" in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load_limits(tmp_path / "typo.json")
    (tmp_path / "guard.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is no JSON"):
        load_limits(tmp_path / "guard.json")
