"""The benchmark runner says which way a number moved."""

from __future__ import annotations

import pytest

from benchmarks import __main__ as runner
from benchmarks import lossy_line
from benchmarks.fleet_parts import quantile


@pytest.mark.parametrize(
    ("key", "new", "old", "expected"),
    [
        ("steps_per_s", 110.0, 100.0, "x 1.10 better"),
        ("steps_per_s", 90.0, 100.0, "x 0.90 worse"),
        ("compile_s", 90.0, 100.0, "x 0.90 better"),
        ("peak_memory_gib", 2.2, 2.0, "x 1.10 worse"),
        ("steps_per_s", 102.0, 100.0, "x 1.02"),
        ("batch", 128.0, 64.0, "x 2.00"),
        ("wait_share", 0.01, 0.0, "was 0"),
        ("wait_share", 0.0, 0.0, "same"),
        ("steps_per_s", 1.0, None, "new"),
    ],
)
def test_verdict(key: str, new: float, old: float | None, expected: str) -> None:
    assert runner.verdict(key, new, old) == expected


def test_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(SystemExit, match="unknown benchmark"):
        runner.main(["no_such_benchmark"])


def test_settings_are_named_numbers() -> None:
    assert runner._settings(["episodes=10000", "sqlite=0"]) == {"episodes": 10000, "sqlite": 0}
    for word in ("episodes", "episodes=many", "=3", "a b=3"):
        with pytest.raises(SystemExit, match="NAME=NUMBER"):
            runner._settings([word])


@pytest.mark.parametrize(("q", "expected"), [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0), (0.001, 1.0)])
def test_quantiles_by_hand(q: float, expected: float) -> None:
    assert quantile([float(i) for i in range(100, 0, -1)], q) == expected


@pytest.mark.skipif(lossy_line.missing() is not None, reason="this machine cannot make such lines")
def test_a_lossy_line_delays_and_leaves_nothing_behind() -> None:
    with lossy_line.lines(1) as lines:
        assert lines.round_trip_s() >= lossy_line.ROUND_TRIP_S
    assert lossy_line.missing() is None
    with lossy_line.lines(1):
        pass  # the same names again
