import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Most of these tests' time is compilation of small functions that run once; XLA's optimiser gains nothing there."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
