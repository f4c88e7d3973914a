"""The policy in NumPy is the policy in JAX: the same velocities, and a snapshot that does not fit is refused by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwd.errors import SnapshotError
from lwd.learner.best_of_n import BestOfNPolicy
from lwd.learner.divl import pessimistic_q
from lwd.models.arrays import to_arrays
from lwd.models.mlp import MlpConfig, Normalizer
from lwd.robot.state_policy import StatePolicy
from lwd.spec import RobotSpec
from lwd.transition import Observation

SPEC = RobotSpec(name="line", proprio_dim=3, action_dim=2, control_hz=10.0, chunk_steps=4)
META = {
    "robot_spec": "line",
    "model": "mlp",
    "acting": "MlpPolicy",
    "chunk_steps": 4,
    "instruction_encoder": "words-1",
    "depth": 3,
    "flow_steps": 5,
}


CONFIG = MlpConfig(
    proprio_dim=3, instruction_dim=5, chunk_steps=4, action_dim=2, width=16, depth=3, atoms=7, policy_width=24
)
NORMALIZER = Normalizer(jnp.array([0.1, -0.2, 3.0]), jnp.array([0.5, 2.0, 0.01]))


def loud(network, seed):
    """Large weights everywhere, biases too: a new network is too near zero to tell two functions apart."""
    keys = iter(jax.random.split(jax.random.key(seed), 64))
    return jax.tree.map(
        lambda leaf: leaf + 0.3 * jax.random.normal(next(keys), leaf.shape) if leaf.ndim else leaf, network
    )


@pytest.fixture(scope="module")
def module():
    return loud(CONFIG.make_policy(jax.random.key(1), NORMALIZER), 2)


@pytest.fixture(scope="module")
def arrays(module):
    return to_arrays(module)


def make(arrays, **changes):
    return StatePolicy(arrays, META | changes, SPEC, "words-1", "snapshot 7")


def test_its_velocity_is_that_of_the_jax_policy(module, arrays):
    rng = np.random.default_rng(0)
    for _ in range(5):
        proprio, text = rng.normal(size=3).astype(np.float32), rng.normal(size=5).astype(np.float32)
        a, w = rng.normal(size=(3, 4, 2)).astype(np.float32), float(rng.uniform())
        context = module.encode(Observation(jnp.asarray(proprio), jnp.asarray(text), {}))
        wanted = [np.asarray(module.velocity(context, jnp.asarray(one), jnp.float32(w))) for one in a]
        found = make(arrays).velocity(proprio, text)(a, w)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
        assert np.abs(wanted).max() > 0.1  # something to compare


def test_a_chunk_is_the_euler_integral_of_its_noise_clipped(arrays):
    policy, proprio, text = make(arrays), np.ones(3, np.float32), np.zeros(5, np.float32)
    a = np.random.default_rng([11, 2, 13]).standard_normal((4, 2)).astype(np.float32)
    velocity = policy.velocity(proprio, text)
    for i in range(5):
        a = a + velocity(a[None], i / 5)[0] / 5
    chunk = policy.chunk(proprio, text, seed=11, chunk_index=2)
    np.testing.assert_allclose(chunk, np.clip(a, -1, 1), rtol=1e-5, atol=1e-6)
    assert chunk.dtype == np.float32
    assert np.abs(a).max() > 1 > np.abs(a).min()  # the clip is seen to act, and not everywhere
    assert not np.array_equal(chunk, policy.chunk(proprio, text, seed=11, chunk_index=3))
    assert not np.array_equal(chunk, policy.chunk(proprio, text, seed=12, chunk_index=2))


@pytest.fixture(scope="module")
def choosing(module):
    critic = loud(CONFIG.make_critic(jax.random.key(3), NORMALIZER, CONFIG.atoms), 4)
    return BestOfNPolicy(module, critic, 6)


CHOOSING = {"acting": "BestOfNPolicy", "chunks": 6}


def test_it_values_chunks_as_the_jax_critic_does(choosing):
    policy, rng = make(to_arrays(choosing), **CHOOSING), np.random.default_rng(1)
    for _ in range(5):
        proprio, text = rng.normal(size=3).astype(np.float32), rng.normal(size=5).astype(np.float32)
        chunks = rng.uniform(-1, 1, (9, 4, 2)).astype(np.float32)
        seen = Observation(jnp.asarray(proprio), jnp.asarray(text), {})
        wanted = [float(pessimistic_q(choosing.critic, seen, jnp.asarray(chunk))) for chunk in chunks]
        np.testing.assert_allclose(policy.values(proprio, text, chunks), wanted, rtol=1e-4, atol=1e-5)
        assert np.ptp(wanted) > 0.05  # something to choose by


def test_it_executes_the_chunk_that_the_critic_values_most(choosing, arrays):
    chooses, proprio, text = (
        make(to_arrays(choosing), **CHOOSING),
        np.ones(3, np.float32),
        np.ones(5, np.float32),
    )
    a = np.random.default_rng([11, 2, 13]).standard_normal((6, 4, 2)).astype(np.float32)
    velocity = chooses.velocity(proprio, text)
    for i in range(5):
        a = a + velocity(a, i / 5) / 5
    a = np.clip(a, -1, 1)
    seen = Observation(jnp.asarray(proprio), jnp.asarray(text), {})
    best = int(np.argmax([float(pessimistic_q(choosing.critic, seen, jnp.asarray(chunk))) for chunk in a]))
    assert best > 0, "the first chunk is what a robot that does not choose executes"
    found = chooses.chunk(proprio, text, seed=11, chunk_index=2)
    np.testing.assert_allclose(found, a[best], rtol=1e-4, atol=1e-5)
    alone = make(arrays).chunk(proprio, text, seed=11, chunk_index=2)
    np.testing.assert_allclose(alone, a[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("critic.heads.layers.0.weight", "shape"),
        ("critic.heads.layers.0.bias", "shape"),
        ("critic.heads.out.bias", "shape"),
        ("policy.out.weight", "shape"),
        ("critic.normalizer.mean", "shape"),
    ],
)
def test_a_critic_that_does_not_fit_is_refused_by_name(choosing, name, said):
    bent = to_arrays(choosing)
    bent[name] = np.zeros((2, *bent[name].shape), np.float32)
    with pytest.raises(SnapshotError, match=said) as error:
        make(bent, **CHOOSING)
    assert name.rpartition(".")[0] in str(error.value)
    del bent[name]
    with pytest.raises(SnapshotError, match=f"{name}' is missing"):
        make(bent, **CHOOSING)


@pytest.mark.parametrize("chunks", [None, 0, 1.0, True, 1001])
def test_how_many_chunks_to_choose_from_is_checked(choosing, chunks):
    with pytest.raises(SnapshotError, match="expected a whole number from 1 to 1000"):
        make(to_arrays(choosing), **(CHOOSING | {"chunks": chunks}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"robot_spec": "other"}, "robot_spec 'other'"),
        ({"acting": "BestOfN"}, "acting 'BestOfN'"),
        ({"instruction_encoder": "words-2"}, "instruction_encoder 'words-2'"),
        ({"chunk_steps": 8}, "chunk_steps 8"),
        ({"depth": True}, "depth True"),
        ({"flow_steps": 0}, "flow_steps 0"),
        ({"depth": 4}, "'hidden.2.weight' is missing"),
    ],
)
def test_a_snapshot_for_something_else_is_refused_by_name(arrays, changes, said):
    with pytest.raises(SnapshotError, match="snapshot 7") as error:
        make(arrays, **changes)
    assert said in str(error.value)


@pytest.mark.parametrize("name", ["normalizer.mean", "act.weight", "hidden.1.bias", "out.weight"])
def test_a_misshapen_or_missing_array_is_refused_by_name(arrays, name):
    bent = dict(arrays)
    bent[name] = np.zeros((2, *arrays[name].shape), np.float32)
    with pytest.raises(SnapshotError, match=name):
        make(bent)
    del bent[name]
    with pytest.raises(SnapshotError, match=f"{name}' is missing"):
        make(bent)
