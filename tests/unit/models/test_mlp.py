"""The MLP policy and critic: shapes, what is encoded once, what is never trained, and what is refused."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwd.errors import ConfigError
from lwd.models.mlp import Linear, MlpConfig, MlpCritic, MlpPolicy, Normalizer, layer_norm
from lwd.models.protocols import Critic, Policy
from lwd.transition import Observation

CONFIG = MlpConfig(
    proprio_dim=4, instruction_dim=3, chunk_steps=2, action_dim=5, width=16, depth=3, heads=3, atoms=21
)
NORMALIZER = Normalizer(jnp.array([1.0, 0.0, -2.0, 0.5]), jnp.array([2.0, 1.0, 0.5, 1e-3]))
pytestmark = pytest.mark.usefixtures("quick_compilation")
OBSERVATION = Observation(jnp.array([0.2, 1.0, -1.8, 0.5]), jnp.array([0.1, -0.2, 0.3]), {})
CHUNK = jnp.linspace(-1.0, 1.0, 10).reshape(2, 5)


@pytest.fixture(scope="module")
def policy():
    return MlpPolicy.init(jax.random.key(0), CONFIG, NORMALIZER)


@pytest.fixture(scope="module")
def critic():
    return MlpCritic.init(jax.random.key(1), CONFIG, NORMALIZER)


def test_they_are_what_the_learner_asks_for(policy, critic):
    assert isinstance(policy, Policy)
    assert isinstance(critic, Critic)


def test_shapes(policy, critic):
    context = policy.encode(OBSERVATION)
    assert context.shape == (16,)
    assert policy.velocity(context, CHUNK, jnp.float32(0.3)).shape == (2, 5)
    assert (len(policy.hidden), len(critic.value.layers), len(critic.heads.layers)) == (2, 3, 3)
    z = critic.encode(OBSERVATION)
    assert z.shape == (7,)
    assert critic.value_logits(z).shape == (21,)
    assert critic.q(z, CHUNK).shape == (3,)


def test_first_velocities_are_near_zero_and_first_value_near_uniform(policy, critic):
    assert float(jnp.abs(policy.velocity(policy.encode(OBSERVATION), CHUNK, jnp.float32(0.5))).max()) < 0.5
    p = jax.nn.softmax(critic.value_logits(critic.encode(OBSERVATION)))
    assert float(p.max()) < 3 / 21


def test_the_encoding_is_all_that_the_policy_keeps_of_the_observation(policy):
    """One encoding serves every flow step: the velocity depends on the observation through it alone."""
    other = Observation(jnp.array([0.9, -1.0, -2.2, 0.5]), jnp.array([1.0, 0.0, 0.0]), {})
    contexts = [policy.encode(o) for o in (OBSERVATION, other)]
    velocities = [policy.velocity(c, CHUNK, jnp.float32(0.3)) for c in contexts]
    assert np.any(velocities[0] != velocities[1])
    np.testing.assert_array_equal(policy.velocity(contexts[0], CHUNK, jnp.float32(0.3)), velocities[0])
    # Written out from the weights: the observation is the pre-activation that the chunk and the time are added to.
    flat = jnp.append(CHUNK.ravel(), 0.3)
    x = jax.nn.gelu(contexts[0] + flat @ policy.act.weight + policy.act.bias)
    for layer in policy.hidden:
        x = jax.nn.gelu(x @ layer.weight + layer.bias)
    expected = (x @ policy.out.weight + policy.out.bias).reshape(2, 5)
    np.testing.assert_allclose(velocities[0], expected, rtol=1e-5, atol=1e-6)


def test_velocity_depends_on_chunk_and_time(policy):
    context = policy.encode(OBSERVATION)
    base = policy.velocity(context, CHUNK, jnp.float32(0.3))
    assert np.any(policy.velocity(context, CHUNK, jnp.float32(0.4)) != base)
    assert np.any(policy.velocity(context, CHUNK.at[1, 4].add(0.1), jnp.float32(0.3)) != base)


def test_normaliser_standardises_and_clips():
    got = NORMALIZER(jnp.array([3.0, -0.5, -2.0, 0.6]))  # the last is 100 scales away
    np.testing.assert_allclose(got, [1.0, -0.5, 0.0, 10.0], atol=1e-6)
    np.testing.assert_allclose(
        NORMALIZER(jnp.array([-1e6, 0.0, 0.0, 0.5])), [-10.0, 0.0, 4.0, 0.0], atol=1e-6
    )
    np.testing.assert_array_equal(Normalizer.identity(3)(jnp.array([1.0, -2.0, 3.0])), [1.0, -2.0, 3.0])


def test_normaliser_has_no_gradient(policy, critic):
    def output(networks):
        policy, critic = networks
        velocity = policy.velocity(policy.encode(OBSERVATION), CHUNK, jnp.float32(0.3))
        return jnp.sum(velocity) + jnp.sum(critic.q(critic.encode(OBSERVATION), CHUNK))

    policy_gradient, critic_gradient = eqx.filter_jit(eqx.filter_grad(output))((policy, critic))
    for leaf in jax.tree.leaves((policy_gradient.normalizer, critic_gradient.normalizer)):
        np.testing.assert_array_equal(leaf, 0.0)
    assert float(jnp.abs(policy_gradient.observe.weight).max()) > 0.0


def test_heads_are_independent_and_start_apart(critic):
    z = critic.encode(OBSERVATION)
    q = np.asarray(critic.q(z, CHUNK))
    assert len(set(q.tolist())) == 3
    jacobian = eqx.filter_jit(
        eqx.filter_jacrev(lambda heads: eqx.tree_at(lambda c: c.heads, critic, heads).q(z, CHUNK))
    )
    for leaf in jax.tree.leaves(jacobian(critic.heads)):  # [outputs, heads, ...]
        for j in range(3):
            np.testing.assert_array_equal(np.delete(leaf[j], j, axis=0), 0.0)
            assert np.any(leaf[j, j] != 0.0)
    moved = eqx.tree_at(lambda c: c.heads.out.bias, critic, critic.heads.out.bias.at[1].add(1.0))
    np.testing.assert_allclose(moved.q(z, CHUNK) - q, [0.0, 1.0, 0.0], atol=1e-5)


def test_value_and_critic_share_the_observation_and_nothing_else(critic):
    z = critic.encode(OBSERVATION)
    value = eqx.filter_grad(lambda c: jnp.sum(c.value_logits(c.encode(OBSERVATION)) ** 2))(critic)
    for leaf in jax.tree.leaves((value.heads, value.normalizer)):
        np.testing.assert_array_equal(leaf, 0.0)
    np.testing.assert_array_equal(z[-len(OBSERVATION.instruction) :], OBSERVATION.instruction)


def test_layer_norm():
    x = layer_norm(jnp.array([1.0, 2.0, 3.0, 6.0]))
    assert float(jnp.mean(x)) == pytest.approx(0.0, abs=1e-6)
    assert float(jnp.std(x)) == pytest.approx(1.0, abs=1e-4)
    np.testing.assert_array_equal(layer_norm(jnp.full(4, 3.0)), 0.0)


def test_linear_starts_within_the_xavier_bound():
    layer = Linear.init(jax.random.key(0), 30, 20, scale=0.5)
    bound = 0.5 * (6 / 50) ** 0.5
    assert 0.9 * bound < float(jnp.abs(layer.weight).max()) <= bound
    np.testing.assert_array_equal(layer.bias, 0.0)


@pytest.mark.parametrize(
    ("field", "value", "least"),
    [
        ("proprio_dim", 0, 1),
        ("instruction_dim", -1, 1),
        ("chunk_steps", 0, 1),
        ("action_dim", 0, 1),
        ("width", 0, 1),
        ("heads", 0, 1),
        ("depth", 1, 2),
        ("atoms", 0, 1),
        ("policy_width", 0, 1),
    ],
)
def test_config_errors(field, value, least):
    sizes = {"proprio_dim": 4, "instruction_dim": 3, "chunk_steps": 2, "action_dim": 5, field: value}
    with pytest.raises(ConfigError, match=rf"^MlpConfig\.{field} must be at least {least}, got {value}\.$"):
        MlpConfig(**sizes)


def test_the_policy_alone_can_be_wider():
    wide = replace(CONFIG, policy_width=24)
    policy = wide.make_policy(jax.random.key(0), NORMALIZER)
    assert [layer.weight.shape for layer in policy.hidden] == [(24, 24)] * 2
    critics = [config.make_critic(jax.random.key(1), NORMALIZER, 21) for config in (wide, CONFIG)]
    assert eqx.tree_equal(*critics)
    assert wide.describe()["width"] == 24
