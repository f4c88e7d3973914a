import numpy as np
import pytest
from robots_for_tests import Decider, Line, Pusher

from lwd.episode import Outcome
from lwd.errors import ConfigError, RobotError, UnknownNameError
from lwd.robot.control import Assignment, ControlLoop
from lwd.robot.operator import GatingOperator, Operator, TakeoverRule

STILL = np.zeros((4, 2), np.float32)
FORWARD = np.array([[1.0, 0.0]] * 4, np.float32)


def loop() -> ControlLoop:
    return ControlLoop(Line(), {"expert": Pusher()})


def rounds(control: ControlLoop, chunk: np.ndarray) -> list:
    done = []
    wants = True
    while True:
        report = control.run(chunk if wants else None)
        done.append(report)
        wants = report.wants_chunk
        if report.verdict is not None:
            return done


def test_a_chunk_is_executed_whole_and_the_episode_ends_inside_one():
    control = loop()
    begun = control.begin(Assignment(task="walk", seed=3))
    assert begun.wants_chunk
    assert len(begun.actions) == 0
    done = rounds(control, FORWARD)
    assert [len(r.actions) for r in done] == [4, 4, 4, 4, 4]
    assert done[-1].verdict is not None
    assert done[-1].verdict.outcome is Outcome.SUCCESS
    assert done[-1].verdict.stage_score == 1.0
    assert not np.concatenate([r.interventions for r in done]).any()
    np.testing.assert_allclose(done[1].proprio[:, 0], [0.4, 0.5, 0.6, 0.7], rtol=1e-6)
    np.testing.assert_allclose(done[0].last[0], 0.4, rtol=1e-6)


def test_time_limit_is_a_failure_with_the_milestones_so_far():
    control = loop()
    control.begin(Assignment(task="walk", seed=3))
    slow = FORWARD * np.float32(0.2)
    done = rounds(control, slow)
    assert sum(len(r.actions) for r in done) == 60
    assert done[-1].verdict is not None
    assert (done[-1].verdict.outcome, done[-1].verdict.stage_score) == (Outcome.FAILURE, 0.5)


def test_takeover_begins_at_the_very_step_and_ends_with_the_round_of_the_new_milestone():
    control = loop()
    control.begin(Assignment(task="walk", seed=3, takeover=TakeoverRule(stall_steps=6, max_steps=50)))
    flags: list[bool] = []
    wanted = []
    wants = True
    for _ in range(6):
        report = control.run(STILL if wants else None)
        flags += report.interventions.tolist()
        wants = report.wants_chunk
        wanted.append(wants)
    # six stalled steps, ten steps to the milestone at 1 m: it falls on the last step of the fourth round
    assert flags == [False] * 6 + [True] * 10 + [False] * 6 + [True] * 2
    assert wanted == [True, False, False, True, True, False]
    assert report.takeovers == 2


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_never_reaches_the_robot(bad):
    """Clipping keeps NaN, and the robot's own limits may too."""
    robot, operator = Line(), Pusher()
    control = ControlLoop(robot, {"expert": operator})
    control.begin(Assignment(task="walk", seed=3))
    chunk = FORWARD.copy()
    chunk[3, 1] = bad
    with pytest.raises(
        RobotError, match=r"a policy's chunk has shape \(4, 2\) and 1 values that are not finite"
    ):
        control.run(chunk)
    with pytest.raises(RobotError, match=r"shape \(3, 2\) .* expected shape \(4, 2\)"):
        control.run(FORWARD[:3])
    assert robot.k == 0, "not even the steps before it"
    control.begin(Assignment(task="walk", seed=3, driver="operator"))
    operator.act = lambda: np.array([1.0, bad], np.float32)
    with pytest.raises(RobotError, match=r"an operator's action .* 1 values that are not finite"):
        control.run(None)
    operator.act = lambda: np.ones(3, np.float32)
    with pytest.raises(RobotError, match=r"expected shape \(2,\)"):
        control.run(None)
    assert robot.k == 0


def test_operator_commands_to_the_end_of_the_round_in_which_it_is_done():
    control = loop()
    control.begin(Assignment(task="walk", seed=3, takeover=TakeoverRule(stall_steps=5, max_steps=50)))
    flags = np.concatenate(
        [r.interventions for r in (control.run(STILL), *(control.run(STILL) for _ in range(3)))]
    )
    assert flags.tolist() == [False] * 5 + [True] * 11  # ten would do; the round ends at sixteen


def test_operator_hands_back_after_max_steps_and_takes_over_only_so_often():
    control = loop()
    rule = TakeoverRule(stall_steps=4, max_steps=4, max_takeovers=2)
    control.begin(Assignment(task="walk", seed=3, takeover=rule))
    back = np.array([[-1.0, 0.0]] * 4, np.float32)
    flags = np.concatenate([r.interventions for r in rounds(control, back)])
    assert flags.tolist() == ([False] * 4 + [True] * 4) * 2 + [False] * 44


def test_operator_driven_episode_needs_no_chunk_and_every_step_is_commanded():
    control = loop()
    begun = control.begin(Assignment(task="walk", seed=3, driver="operator"))
    assert not begun.wants_chunk
    done = [control.run(None) for _ in range(5)]
    assert np.concatenate([r.interventions for r in done]).all()
    assert done[-1].verdict is not None


def test_noise_is_on_the_policy_follows_from_the_seed_and_is_what_is_recorded():
    actions = []
    for seed in (3, 3, 4):
        control = loop()
        control.begin(Assignment(task="walk", seed=seed, action_noise=0.3))
        actions.append(np.concatenate([r.actions for r in rounds(control, FORWARD)]))
    np.testing.assert_array_equal(actions[0], actions[1])
    assert actions[0].max() <= 1.0
    assert actions[0].std() > 0.05
    assert not np.array_equal(actions[0][:4], actions[2][:4])


def test_errors_name_the_cause():
    control = loop()
    with pytest.raises(UnknownNameError, match="operator 'expret'"):
        control.begin(Assignment(task="walk", seed=1, driver="operator", operator="expret"))
    control.begin(Assignment(task="walk", seed=1))
    with pytest.raises(ConfigError, match="needs a chunk"):
        control.run(None)
    with pytest.raises(ConfigError, match="negative"):
        Assignment(task="walk", seed=-1)


# A rule that would take over after every step and hand back after every step, and never does where the operator decides.
EAGER = TakeoverRule(stall_steps=1, max_steps=1, max_takeovers=0)


def decided(*steps: int, seed: int = 3, takeover: TakeoverRule | None = EAGER) -> tuple[ControlLoop, Decider]:
    """A walk whose operator wants to command these control steps."""
    robot = Line()
    operator = Decider(robot, *steps)
    control = ControlLoop(robot, {"expert": operator})
    control.begin(Assignment(task="walk", seed=seed, takeover=takeover))
    return control, operator


def flags(done: list) -> list[bool]:
    return np.concatenate([r.interventions for r in done]).tolist()


def test_only_an_operator_with_a_will_is_one():
    assert isinstance(Decider(Line()), GatingOperator)
    assert isinstance(Decider(Line()), Operator)
    assert not isinstance(Pusher(), GatingOperator)


def test_operator_who_decides_takes_over_in_mid_chunk_and_hands_back_at_the_end_of_the_round():
    control, operator = decided(6, 7, 8, 9)
    done = [control.run(STILL), control.run(STILL), control.run(None), control.run(FORWARD)]
    assert (
        flags(done) == [False] * 6 + [True] * 6 + [False] * 4
    )  # lets go before step 10; the round ends at 12
    assert [r.wants_chunk for r in done] == [True, False, True, True]
    assert [r.takeovers for r in done] == [0, 1, 1, 1]
    # once before each step of either, and again before the first that the policy gets back
    assert operator.asked == [*range(13), *range(12, 16)]
    np.testing.assert_allclose(done[-1].proprio[:, 0], [0.6, 0.7, 0.8, 0.9], rtol=1e-6)


def test_operator_who_lets_go_in_the_last_step_of_a_round_commands_no_other():
    control, _ = decided(4, 5, 6, 7)
    assert flags([control.run(STILL) for _ in range(3)]) == [False] * 4 + [True] * 4 + [False] * 4


def test_the_latest_answer_of_a_round_counts():
    control, operator = decided(1, 3, 4)
    done = [control.run(STILL), control.run(None), control.run(STILL)]
    assert flags(done) == [False] + [True] * 7 + [False] * 4
    assert done[-1].takeovers == len(operator.seeds) == 1


def test_operator_who_decides_takes_over_as_often_as_they_like_each_time_with_a_seed_of_its_own():
    seeds = []
    for seed in (3, 3, 4):
        control, operator = decided(1, 5, 9, 13, seed=seed)
        done = [control.run(STILL) for _ in range(5)]
        assert flags(done) == [False, True, True, True] * 4 + [False] * 4
        assert done[-1].takeovers == 4
        seeds.append(operator.seeds)
    assert seeds[0] == seeds[1]
    assert len({*seeds[0], *seeds[2]}) == 8


def test_operator_who_decides_is_bound_by_no_milestone_and_no_number_of_steps():
    control, _ = decided(*range(100))
    done = rounds(control, STILL)
    assert flags(done) == [True] * 20  # a milestone after 10 steps, the goal after 20
    assert done[-1].verdict is not None
    assert (done[-1].verdict.outcome, done[-1].takeovers) == (Outcome.SUCCESS, 1)
    control.begin(Assignment(task="walk", seed=4, takeover=EAGER))
    assert flags([control.run(STILL)]) == [True] * 4, "who still wants to command does, from the first step"


def test_operator_who_does_not_want_to_never_takes_over():
    control, operator = decided()
    assert flags(rounds(control, STILL)) == [False] * 60
    assert operator.asked == list(range(60))


def test_nobody_is_asked_where_nobody_may_intervene_or_somebody_drives_anyway():
    control, operator = decided(*range(100), takeover=None)
    assert flags(rounds(control, FORWARD)) == [False] * 20
    control.begin(Assignment(task="walk", seed=3, driver="operator", takeover=EAGER))
    assert flags([control.run(None) for _ in range(5)]) == [True] * 20
    assert operator.asked == []


@pytest.mark.parametrize("method", ["wants_control", "act"])
def test_an_exception_of_an_operator_who_decides_is_not_swallowed(monkeypatch, method):
    def broken(self):
        raise OSError("the leader arm is gone")

    control, _ = decided(2)
    monkeypatch.setattr(Decider, method, broken)
    with pytest.raises(OSError, match="leader arm"):
        control.run(STILL)
