"""The benchmark runner says which way a number moved."""

from __future__ import annotations

import pytest

from benchmarks import __main__ as runner


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
