"""The advantage-conditioned policy: its base where nothing was learned, and guidance by its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwd.baselines.conditioned import NEGATIVE, POSITIVE, AdvantagePolicy, Told, guided, unconditioned
from lwd.learner.flow import draw_chunk, sample_chunk
from lwd.learner.method import act
from lwd.models.protocols import ChunkSampler, Policy
from tests.paper.paper_examples import random_batch, tiny_policy

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY, BASE = jax.random.key(5), tiny_policy(0)
OBSERVATION = jax.tree.map(lambda x: x[0], random_batch(7, 3).observation)
SHAPE, FLOW_STEPS = (2, 2), 3
LEARNED = jnp.asarray(np.random.default_rng(1).normal(size=(2, 8)), jnp.float32)


def sampled(policy):
    assert isinstance(policy, ChunkSampler)
    return act(policy, OBSERVATION, KEY, SHAPE, FLOW_STEPS)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_with_embeddings_of_zero_it_is_the_reference(guidance):
    expected = draw_chunk(BASE, OBSERVATION, KEY, SHAPE, FLOW_STEPS)
    np.testing.assert_allclose(sampled(unconditioned(BASE, guidance)), expected, atol=1e-6)


def test_guidance_by_hand():
    without, told = jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 2.0]])
    for strength, expected in ((0.0, [1.0, 2.0]), (1.0, [3.0, 2.0]), (2.0, [5.0, 2.0])):
        np.testing.assert_allclose(guided(without, told, strength), [expected])


def test_it_acts_as_if_told_that_the_action_is_good():
    policy = AdvantagePolicy(BASE, LEARNED, 1.0)
    noise = jax.random.normal(KEY, SHAPE)
    told = sample_chunk(Told(BASE, LEARNED[POSITIVE]), OBSERVATION, noise, FLOW_STEPS)
    np.testing.assert_allclose(sampled(policy), told, atol=1e-6)
    assert np.any(np.abs(told - sample_chunk(BASE, OBSERVATION, noise, FLOW_STEPS)) > 1e-3)


def test_guidance_extrapolates_every_velocity():
    policy = AdvantagePolicy(BASE, 0.1 * LEARNED, 2.0)

    class Extrapolated:
        def encode(self, observation):
            return BASE.encode(observation)

        def velocity(self, context, a_w, w):
            told = BASE.velocity(context + 0.1 * LEARNED[POSITIVE], a_w, w)
            return 2.0 * told - BASE.velocity(context, a_w, w)

    expected = sample_chunk(Extrapolated(), OBSERVATION, jax.random.normal(KEY, SHAPE), FLOW_STEPS)
    np.testing.assert_allclose(sampled(policy), expected, atol=1e-5)


def test_an_indicator_that_is_hidden_adds_nothing():
    policy = AdvantagePolicy(BASE, LEARNED, 1.0)
    assert isinstance(policy.told(jnp.bool_(True), jnp.bool_(True)), Policy)
    for positive, row in ((True, POSITIVE), (False, NEGATIVE)):
        told = policy.told(jnp.bool_(positive), jnp.bool_(True))
        np.testing.assert_array_equal(told.embedding, LEARNED[row])
        hidden = policy.told(jnp.bool_(positive), jnp.bool_(False))
        np.testing.assert_array_equal(hidden.embedding, np.zeros(8))
