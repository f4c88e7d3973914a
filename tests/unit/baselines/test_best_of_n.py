"""Best of n: the chunk that the critic's lower head values most, the same for the same key."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwd.baselines.best_of_n import BestOfN
from lwd.errors import ConfigError
from lwd.learner.best_of_n import BestOfNPolicy
from lwd.learner.divl import pessimistic_q
from lwd.learner.flow import draw_chunk
from lwd.learner.method import Method, act
from lwd.models.arrays import from_arrays, to_arrays
from lwd.models.protocols import ChunkSampler
from tests.paper.paper_examples import (
    SIZES,
    assert_trees_equal,
    random_batch,
    tiny_config,
    tiny_critic,
    tiny_policy,
    trees_differ,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY, REFERENCE, CRITIC = jax.random.key(5), tiny_policy(0), tiny_critic(1)
METHOD = BestOfN(**vars(tiny_config()), n=4)
OBSERVATION = jax.tree.map(lambda x: x[0], random_batch(7, 3).observation)
SHAPE, FLOW_STEPS = (2, 2), 3


def chosen(n, key=KEY):
    return BestOfNPolicy(REFERENCE, CRITIC, n).sample(OBSERVATION, key, SHAPE, FLOW_STEPS)


def test_it_executes_the_chunk_with_the_highest_lower_head():
    drawn = [draw_chunk(REFERENCE, OBSERVATION, k, SHAPE, FLOW_STEPS) for k in jax.random.split(KEY, 6)]
    values = [float(pessimistic_q(CRITIC, OBSERVATION, chunk)) for chunk in drawn]
    assert len(set(values)) == 6
    np.testing.assert_allclose(chosen(6), drawn[int(np.argmax(values))], atol=1e-6)
    assert np.argmax(values) != np.argmin(values)


def test_the_same_key_gives_the_same_chunk_and_another_key_another():
    np.testing.assert_array_equal(chosen(4), chosen(4))
    assert np.any(chosen(4) != chosen(4, jax.random.key(6)))


def test_with_one_chunk_the_critic_has_no_say():
    (key,) = jax.random.split(KEY, 1)
    expected = draw_chunk(REFERENCE, OBSERVATION, key, SHAPE, FLOW_STEPS)
    np.testing.assert_allclose(chosen(1), expected, atol=1e-6)


def test_robots_run_the_reference_with_the_target_critic():
    assert isinstance(METHOD, Method)
    state = METHOD.start(REFERENCE, SIZES, KEY)
    state = eqx.tree_at(lambda s: s.target, state, CRITIC)
    acting = METHOD.acting(state)
    assert isinstance(acting, ChunkSampler)
    np.testing.assert_array_equal(act(acting, OBSERVATION, KEY, SHAPE, FLOW_STEPS), chosen(4))
    again = from_arrays(METHOD.acting(METHOD.start(REFERENCE, SIZES, KEY)), to_arrays(acting), "a snapshot")
    assert_trees_equal(again, acting)
    assert again.n == 4


def test_only_value_and_critic_learn():
    before = METHOD.start(REFERENCE, SIZES, KEY)
    after, metrics = eqx.filter_jit(METHOD.update(REFERENCE))(before, random_batch(8, 6), KEY)
    for part in ("policy", "acting_policy", "policy_opt"):
        assert_trees_equal(getattr(after, part), getattr(before, part))
    for part in ("critic", "target"):
        assert trees_differ(getattr(after, part), getattr(before, part))
    assert not any(name.startswith("policy/") for name in metrics)
    later = METHOD.continued(REFERENCE, after)
    assert_trees_equal((later.critic, later.target), (after.critic, after.target))
    assert jnp.all(later.step == 0)


def test_no_chunk_to_choose_from_is_refused():
    with pytest.raises(ConfigError, match=r"BestOfN\.n must be at least 1, got 0"):
        BestOfN(**vars(tiny_config()), n=0)
