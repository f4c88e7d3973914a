"""RECAP: returns and indicators by hand, thresholds that find their quantile, and who changes in which learner step."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lwd.baselines.recap import (
    Recap,
    advantages,
    fit_policy,
    indicators,
    mean_value,
    returns,
    track_thresholds,
)
from lwd.errors import ConfigError
from lwd.learner.divl import cross_entropy
from lwd.learner.method import Method
from lwd.learner.optimizers import OptimizerConfig
from tests.paper.paper_examples import (
    SIZES,
    TabularCritic,
    assert_trees_equal,
    random_batch,
    tabular_batch,
    tiny_policy,
    trees_differ,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

OPTIMIZER = OptimizerConfig(learning_rate=3e-2, decay_steps=1000, warmup_steps=0)
METHOD = Recap(policy=OPTIMIZER, value=OPTIMIZER, tasks=3, atoms=SIZES.atoms, batch=6)
KEY, REFERENCE, BATCH = jax.random.key(3), tiny_policy(0), random_batch(4, 6)
ATOMS = jnp.array([0.0, 0.5, 1.0])


def certain(*atom_of_state):
    """A value that is sure of one atom in every state."""
    logits = 40.0 * (jnp.eye(3)[jnp.array(atom_of_state)] - 1.0)
    return TabularCritic(logits, jnp.zeros((2, len(atom_of_state), 1)))


# ---- numbers by hand -------------------------------------------------------------------------------------------------


def test_the_value_is_the_mean_of_its_distribution():
    value = TabularCritic(jnp.log(jnp.array([[0.25, 0.25, 0.5]])), jnp.zeros((2, 1, 1)))
    (observation,) = jax.tree.leaves(tabular_batch([(0, 0, 0.0, 0.0, 0)], 1, 1).observation.proprio)
    batch = tabular_batch([(0, 0, 0.0, 0.0, 0)], 1, 1)
    one = jax.tree.map(lambda x: x[0], batch.observation)
    assert observation.shape == (1, 1)
    assert float(mean_value(value, one, ATOMS)) == pytest.approx(0.25 * 0.5 + 0.5, abs=1e-6)


def test_returns_are_the_rewards_except_where_an_episode_has_no_verdict():
    value = certain(0, 1)
    batch = tabular_batch([(0, 0, 0.7, 0.0, 1), (0, 0, 0.0, 0.0, 1), (0, 0, 0.0, 0.8, 1)], 2, 1)
    np.testing.assert_allclose(returns(value, batch, ATOMS), [0.7, 0.0, 0.8 * 0.5], atol=1e-6)


def test_advantages_by_hand():
    """From state 0 (V = 1/2) to state 1 (V = 1) with discount 0.9, and to a failure."""
    batch = tabular_batch([(0, 0, 0.0, 0.9, 1), (0, 0, 0.0, 0.0, 1)], 2, 1)
    np.testing.assert_allclose(advantages(certain(1, 2), batch, ATOMS), [0.4, -0.5], atol=1e-6)


def test_the_fitted_value_equals_the_means_of_the_data():
    """State 0: one episode in four earned 0.8. State 1: an episode without a verdict led to state 0, discounted by 0.5."""
    rows = [(0, 0, 0.8, 0.0, 0)] + 3 * [(0, 0, 0.0, 0.0, 0)] + 4 * [(1, 0, 0.0, 0.5, 0)]
    batch, optimizer = tabular_batch(rows, 2, 1), optax.adam(0.05)

    def step(carry, _):
        value, memory = carry
        labels = returns(value, batch, ATOMS)
        gradient = jax.grad(cross_entropy)(value, batch.observation, labels, ATOMS)
        updates, memory = optimizer.update(gradient.logits, memory)
        return (TabularCritic(value.logits + updates, value.table), memory), None

    value = certain(1, 1)
    value = TabularCritic(0.0 * value.logits, value.table)
    (value, _), _ = jax.jit(lambda v: jax.lax.scan(step, (v, optimizer.init(v.logits)), None, length=1500))(
        value
    )
    got = [float(jax.nn.softmax(logits) @ ATOMS) for logits in value.logits]
    np.testing.assert_allclose(got, [0.2, 0.1], atol=5e-3)


def test_humans_who_demonstrate_or_correct_are_always_right_and_players_are_not():
    batch = BATCH._replace(
        task=jnp.array([0, 0, 1, 1, 1, 1]),
        intervention=jnp.array([False, False, False, True, True, False]),
        exemplary=jnp.array([False, True, True, True, False, True]),
    )
    advantage = jnp.array([0.3, 0.1, 0.3, -1.0, -1.0, 0.6])
    got = indicators(advantage, jnp.array([0.2, 0.5]), batch)
    # Task 0: above 0.2 or not. Task 1: below 0.5; a correction; play; above 0.5.
    assert got.tolist() == [True, False, False, True, False, True]


# ---- the thresholds --------------------------------------------------------------------------------------------------


def test_one_step_of_the_tracker_by_hand():
    """Task 0: one of two counted advantages is above; task 1: its only one is not counted; task 2: none is above."""
    got = track_thresholds(
        jnp.array([0.1, 0.2, 0.3]),
        jnp.array([0, 0, 0, 1, 2]),
        jnp.array([0.5, 0.0, 9.0, 9.0, 0.0]),
        jnp.array([True, True, False, False, True]),
        0.4,
        0.01,
    )
    np.testing.assert_allclose(got, [0.1 + 0.01 * (0.5 - 0.4), 0.2, 0.3 - 0.01 * 0.4], rtol=1e-6)


def test_the_tracker_finds_every_tasks_quantile():
    """Task 0: N(0, 0.1), whose 60 % quantile is 0.0253. Task 1: U(0, 0.2) with 0.12. Task 2 is never seen."""
    rng = np.random.default_rng(0)
    advantage = np.stack([rng.normal(0, 0.1, (3000, 16)), rng.uniform(0, 0.2, (3000, 16))], -1)
    advantage = jnp.asarray(advantage.reshape(3000, 32), jnp.float32)
    task, counted = jnp.tile(jnp.array([0, 1]), 16), jnp.ones(32, bool)

    def step(threshold, some):
        return track_thresholds(threshold, task, some, counted, 0.4, 1e-3), None

    threshold = jax.jit(lambda a: jax.lax.scan(step, jnp.zeros(3), a)[0])(advantage)
    # Stationary spread of a tracker with step r: sd = sqrt(r s (1 - s) / (2 f m)), f the density (4 and 5), m = 16: 1.4e-3.
    np.testing.assert_allclose(threshold, [0.0253, 0.12, 0.0], atol=6e-3)


# ---- who changes, and who must not -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def before():
    return METHOD.start(REFERENCE, SIZES, KEY)


@pytest.fixture(scope="module")
def warm(before):
    return eqx.filter_jit(METHOD.warm_up(REFERENCE))(before, BATCH, KEY)


@pytest.fixture(scope="module")
def after(before):
    return eqx.filter_jit(METHOD.update(REFERENCE))(before, BATCH, KEY)


def test_the_warm_up_fits_the_value_alone(before, warm):
    state, metrics = warm
    assert isinstance(METHOD, Method)
    assert int(state.step) == 1
    assert trees_differ(state.value.value, before.value.value)
    assert_trees_equal(state.value.normalizer, before.value.normalizer)
    for part in ("policy", "policy_opt", "acting_policy", "threshold"):
        assert_trees_equal(getattr(state, part), getattr(before, part))
    assert set(metrics) == {"value/cross_entropy", "value/return"}


def test_the_update_fits_the_policy_alone(before, after):
    state, metrics = after
    assert int(state.step) == 1
    assert_trees_equal((state.value, state.value_opt), (before.value, before.value_opt))
    assert trees_differ(state.policy.base, before.policy.base)
    assert np.any(state.policy.embedding)
    assert trees_differ(state.acting_policy, before.acting_policy)
    assert_trees_equal(state.policy.base.normalizer, REFERENCE.normalizer)
    assert_trees_equal(REFERENCE, tiny_policy(0))
    assert float(state.threshold[0]) != 0.0  # every transition of the batch is of task 0
    assert_trees_equal(state.threshold[1:], jnp.zeros(2))
    assert all(np.isfinite(float(x)) for x in metrics.values())


def test_hidden_indicators_teach_the_embedding_nothing(before):
    """Dropout of nearly 1 hides all six; without dropout both rows that occur are taught."""

    @eqx.filter_jit
    def taught(config, state, batch):
        return fit_policy(config, state, batch, KEY)[0].policy.embedding

    def method(dropout):
        return Recap(policy=OPTIMIZER, value=OPTIMIZER, tasks=3, atoms=SIZES.atoms, dropout=dropout)

    all_good = BATCH._replace(intervention=jnp.ones(6, bool), exemplary=jnp.ones(6, bool))
    assert not np.any(taught(method(0.999999), before, all_good))
    negative, positive = taught(method(0.0), before, all_good)
    assert not np.any(negative)
    assert np.any(positive)


def test_the_next_stage_keeps_the_value_and_begins_with_the_reference(after, warm):
    state = eqx.tree_at(lambda s: (s.value, s.value_opt), after[0], (warm[0].value, warm[0].value_opt))
    later = METHOD.continued(REFERENCE, state)
    assert int(later.step) == 0
    assert_trees_equal(later.value, state.value)
    assert_trees_equal(later.threshold, state.threshold)
    assert trees_differ(later.value_opt, state.value_opt)
    for policy in (later.policy, later.acting_policy):
        assert_trees_equal(policy.base, REFERENCE)
        assert not np.any(policy.embedding)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"tasks": 0}, "tasks and batch must be at least 1"),
        ({"value_low": 2.0}, r"value_low 2\.0 must be below value_high 1\.1"),
        ({"positive_share": 1.0}, "0 < positive_share < 1"),
        ({"dropout": 1.0}, "0 <= dropout < 1"),
        ({"guidance": -1.0}, "guidance >= 0"),
        ({"threshold_rate": 0.0}, "threshold_rate > 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Recap(**{"policy": OPTIMIZER, "value": OPTIMIZER, "tasks": 3, **wrong})
