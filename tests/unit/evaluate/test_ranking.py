"""How well a value ranks episodes: counted by hand."""

import numpy as np
import pytest

from lwd.evaluate.ranking import ValueAlong, chance_above, value_rank


def along(task, success, *values):
    return ValueAlong(task, success, np.linspace(0, 1, len(values)), np.asarray(values, float))


def test_the_chance_counts_pairs_and_halves_ties():
    assert chance_above([0.9, 0.5], [0.5, 0.1]) == (1 + 1 + 0.5 + 1) / 4
    assert chance_above([0.0], [1.0]) == 0.0


def test_ranks_are_taken_within_a_task_and_between_readings_on_a_line():
    found = [
        along("easy", True, 0.8, 0.8),
        along("easy", False, 0.9, 0.1),  # half-way 0.5: below the success, at the start above it
        along("hard", True, 0.2, 0.6),
        along("hard", True, 0.1, 0.1),
        along("hard", False, 0.1, 0.2),
        along("always", True, 0.0, 0.0),  # has no failure to be compared with
    ]
    ranks = value_rank(found, {"start": 0.0, "half": 0.5})
    assert ranks["start"] == pytest.approx((0.0 + (1 + 0.5) / 2) / 2)
    assert ranks["half"] == pytest.approx((1.0 + (1 + 0) / 2) / 2)


def test_without_a_task_of_both_outcomes_there_is_nothing_to_say():
    assert value_rank([along("always", True, 0.0, 1.0)], {"start": 0.0}) == {}
    assert value_rank([], {"start": 0.0}) == {}
