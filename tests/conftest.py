"""Settings of the whole test run. JAX is not imported here: most of lwd, and its tests, run without it."""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from servers import (  # noqa: F401 - fixtures
    nats_process,
    nats_server,
    own_nats_server,
    own_postgres_server,
    postgres_server,
    s3_server,
)

# Read by JAX when it is first imported: tests run on the CPU, and take no memory that they do not use.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

# Compiling is most of what the tests cost: no process compiles what another one has, in this run or an earlier one.
# An entry is named by the hash of its program, compiler and flags; one that a killed process left torn is compiled again.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

# `pytest --hypothesis-profile=nightly`: for tests that can go on for hours.
settings.register_profile("nightly", max_examples=2000, deadline=None)


LONGEST_FIRST = (
    "test_fast_tier_learns.py",
    "test_vla_in_the_fleet.py",
    "test_many_processes.py",
    "test_learner_hosts.py",
    "test_trainable.py",
    "test_vla_stages.py",
    "test_baselines.py",
    "test_ogbench.py",
    "test_networked_fleet.py",
    "test_together.py",
    "test_sharding.py",
)
"""Files of a minute and more. What runs last runs alone: a long file that begins late keeps the other worker waiting."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the others in the (random) order that they are in; needs `--no-loadscope-reorder`."""
    rank = {name: i for i, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


MOST_MAPPINGS = 12_000
"""Memory mappings of a test process at which it forgets what XLA has compiled; Linux allows 65,530."""


@pytest.fixture(autouse=True, scope="module")
def forget_compiled_functions() -> Iterator[None]:
    """Each compiled function holds a few mappings as long as its process lives; without any left, the compiler crashes."""
    yield
    mappings = Path("/proc/self/maps")
    if "jax" in sys.modules and mappings.exists():
        with mappings.open("rb") as lines:
            count = sum(1 for _ in lines)
        if count > MOST_MAPPINGS:
            sys.modules["jax"].clear_caches()
            gc.collect()


@pytest.fixture(scope="module")
def quick_compilation():
    """Without XLA's optimiser: it costs more than it gains where many functions are compiled to run once."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
