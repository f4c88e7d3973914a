"""How long a piece of work keeps the processor, however busy the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable


def least_cpu_s(work: Callable[[], object], repeats: int) -> float:
    """Seconds of processor time that `work` takes, the least of so many times."""
    times: list[float] = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)
