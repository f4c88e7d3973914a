"""Scores: task means, averages over tasks, pairs, files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lwd.errors import ConfigError, UnknownNameError
from lwd.evaluate.intervals import wilson
from lwd.evaluate.jsonfile import ResultError
from lwd.evaluate.records import EvaluationRecord, read_records, write_records
from lwd.evaluate.scores import paired_difference, score
from lwd.spec import Horizon

HORIZONS: dict[str, Horizon] = {"a": "short", "b": "short", "c": "long"}


def record(
    task: str, seed: int, success: bool, stage: float | None = None, time_s: float = 10.0
) -> EvaluationRecord:
    stage = float(success) if stage is None else stage
    return EvaluationRecord(
        task=task,
        seed=seed,
        success=success,
        stage_score=stage,
        cycle_time_s=time_s,
        steps=100,
        interventions=seed % 2,
    )


def records() -> list[EvaluationRecord]:
    """Task a: 3 of 4 succeed; b: 1 of 2; c: 2 of 8, with stage score 0.5 in its failures and 20 s each."""
    return [
        *(record("a", seed, seed < 3) for seed in range(4)),
        *(record("b", seed, seed < 1) for seed in range(2)),
        *(record("c", seed, seed < 2, 1.0 if seed < 2 else 0.5, 20.0) for seed in range(8)),
    ]


def test_task_means_and_averages_by_hand():
    found = score(records(), HORIZONS)
    assert [found.tasks[task].success.value for task in "abc"] == [0.75, 0.5, 0.25]
    assert [found.tasks[task].episodes for task in "abc"] == [4, 2, 8]
    # Means of task means, not of episodes: 6 of 14 episodes succeed.
    assert found.average.success.value == pytest.approx(0.5)
    assert found.short is not None
    assert found.long is not None
    assert found.short.success.value == pytest.approx(0.625)
    assert found.long.success.value == pytest.approx(0.25)
    assert found.long.stage_score.value == pytest.approx((2 + 6 * 0.5) / 8)
    assert found.average.cycle_time_s.value == pytest.approx((10 + 10 + 20) / 3)
    assert found.average.episodes == 14
    assert found.average.interventions == 2 + 1 + 4


def test_intervals_of_tasks_are_wilsons_and_of_averages_contain_the_mean():
    found = score(records(), HORIZONS)
    assert found.tasks["a"].success == wilson(3, 4)
    assert found.average.success.low < 0.5 < found.average.success.high
    # Constant within tasks: nothing to resample, because strata are kept.
    assert found.average.cycle_time_s.high - found.average.cycle_time_s.low < 1e-9


def test_average_interval_has_the_stratified_width():
    # Two tasks of 200 episodes with p = 0.1 and 0.9: variance of the mean of means is
    # (2 * 0.09 / 200) / 4. Pooled resampling would see p = 0.5 and be 1.67 times as wide.
    both = [record(task, seed, seed < n) for task, n in (("a", 20), ("b", 180)) for seed in range(200)]
    found = score(both, HORIZONS).average.success
    assert found.high - found.low == pytest.approx(2 * 1.96 * (0.18 / 200 / 4) ** 0.5, rel=0.08)


def test_score_ignores_the_order_of_records_and_repeats_itself():
    assert score(records()[::-1], HORIZONS) == score(records(), HORIZONS)
    assert score(records(), HORIZONS, seed=1, resamples=50) != score(records(), HORIZONS, resamples=50)


def test_no_task_of_a_horizon_is_none():
    found = score([record("a", 0, True)], HORIZONS)
    assert found.long is None
    assert list(found.tasks) == ["a"]


def test_errors_name_what_is_wrong():
    with pytest.raises(ConfigError, match="no evaluation records"):
        score([], HORIZONS)
    with pytest.raises(UnknownNameError, match="unknown task 'd'"):
        score([record("d", 0, True)], HORIZONS)
    with pytest.raises(ConfigError, match="task 'a' with seed 0"):
        score([record("a", 0, True), record("a", 0, False)], HORIZONS)
    with pytest.raises(ConfigError, match=r"stage_score 1\.5"):
        record("a", 0, True, 1.5)
    with pytest.raises(ConfigError, match="not a duration"):
        record("a", 0, True, 1.0, float("nan"))


def test_paired_difference_by_hand():
    # a: pairs on seeds 0..2, differences 0, +1, +1; b: seed 0, difference -1. Mean of task means: (2/3 - 1) / 2 = -1/6.
    left = [
        record("a", 0, True),
        record("a", 1, False),
        record("a", 2, False),
        record("a", 9, True),
        record("b", 0, True),
    ]
    right = [
        record("a", 0, True),
        record("a", 1, True),
        record("a", 2, True),
        record("b", 0, False),
        record("c", 0, True),
    ]
    found = paired_difference(left, right)
    assert found.difference.value == pytest.approx(-1 / 6)
    assert (found.pairs, found.unpaired) == (4, 2)
    assert found.difference.low <= found.difference.value <= found.difference.high
    assert paired_difference(right, left).difference.value == pytest.approx(1 / 6)


def test_pairing_is_narrower_than_two_separate_intervals():
    left = [record("a", seed, seed % 2 == 0) for seed in range(100)]
    right = [record("a", seed, seed % 2 == 0 or seed % 10 == 1) for seed in range(100)]
    paired = paired_difference(left, right).difference
    assert paired.value == pytest.approx(0.1)
    assert paired.low > 0
    assert score(left, HORIZONS).average.success.high > score(right, HORIZONS).average.success.low


def test_paired_difference_needs_common_attempts():
    with pytest.raises(ConfigError, match="same seeds"):
        paired_difference([record("a", 0, True)], [record("a", 1, True)])


def test_records_come_back_as_written(tmp_path: Path):
    write_records(tmp_path / "r.json", records())
    assert read_records(tmp_path / "r.json") == records()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, r"schema: expected 1, got 2.*another version"),
        ({"extra": 1}, "extra: unknown field"),
        ({"records": [{"task": "a"}]}, r"records\[0\].seed: is missing"),
        ({"records": {}}, "records: expected a list"),
    ],
)
def test_reader_refuses_what_does_not_fit(tmp_path: Path, change: dict[str, object], message: str):
    path = tmp_path / "r.json"
    write_records(path, records())
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ResultError, match=message):
        read_records(path)


def test_reader_refuses_nan_and_half_a_file(tmp_path: Path):
    path = tmp_path / "r.json"
    path.write_text('{"schema": 1, "records": [{"task": "a", "cycle_time_s": NaN}]}')
    with pytest.raises(ResultError, match="NaN"):
        read_records(path)
    path.write_text('{"schema": 1, "records": [')
    with pytest.raises(ResultError, match="not valid JSON"):
        read_records(path)
    with pytest.raises(ResultError, match="cannot be read"):
        read_records(tmp_path / "none.json")
