"""What is counted is what is shown: histograms and quantiles by hand, and the endpoint over real HTTP."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families
from servers import free_port

from lwd.errors import ConfigError
from lwd.fleet.telemetry import BUCKETS_S, Latency, Telemetry


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry({"process": "learner", "role": "learner"})


@contextmanager
def served(telemetry: Telemetry) -> Iterator[str]:
    port = free_port()
    server = telemetry.serve(port)
    try:
        yield f"http://127.0.0.1:{port}/metrics"
    finally:
        server.shutdown()
        server.server_close()


def scrape(url: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Samples by name and labels."""
    text = urllib.request.urlopen(url, timeout=10).read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_quantiles_are_values_that_were_seen(telemetry: Telemetry) -> None:
    telemetry.observe("episode_sampleable_seconds", [float(i) for i in range(1, 101)])
    found = telemetry.summary()["episode_sampleable_seconds"]
    assert found == {"count": 100, "p50_s": 50.0, "p99_s": 99.0}
    telemetry.observe("one", [0.25])
    assert telemetry.summary()["one"] == {"count": 1, "p50_s": 0.25, "p99_s": 0.25}
    assert Latency().quantile(0.5) is None


def test_buckets_hold_what_does_not_exceed_them(telemetry: Telemetry) -> None:
    telemetry.observe("late_seconds", [0.05, 0.06, 0.5, 3.0, 1000.0])
    with served(telemetry) as url:
        found = scrape(url)
    labels = (("process", "learner"), ("role", "learner"))
    expected = {bound: sum(v <= bound for v in (0.05, 0.06, 0.5, 3.0, 1000.0)) for bound in BUCKETS_S}
    assert (expected[0.05], expected[0.1], expected[0.5], expected[5.0], expected[600.0]) == (1, 2, 3, 4, 4)
    for bound, count in expected.items():
        assert found["lwd_late_seconds_bucket", tuple(sorted((("le", str(bound)), *labels)))] == count
    assert found["lwd_late_seconds_bucket", tuple(sorted((("le", "+Inf"), *labels)))] == 5
    assert found["lwd_late_seconds_count", labels] == 5
    assert found["lwd_late_seconds_sum", labels] == pytest.approx(1003.61)


def test_a_clock_that_jumped_counts_as_zero(telemetry: Telemetry) -> None:
    telemetry.observe("late_seconds", [-5.0, 1.0])
    assert telemetry.summary()["late_seconds"]["p50_s"] == 0.0


def test_gauges_and_counters_over_http(telemetry: Telemetry) -> None:
    telemetry.gauge("snapshot_lag", 3.0, robot="r1")
    telemetry.gauge("snapshot_lag", 0.0, robot="r2")
    telemetry.gauge("success/average", 0.75)
    telemetry.gauge("learner_step", 10.0)
    telemetry.gauge("learner_step", 20.0)
    telemetry.count("episodes_total")
    telemetry.count("episodes_total", 4.0)
    telemetry.count("guarded_steps_total", 3, reason="rate")
    telemetry.count("guarded_steps_total", 2, reason="stale")
    telemetry.count("guarded_steps_total", 1, reason="rate")
    labels = (("process", "learner"), ("role", "learner"))
    with served(telemetry) as url:
        found = scrape(url)
        telemetry.gauge("learner_step", 30.0)
        later = scrape(url)
    assert found["lwd_snapshot_lag", (*labels[:1], ("robot", "r1"), labels[1])] == 3
    assert found["lwd_snapshot_lag", (*labels[:1], ("robot", "r2"), labels[1])] == 0
    assert found["lwd_success_average", labels] == 0.75
    assert found["lwd_learner_step", labels] == 20
    assert found["lwd_episodes_total", labels] == 5
    for reason, count in (("rate", 4), ("stale", 2)):
        assert found["lwd_guarded_steps_total", tuple(sorted((("reason", reason), *labels)))] == count
        assert telemetry.summary()[f"guarded_steps_total.{reason}"] == count
    assert later["lwd_learner_step", labels] == 30


def test_a_taken_port_says_so(telemetry: Telemetry) -> None:
    with served(telemetry) as url, pytest.raises(ConfigError, match="--metrics-port"):
        Telemetry({}).serve(int(url.split(":")[2].split("/")[0]))


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_is_none_says_so(telemetry: Telemetry, port: int) -> None:
    with pytest.raises(ConfigError, match="expected 1 to 65535"):
        telemetry.serve(port)
