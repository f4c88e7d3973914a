"""pi0.5 as a policy: against a written-out reference, with and without its cache, and as the learner uses it."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from vla_examples import (
    MEAN,
    PI0_SIZES,
    SCALE,
    SIZES,
    noise,
    observation,
    policy,
    relative_error,
    sampled,
    velocity,
)
from written_out import WrittenOut

from lwd.errors import ConfigError
from lwd.learner.flow import flow_matching_loss
from lwd.learner.qam import QamConfig, adjoint_matching_loss
from lwd.models.arrays import named_leaves
from lwd.models.mlp import MlpConfig, MlpCritic, Normalizer
from lwd.models.protocols import Policy
from lwd.models.vla.config import DUMMY, PI0, PI05, GemmaConfig
from lwd.models.vla.pi05 import PiPolicy, time_embedding
from lwd.models.weights.openpi_layout import openpi
from lwd.models.weights.rules import write_from

pytestmark = pytest.mark.usefixtures("quick_compilation")


class Naive(eqx.Module):
    """The same network without a cache: every velocity computes the prefix again."""

    policy: PiPolicy

    def encode(self, observation):
        return observation

    def velocity(self, context, a_w, w):
        return self.policy.velocity(self.policy.encode(context), a_w, w)


@pytest.fixture(scope="module")
def pi05():
    return policy()


def their_view(config, seen):
    pictures = [np.asarray(seen.images[c], np.float64) / 255.0 * 2.0 - 1.0 for c in ("left", "right")]
    return pictures, np.asarray(seen.prompts[config.prompt])


def test_it_is_what_the_learner_asks_for(pi05):
    assert isinstance(pi05, Policy)


@pytest.mark.parametrize("w", [0.0, 0.7])
def test_the_velocity_is_that_of_the_written_out_network(pi05, w):
    reference = WrittenOut(SIZES, write_from(pi05, openpi(SIZES)))
    seen, a_w = observation(), noise()
    found = velocity(pi05, seen, a_w, jnp.float32(w))
    expected = reference.velocity(*their_view(SIZES, seen), np.asarray(a_w, np.float64), 1.0 - w)
    assert relative_error(found, -expected) < 1e-4


def test_the_sampled_chunk_is_that_of_the_written_out_network(pi05):
    reference = WrittenOut(SIZES, write_from(pi05, openpi(SIZES)))
    seen, start = observation(), noise()
    found = sampled(pi05, seen, start, 3)
    assert relative_error(found, reference.sample(*their_view(SIZES, seen), start, 3)) < 1e-4


def test_pi0_by_its_openpi_names_is_the_written_out_network():
    pi0 = policy(PI0_SIZES)
    reference = WrittenOut(PI0_SIZES, write_from(pi0, openpi(PI0_SIZES)))
    seen, a_w = observation(PI0_SIZES), noise()
    state = np.zeros(PI0_SIZES.action_dim)
    state[:3] = (np.asarray(seen.proprio) - MEAN) / SCALE
    found = velocity(pi0, seen, a_w, jnp.float32(0.4))
    expected = reference.velocity(*their_view(PI0_SIZES, seen), np.asarray(a_w, np.float64), 0.6, state)
    assert relative_error(found, -expected) < 1e-4


def test_sampling_with_and_without_the_cache_is_equal(pi05):
    seen, start = observation(), noise()
    assert relative_error(sampled(pi05, seen, start, 3), sampled(Naive(pi05), seen, start, 3)) < 1e-5


def test_gradients_of_qam_with_the_reused_prefix_equal_the_naive_ones(pi05):
    sizes = MlpConfig(
        proprio_dim=3, instruction_dim=1, chunk_steps=4, action_dim=6, width=8, depth=2, atoms=5
    )
    critic = MlpCritic.init(jax.random.key(7), sizes, Normalizer.identity(3))
    reference, paths = policy(seed=5), jax.random.normal(jax.random.key(8), (3, 4, 6))
    config = QamConfig(flow_steps=3)

    @eqx.filter_jit
    def gradients(flow, reference):
        loss = lambda f: adjoint_matching_loss(f, reference, critic, observation(), paths, config)[0]  # noqa: E731
        return eqx.filter_value_and_grad(loss)(flow)

    loss, reused = gradients(pi05, reference)
    naive_loss, naive = gradients(Naive(pi05), Naive(reference))
    assert relative_error(loss, naive_loss) < 1e-4
    ours, theirs = jax.tree.leaves(reused), jax.tree.leaves(naive.policy)
    largest = max(float(jnp.abs(g).max()) for g in theirs)
    assert all(float(jnp.abs(a - b).max()) < 1e-4 * largest for a, b in zip(ours, theirs, strict=True))
    for part in (reused.vision, reused.tokens, reused.language.layers, reused.expert, reused.time):
        assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(part)) > 1e-6 * largest


def test_padding_and_missing_cameras_change_nothing(pi05):
    """A longer padding, or a prompt cut to what is written, gives the same velocity; another word does not."""
    seen, a_w = observation(), noise()
    words = seen.prompts["words"]
    velocities = [
        velocity(pi05, seen._replace(prompts={"words": w}), a_w, jnp.float32(0.3))
        for w in (words, words[:5], words.at[0].set(1 + words[0] % 60))
    ]
    assert relative_error(velocities[1], velocities[0]) < 1e-5
    assert relative_error(velocities[2], velocities[0]) > 1e-3


def test_a_narrow_chunk_is_padded_with_zeros_and_cut_back(pi05):
    a_w = noise().at[:, 4:].set(0.0)
    wide, narrow = (velocity(pi05, observation(), a, jnp.float32(0.3)) for a in (a_w, a_w[:, :4]))
    assert np.allclose(narrow, wide[:, :4], atol=1e-6)


@pytest.mark.parametrize("parameters", ["float32", "bfloat16"])
def test_bfloat16_stays_inside(pi05, parameters):
    """Velocities come out in float32 and near those of float32; statistics are never rounded."""
    config = dataclasses.replace(SIZES, parameters=parameters, compute="bfloat16")
    keep = {"float32": lambda x: x, "bfloat16": lambda x: x.astype("bfloat16")}[parameters]
    rounded = jax.tree.map(keep, dataclasses.replace(pi05, config=config))
    rounded = eqx.tree_at(lambda p: p.normalizer, rounded, pi05.normalizer)
    fresh = eqx.filter_eval_shape(PiPolicy.init, jax.random.key(0), config, pi05.normalizer)
    assert fresh.normalizer.mean.dtype == jnp.float32
    assert {leaf.dtype for leaf in named_leaves(fresh.language).values()} == {jnp.dtype(parameters)}
    assert jax.eval_shape(rounded.encode, observation()).past.keys.dtype == jnp.bfloat16
    found = velocity(rounded, observation(), noise(), jnp.float32(0.3))
    assert found.dtype == jnp.float32
    exact = velocity(pi05, observation(), noise(), jnp.float32(0.3))
    assert 1e-6 < relative_error(found, exact) < 0.1


def test_recomputed_activations_give_the_same_gradients(pi05):
    seen, chunk, valid = observation(), jnp.clip(noise(), -1.0, 1.0), jnp.ones(4, bool)

    def gradient(config):
        flow = dataclasses.replace(pi05, config=config)
        return eqx.filter_jit(eqx.filter_grad(flow_matching_loss))(
            flow, seen, chunk, valid, jax.random.key(3)
        )

    plain, again = gradient(SIZES), gradient(dataclasses.replace(SIZES, remat=True))
    largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(plain))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        assert np.allclose(a, b, atol=1e-5 * largest)


def test_the_time_embedding_by_hand():
    """Two periods for width 4: 0.004 and 4. At t = 1 the first is a whole number of turns, the second a quarter."""
    assert np.allclose(time_embedding(jnp.float32(1.0), 4), [0.0, 1.0, 1.0, 0.0], atol=2e-3)
    assert np.allclose(time_embedding(jnp.float32(0.001), 4), [1.0, 0.00157, 0.0, 1.0], atol=1e-4)


@pytest.mark.parametrize(("config", "billions"), [(PI05, 3.353), (PI0, 3.238)])
def test_the_published_sizes_have_the_published_number_of_parameters(config, billions):
    shapes = eqx.filter_eval_shape(PiPolicy.init, jax.random.key(0), config, Normalizer.identity(1))
    leaves = [leaf for leaf in jax.tree.leaves(shapes) if isinstance(leaf, jax.ShapeDtypeStruct)]
    assert round(sum(leaf.size for leaf in leaves) / 1e9, 3) == billions


def test_what_is_refused(pi05):
    with pytest.raises(ConfigError, match="share attention, so their depth"):
        dataclasses.replace(
            DUMMY, expert=GemmaConfig(width=32, depth=3, mlp=64, heads=4, kv_heads=1, head_dim=16)
        )
    with pytest.raises(ConfigError, match="no prompt 'words'"):
        pi05.encode(observation()._replace(prompts=None))
    with pytest.raises(ConfigError, match="pictures of wrist, the network knows left, middle, right"):
        pi05.encode(observation(cameras=("left", "wrist")))


def test_a_chunk_that_is_wider_than_the_policys_vector_is_refused(pi05):
    with pytest.raises(ConfigError, match="has 9 action coordinates, the policy's vector has 6"):
        velocity(pi05, observation(), jnp.zeros((4, 9)), jnp.float32(0.3))


def test_a_new_policy_starts_near_velocity_zero():
    fresh = eqx.filter_jit(PiPolicy.init)(jax.random.key(0), SIZES, Normalizer.identity(3))
    assert float(jnp.abs(velocity(fresh, observation(), noise(), jnp.float32(0.5))).max()) < 1.0
