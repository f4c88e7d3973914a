"""Modules as named arrays: exact there and back, and every mismatch named."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwd.errors import SnapshotError
from lwd.learner.clone import CloneConfig, init_clone
from lwd.learner.optimizers import OptimizerConfig
from lwd.models.arrays import from_arrays, to_arrays
from lwd.models.mlp import MlpConfig, MlpPolicy, Normalizer

pytestmark = pytest.mark.usefixtures("quick_compilation")

SIZES = MlpConfig(proprio_dim=3, instruction_dim=2, chunk_steps=2, action_dim=2, width=4, depth=2, atoms=5)


@pytest.fixture(scope="module")
def policy():
    return MlpPolicy.init(jax.random.key(0), SIZES, Normalizer.identity(3))


@pytest.fixture(scope="module")
def blank(policy):
    return jax.tree.map(lambda x: jnp.zeros_like(x) if eqx.is_array(x) else x, policy)


def test_a_module_comes_back_exactly(policy, blank):
    arrays = to_arrays(policy)
    assert all(isinstance(a, np.ndarray) for a in arrays.values())
    back = from_arrays(blank, arrays, "snapshot 1")
    assert jax.tree.structure(back) == jax.tree.structure(policy)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(policy), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_names_are_paths_and_unique(policy):
    names = list(to_arrays(policy))
    assert {"normalizer.mean", "normalizer.scale"} <= set(names)
    assert len(names) == len(jax.tree.leaves(eqx.filter(policy, eqx.is_array)))


def test_a_whole_training_state_has_a_name_for_every_leaf(policy):
    """Optimiser states are tuples within tuples; were two paths alike, a leaf would be lost."""
    state = init_clone(
        CloneConfig(policy=OptimizerConfig(learning_rate=1e-3, decay_steps=1000), batch=2), policy
    )
    arrays = to_arrays(state)
    assert len(arrays) == len(jax.tree.leaves(eqx.filter(state, eqx.is_array)))
    back = from_arrays(state, arrays, "checkpoint")
    assert all(
        np.array_equal(a, b) for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True)
    )


def test_missing_unknown_misshapen_and_mistyped_leaves_are_all_named(policy, blank):
    arrays = to_arrays(policy)
    names = [name for name in arrays if not name.startswith("normalizer.")]
    gone, wide, typed = names[0], names[1], names[2]
    shape = arrays[gone].shape
    del arrays[gone]
    arrays["adapter.scale"] = np.zeros((7,), np.float32)
    arrays[wide] = np.zeros((9, 9), np.float32)
    arrays[typed] = arrays[typed].astype(np.float64)
    with pytest.raises(SnapshotError) as caught:
        from_arrays(blank, arrays, "snapshot 12")
    message = str(caught.value)
    expected = to_arrays(policy)
    assert message.startswith("snapshot 12 does not fit this model: ")
    assert f"missing {gone} {shape}" in message
    assert "unknown adapter.scale (7,)" in message
    assert f"{wide}: found float32 (9, 9), expected float32 {expected[wide].shape}" in message
    assert f"{typed}: found float64 {expected[typed].shape}, expected float32" in message


def test_what_the_template_holds_besides_arrays_stays(policy):
    class Named(eqx.Module):
        weight: jax.Array
        name: str = eqx.field(static=True)
        count: int

    back = from_arrays(Named(jnp.zeros(2), "a", 3), {"weight": np.ones(2, np.float32)}, "it")
    assert (back.name, back.count) == ("a", 3)
    np.testing.assert_array_equal(back.weight, [1.0, 1.0])
