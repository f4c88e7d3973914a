"""Means, intervals and paired differences against numbers worked out by hand."""

from __future__ import annotations

import made_up
import numpy as np
import pytest

from lwd.errors import ConfigError
from lwd.evaluate.intervals import crossed_means, draw_counts
from lwd.results.scores import paired, row_score


def test_means_of_task_means_over_seeds_by_hand():
    # near: (1+1+0+1)/4 of seed 0, (1+0+0+0)/4 of seed 1: mean 0.5. far: 1/2 and 2/2: mean 0.75. All: 0.625.
    runs = [
        made_up.run("lwd_online", 0, {"near": [1, 1, 0, 1], "far": [1, 0]}),
        made_up.run("lwd_online", 1, {"near": [1, 0, 0, 0], "far": [1, 1]}),
    ]
    found = row_score(runs)
    value = {name: measured.success.value for name, measured in found.means.items()}
    assert value == {"near": 0.5, "far": 0.75, "average": 0.625, "short": 0.5, "long": 0.75}
    # A failure reached half of its milestones: far scores (1 + 0.5 + 1 + 1)/4; near counts successes only.
    assert found.means["long"].paper_score.value == 0.875
    assert found.means["average"].paper_score.value == (0.5 + 0.875) / 2
    # 10 s for a success, 20 s for a failure.
    assert found.means["average"].cycle_time_s.value == (15.0 + 12.5) / 2
    assert (found.seeds, found.episodes) == ([0, 1], 12)
    assert (found.robot_hours, found.interventions, found.operator_minutes) == (5.5, 12, 3.0)


def test_a_drawn_mean_by_hand():
    # Seed 1 drawn twice and seed 0 never; start 0 once, start 1 twice, start 2 never: (2*1*0 + 2*2*1) / (2*3).
    values = np.array([[[1.0], [1.0], [1.0]], [[0.0], [1.0], [5.0]]])
    drawn = crossed_means(values, np.array([[0.0, 2.0]]), np.array([[1.0, 2.0, 0.0]]))
    assert drawn == pytest.approx(np.array([[4 / 6]]))


def test_as_many_are_drawn_as_there_are():
    counts = draw_counts(5, seed=0, stratum="near", resamples=1000)
    assert set(counts.sum(axis=1)) == {5.0}
    assert counts.mean(axis=0) == pytest.approx(np.ones(5), abs=0.1)
    assert not np.array_equal(counts, draw_counts(5, seed=0, stratum="far", resamples=1000))


def test_the_interval_covers_luck_of_seeds_and_of_starts():
    # Seeds that differ, starts that do not: drawing two of {0, 1} gives 0, 0.5 or 1 at 1/4, 1/2, 1/4.
    runs = [made_up.run(seed=0, successes={"near": [0, 0], "far": [0, 0]}),
            made_up.run(seed=1, successes={"near": [1, 1], "far": [1, 1]})]  # fmt: skip
    estimate = row_score(runs).means["average"].success
    assert (estimate.low, estimate.value, estimate.high) == (0.0, 0.5, 1.0)
    # Starts that differ, one seed: a task's two starts give 0, 0.5 or 1 as well; of the mean of two tasks, 1/16 are 0.
    estimate = row_score([made_up.run(successes={"near": [0, 1], "far": [0, 1]})]).means["average"].success
    assert (estimate.low, estimate.value, estimate.high) == (0.0, 0.5, 1.0)


def test_a_start_that_is_hard_for_all_seeds_is_one_piece_of_evidence():
    same = [made_up.run(seed=seed, successes={"near": [0, 1] * 10, "far": [0, 1] * 10}) for seed in range(4)]
    one = row_score(same[:1]).means["average"].success
    four = row_score(same).means["average"].success
    assert (four.low, four.high) == (one.low, one.high), "four copies of one run say no more than it does"


def test_paired_difference_by_hand():
    # Common seed 1 only. near: (1-0, 0-1) -> 0; far: (1-0, 1-1) -> 0.5; all: 0.25.
    a = [made_up.run("sft", 0), made_up.run("sft", 1, {"near": [0, 1], "far": [0, 1]})]
    b = [made_up.run("lwd_online", 1, {"near": [1, 0], "far": [1, 1]})]
    means, by_seed, _ = paired(a, b)
    assert by_seed == {1: 0.25}
    assert {name: means[name].success.value for name in means} == {
        "near": 0.0,
        "far": 0.5,
        "average": 0.25,
        "short": 0.0,
        "long": 0.5,
    }
    # far: one failure of 20 s became a success of 10 s.
    assert means["far"].cycle_time_s.value == -5.0


def test_pairing_removes_what_the_starts_have_in_common():
    # b solves all that a solves and one start more of each task: however starts are drawn, b is never below a.
    a = [made_up.run("sft", s, {"near": [0, 0, 1, 1], "far": [0, 0, 1, 1]}) for s in range(3)]
    b = [made_up.run("lwd_online", s, {"near": [0, 1, 1, 1], "far": [0, 1, 1, 1]}) for s in range(3)]
    difference = paired(a, b).means["average"].success
    assert difference.value == 0.25
    assert difference.low >= 0
    unpaired = row_score(b).means["average"].success.high - row_score(a).means["average"].success.low
    assert difference.high < unpaired


def test_a_pair_says_whether_both_went_on_from_one_clone():
    a = [made_up.run("sft", s, sft_policy=name) for s, name in enumerate(("aaa", "bbb", "", ""))]
    b = [made_up.run("lwd_online", s, sft_policy=name) for s, name in enumerate(("aaa", "ccc", "ddd", ""))]
    assert paired(a, b).one_clone == {0: True, 1: False, 2: None, 3: None}


def test_what_cannot_be_paired_is_refused():
    with pytest.raises(ConfigError, match="no training seed in common"):
        paired([made_up.run("sft", 0)], [made_up.run("lwd_online", 1)])
    with pytest.raises(ConfigError, match="different starts"):
        paired([made_up.run("sft", 0)], [made_up.run("lwd_online", 0, {"near": [1], "far": [1]})])
