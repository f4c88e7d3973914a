"""NumPy's global random state for those who draw from it: ogbench's oracles."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import numpy as np


@contextmanager
def global_random(seed: int) -> Generator[None]:
    """The global state seeded, and afterwards as it was for everybody else."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
