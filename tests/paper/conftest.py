import jax
import pytest


@pytest.fixture(scope="module")
def quick_compilation():
    """Without XLA's optimiser: it costs more than it gains where many functions are compiled to run once."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
