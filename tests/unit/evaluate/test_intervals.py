"""Intervals against numbers worked out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lwd.errors import ConfigError
from lwd.evaluate.intervals import Estimate, bootstrap_means, percentile_interval, t_interval, wilson


def test_wilson_by_hand():
    # n = 10, p = 0.8, z = 1.95996: z^2 = 3.84146; scale = 1.384146; centre = 0.992073 / 1.384146 = 0.716740;
    # half = 1.95996 sqrt(0.016 + 0.00960365) / 1.384146 = 0.226577.
    found = wilson(8, 10)
    assert found.value == 0.8
    assert found.low == pytest.approx(0.490163, abs=2e-6)
    assert found.high == pytest.approx(0.943317, abs=2e-6)


def test_wilson_keeps_a_width_where_nothing_or_everything_succeeds():
    # At p = 1 the lower end is n / (n + z^2) = 20 / 23.84146.
    assert wilson(20, 20).low == pytest.approx(20 / 23.841459, abs=1e-6)
    assert wilson(20, 20).high == 1.0
    assert wilson(0, 20).low == 0.0
    assert wilson(0, 20).high == pytest.approx(1 - 20 / 23.841459, abs=1e-6)


@pytest.mark.parametrize(("successes", "episodes"), [(1, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_impossible_counts(successes: int, episodes: int):
    with pytest.raises(ConfigError, match="wilson"):
        wilson(successes, episodes)


def test_bootstrap_follows_the_exact_distribution_of_three_values():
    # All 27 equally likely samples of three out of {0, 1, 5} can be listed.
    values = np.array([[0.0], [1.0], [5.0]])
    exact = sorted(np.mean(sample) for sample in itertools.product([0.0, 1.0, 5.0], repeat=3))
    draws = bootstrap_means(values, seed=0, stratum="t", resamples=40_000)[:, 0]
    for mean in sorted(set(np.round(exact, 9))):
        share = np.mean(np.isclose(exact, mean))
        # 5 standard errors of a share over 40,000 draws: false alarms under 1e-5.
        assert np.mean(np.isclose(draws, mean)) == pytest.approx(share, abs=5 * np.sqrt(share / 40_000))


def test_bootstrap_depends_on_seed_and_stratum_only():
    values = np.random.default_rng(0).random((30, 2))
    a = bootstrap_means(values, seed=1, stratum="restock")
    assert np.array_equal(a, bootstrap_means(values, seed=1, stratum="restock"))
    assert not np.array_equal(a, bootstrap_means(values, seed=2, stratum="restock"))
    assert not np.array_equal(a, bootstrap_means(values, seed=1, stratum="rearrange"))


def test_bootstrap_of_many_normals_has_the_textbook_width():
    values = np.random.default_rng(3).normal(size=(2000, 1))
    found = percentile_interval(float(values.mean()), bootstrap_means(values, seed=0, stratum="t")[:, 0])
    expected = 2 * 1.96 * values.std() / np.sqrt(2000)
    assert found.high - found.low == pytest.approx(expected, rel=0.06)


def test_bootstrap_of_equal_values_is_a_point_and_never_excludes_it():
    draws = bootstrap_means(np.full((7, 1), 0.1), seed=0, stratum="t")[:, 0]
    found = percentile_interval(0.1, draws)
    assert found.low <= 0.1 <= found.high
    assert found.high - found.low < 1e-12


def test_bootstrap_refuses_no_episodes():
    with pytest.raises(ConfigError, match="'restock': no episodes"):
        bootstrap_means(np.zeros((0, 3)), seed=0, stratum="restock")


def test_t_interval_by_hand():
    # mean 3, s = sqrt(2.5), n = 5, t = 2.7764: half = 2.7764 * 1.581139 / 2.236068 = 1.963212.
    found = t_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (found.value, found.low, found.high) == pytest.approx((3.0, 1.036788, 4.963212), abs=1e-5)


def test_t_interval_of_one_run_is_its_value():
    assert t_interval([0.7]) == Estimate(0.7, 0.7, 0.7)


def test_t_table_against_scipy():
    stats = pytest.importorskip("scipy.stats")
    for n in (2, 5, 31, 32):
        values = list(np.random.default_rng(n).random(n))
        half = stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)
        found = t_interval(values)
        # Beyond 30 degrees of freedom the normal stands in, 4 % narrower at most.
        assert found.high - found.value == pytest.approx(half, rel=1e-4 if n <= 31 else 0.05)
