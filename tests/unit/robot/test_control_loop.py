import numpy as np
import pytest
from robots_for_tests import Line, Pusher

from lwd.episode import Outcome
from lwd.errors import ConfigError, UnknownNameError
from lwd.robot.control import Assignment, ControlLoop
from lwd.robot.operator import TakeoverRule

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
