"""Numbers of a running process: counted once, shown twice, on a Prometheus endpoint and in `lwd status`.

`prometheus-client` is optional (extra `fleet`): without it a robot still reports its numbers in its status.
"""

from __future__ import annotations

import math
import re
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lwd.errors import ConfigError
from lwd.log.checks import check_port

BUCKETS_S = (
    0.002,
    0.005,
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.3,
    0.5,
    1.0,
    2.0,
    5.0,
    10.0,
    30.0,
    60.0,
    150.0,
    600.0,
)
"""Buckets of latency histograms, from a policy server's to the paper's P50 and P99 of an episode, 41 s and 148 s."""
_KEPT = 4096
_OTHER = re.compile(r"[^a-zA-Z0-9_]")


@dataclass
class Latency:
    """One latency: a histogram for Prometheus, and quantiles of the newest few thousand for the status."""

    newest: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    counts: list[int] = field(default_factory=lambda: [0] * len(BUCKETS_S))
    count: int = 0
    total_s: float = 0.0

    def quantile(self, q: float) -> float | None:
        """The smallest of the newest values that a share `q` of them do not exceed, in seconds; None before the first."""
        values = sorted(self.newest)
        return values[max(math.ceil(q * len(values)) - 1, 0)] if values else None


class Telemetry:
    """Gauges, counters and latencies by name. Thread-safe. Names are Prometheus names without the prefix `lwd_`.

    Args:
        labels: put on everything, such as the process's name and role.
    """

    def __init__(self, labels: Mapping[str, str]) -> None:
        self.labels = dict(labels)
        self._guard = threading.Lock()
        self._gauges: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._counters: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._latencies: dict[str, Latency] = {}

    def gauge(self, name: str, value: float | int, **labels: str) -> None:
        """Set a value. Characters that Prometheus does not allow in a name, as in "success/average", become "_"."""
        with self._guard:
            self._gauges[_OTHER.sub("_", name), tuple(sorted(labels.items()))] = value

    def drop(self, name: str, **labels: str) -> None:
        """Show a gauge no longer: what it was about is gone."""
        with self._guard:
            self._gauges.pop((_OTHER.sub("_", name), tuple(sorted(labels.items()))), None)

    def count(self, name: str, by: float | int = 1, **labels: str) -> None:
        """Add to a counter."""
        key = name, tuple(sorted(labels.items()))
        with self._guard:
            self._counters[key] = self._counters.get(key, 0.0) + by

    def observe(self, name: str, seconds: Sequence[float | int]) -> None:
        """Add latencies in seconds. What a jumped clock makes negative counts as 0."""
        with self._guard:
            latency = self._latencies.setdefault(name, Latency())
            for raw in seconds:
                value = max(raw, 0.0)
                latency.newest.append(value)
                latency.count += 1
                latency.total_s += value
                for i, bound in enumerate(BUCKETS_S):
                    latency.counts[i] += value <= bound

    def summary(self) -> dict[str, Any]:
        """For the status: counters, with labels as in "name.value", and P50 and P99 of each latency over its newest values."""
        with self._guard:
            found: dict[str, Any] = {
                ".".join([name, *(value for _, value in labels)]): count
                for (name, labels), count in self._counters.items()
            }
            for name, latency in self._latencies.items():
                found[name] = {
                    "count": latency.count,
                    "p50_s": latency.quantile(0.5),
                    "p99_s": latency.quantile(0.99),
                }
            return found

    def collect(self) -> list[Any]:
        """For `prometheus_client`: everything as metric families."""
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
            Metric,
        )

        names, values = list(self.labels), list(self.labels.values())
        families: dict[str, Metric] = {}
        with self._guard:
            for (name, extra), value in self._gauges.items():
                gauge = families.setdefault(
                    name, GaugeMetricFamily(f"lwd_{name}", name, labels=[*names, *(k for k, _ in extra)])
                )
                gauge.add_metric([*values, *(v for _, v in extra)], value)  # pyright: ignore[reportAttributeAccessIssue]
            for (name, extra), value in self._counters.items():
                counter = families.setdefault(
                    name, CounterMetricFamily(f"lwd_{name}", name, labels=[*names, *(k for k, _ in extra)])
                )
                counter.add_metric([*values, *(v for _, v in extra)], value)  # pyright: ignore[reportAttributeAccessIssue]
            for name, latency in self._latencies.items():
                histogram = HistogramMetricFamily(f"lwd_{name}", name, labels=names)
                buckets = [(str(b), float(c)) for b, c in zip(BUCKETS_S, latency.counts, strict=True)]
                buckets.append(("+Inf", float(latency.count)))
                histogram.add_metric(values, buckets, latency.total_s)
                families[name] = histogram
        return list(families.values())

    def serve(self, port: int, address: str = "127.0.0.1") -> Any:
        """Answer `http://address:port/metrics`; the server, with a method `shutdown`.

        Raises:
            ConfigError: `prometheus-client` is not installed, the port is none or taken.
        """
        check_port("--metrics-port", port, 1)
        try:
            from prometheus_client import CollectorRegistry, start_http_server
        except ImportError as error:
            raise ConfigError("--metrics-port needs prometheus-client; pip install 'lwd[fleet]'.") from error
        registry = CollectorRegistry()
        registry.register(self)  # pyright: ignore[reportArgumentType]
        try:
            server, _ = start_http_server(port, address, registry)
        except OSError as error:
            raise ConfigError(
                f"the metrics port {address}:{port} cannot be opened: {error.strerror or error}. Choose another "
                "--metrics-port."
            ) from error
        return server
