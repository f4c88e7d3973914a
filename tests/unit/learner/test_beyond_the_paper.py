"""The options beyond the paper: a reference that goes on learning, and robots that choose among chunks."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwd.errors import ConfigError
from lwd.learner.best_of_n import BestOfNLwd, BestOfNPolicy, BestOfNRefitLwd
from lwd.learner.clone import CloneConfig
from lwd.learner.method import Lwd
from lwd.learner.optimizers import OptimizerConfig
from lwd.learner.refit import RefitLwd, exemplary_loss
from lwd.models.arrays import to_arrays
from lwd.models.mlp import MlpPolicy
from tests.paper.paper_examples import IDENTITY, SIZES, random_batch

pytestmark = pytest.mark.usefixtures("quick_compilation")

OPTIMIZER = OptimizerConfig(learning_rate=1e-3, decay_steps=100, warmup_steps=1)
SETTINGS = {"policy": OPTIMIZER, "critic": OPTIMIZER, "batch": 6, "policy_batch": 3}
METHOD = RefitLwd(reference=CloneConfig(policy=OPTIMIZER, policy_ema_rate=0.5), **SETTINGS)
REFERENCE = MlpPolicy.init(jax.random.key(0), SIZES, IDENTITY)
KEY = jax.random.key(1)


def same(one, other):
    a, b = to_arrays(one), to_arrays(other)
    return all(np.array_equal(a[name], b[name]) for name in a)


def test_only_exemplary_chunks_teach_the_reference():
    batch = random_batch(3, 6)
    none = batch._replace(exemplary=jnp.zeros(6, bool))
    loss, share = exemplary_loss(REFERENCE, none, KEY)
    assert (float(loss), float(share)) == (0.0, 0.0)
    chosen = batch._replace(exemplary=jnp.arange(6) < 2)
    spoiled = chosen._replace(chunk=chosen.chunk.at[2:].set(0.9))
    one, share = exemplary_loss(REFERENCE, chosen, KEY)
    other, _ = exemplary_loss(REFERENCE, spoiled, KEY)
    assert float(one) == float(other) > 0.0
    assert float(share) == np.float32(2 / 6)


def test_the_update_moves_reference_and_policy_and_leaves_the_given_reference_alone():
    state = METHOD.start(REFERENCE, SIZES, KEY)
    before = to_arrays(REFERENCE)
    after, metrics = eqx.filter_jit(METHOD.update(REFERENCE))(state, random_batch(4, 6), KEY)
    assert not same(after.reference.acting_policy, REFERENCE)
    assert not same(after.lwd.policy, state.lwd.policy)
    assert all(np.array_equal(before[name], value) for name, value in to_arrays(REFERENCE).items())
    assert int(after.step) == int(after.reference.step) == 1
    assert {"reference/flow_matching_loss", "policy/path_kl", "critic/loss"} <= set(metrics)


def test_until_algorithm_2_moves_it_the_policy_is_the_refitted_reference():
    state = METHOD.start(REFERENCE, SIZES, KEY)
    after, _ = eqx.filter_jit(METHOD.warm_up(REFERENCE))(state, random_batch(4, 6), KEY)
    assert not same(after.reference.acting_policy, REFERENCE)
    assert same(after.lwd.policy, after.reference.acting_policy)
    assert same(METHOD.acting(after), after.reference.acting_policy)


def test_it_goes_on_from_plain_lwd_and_has_lwds_critic():
    plain = Lwd(**SETTINGS).start(REFERENCE, SIZES, KEY)
    state = METHOD.continued(REFERENCE, plain)
    assert same(state.reference.acting_policy, REFERENCE)
    assert same(state.critic, plain.critic)  # what the report's value traces read


def test_robots_of_best_of_n_lwd_choose_among_the_trained_policys_chunks():
    method = BestOfNLwd(**SETTINGS, n=3)
    state = method.start(REFERENCE, SIZES, KEY)
    after, _ = eqx.filter_jit(method.update(REFERENCE))(state, random_batch(4, 6), KEY)
    acting = method.acting(after)
    assert isinstance(acting, BestOfNPolicy)
    assert acting.n == 3
    assert not same(acting.policy, REFERENCE)


def test_both_options_act_with_the_trained_policy_and_lwds_critic_and_learn_as_without_the_choice():
    method = BestOfNRefitLwd(**vars(METHOD), n=3)
    state, plain = (one.start(REFERENCE, SIZES, KEY) for one in (method, METHOD))
    batch = random_batch(4, 6)
    after, _ = eqx.filter_jit(method.update(REFERENCE))(state, batch, KEY)
    without, _ = eqx.filter_jit(METHOD.update(REFERENCE))(plain, batch, KEY)
    assert same(after, without)
    acting = method.acting(after)
    assert isinstance(acting, BestOfNPolicy)
    assert acting.n == 3
    assert same(acting.policy, METHOD.acting(without))
    assert same(acting.critic, after.lwd.target)
    on = method.continued(REFERENCE, after.lwd)  # as after an offline stage of plain LWD
    assert same(on.lwd.policy, after.lwd.policy)
    with pytest.raises(ConfigError, match=r"BestOfNRefitLwd\.n must be at least 1"):
        BestOfNRefitLwd(**vars(METHOD), n=0)


def test_best_of_none_is_refused():
    with pytest.raises(ConfigError, match=r"BestOfNLwd\.n must be at least 1"):
        BestOfNLwd(**SETTINGS, n=0)
