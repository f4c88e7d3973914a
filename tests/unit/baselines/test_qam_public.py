"""The public QAM's learner: its ensemble, its targets, what counts in which loss, and averages that lag by one step."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwd.baselines.qam_public import EnsembleMean, PublicQam, _Keys, critic_target, losses, pessimistic_mean
from lwd.errors import ConfigError
from lwd.learner.flow import draw_chunk
from lwd.learner.method import Method, act
from lwd.models.mlp import MlpConfig, MlpCritic, MlpPolicy, Normalizer
from lwd.transition import Observation, Transition
from tests.paper.paper_examples import assert_trees_equal

pytestmark = pytest.mark.usefixtures("quick_compilation")

MODEL = MlpConfig(
    proprio_dim=3, instruction_dim=1, chunk_steps=2, action_dim=2, width=8, depth=2, heads=3, atoms=1
)
CONFIG = PublicQam(inverse_temperature=1.0, flow_steps=3, batch=4)
FIRST = MlpPolicy.init(jax.random.key(0), MODEL, Normalizer.identity(3))
UPDATE = eqx.filter_jit(CONFIG.update(FIRST))
LOSSES = eqx.filter_jit(lambda state, batch, keys: losses(CONFIG, state, state.learned, batch, keys)[1])
KEYS = _Keys(*jax.random.split(jax.random.key(5), 3))


def batch(**changes) -> Transition:
    rng = np.random.default_rng(1)

    def draw(*shape: int):
        return rng.normal(size=(4, *shape)).astype(np.float32)

    def seen():
        return Observation(draw(3), np.zeros((4, 1), np.float32), {})

    made = Transition(
        observation=seen(),
        chunk=np.clip(draw(2, 2), -1, 1),
        valid=np.ones((4, 2), bool),
        reward=draw(),
        discount=np.full(4, 0.9, np.float32),
        next_observation=seen(),
        intervention=np.zeros(4, bool),
        exemplary=np.zeros(4, bool),
        task=np.zeros(4, np.int32),
    )
    return jax.tree.map(jnp.asarray, made._replace(**changes))


def started():
    return CONFIG.start(FIRST, MODEL, jax.random.key(2))


def test_pessimism_is_the_mean_less_the_populations_deviation():
    """Of 1, 3: mean 2, population deviation 1. Of 2, 2, 2: no deviation."""
    found = pessimistic_mean(jnp.array([[1.0, 3.0], [2.0, 2.0]]), 0.5)
    np.testing.assert_allclose(found, [1.5, 2.0], atol=1e-6)


def test_the_adjoint_starts_from_the_ensembles_mean_not_from_its_minimum():
    critic = MlpCritic.init(jax.random.key(3), MODEL, Normalizer.identity(3))
    mean = EnsembleMean(critic)
    z, chunk = jnp.ones(4), jnp.ones((2, 2)) * 0.3
    heads = critic.q(z, chunk)
    assert heads.shape == (3,)
    assert float(jnp.ptp(heads)) > 1e-3
    np.testing.assert_allclose(mean.q(z, chunk), [np.mean(heads)], rtol=1e-6)


def test_the_target_bootstraps_from_the_policys_own_chunk():
    state, one = started(), batch()
    y = critic_target(CONFIG, state.learned.policy, state.target, one, jax.random.key(7))
    keys = jax.random.split(jax.random.key(7), 4)
    for i in range(4):
        observation = jax.tree.map(lambda x, i=i: x[i], one.next_observation)
        chunk = draw_chunk(state.learned.policy, observation, keys[i], (2, 2), 3)
        heads = np.asarray(state.target.q(state.target.encode(observation), chunk), np.float64)
        expected = float(one.reward[i]) + 0.9 * (
            heads.mean() - 0.5 * np.sqrt(((heads - heads.mean()) ** 2).mean())
        )
        assert float(y[i]) == pytest.approx(expected, abs=1e-5)
    ended = critic_target(
        CONFIG, state.learned.policy, state.target, batch(discount=jnp.zeros(4)), jax.random.key(7)
    )
    np.testing.assert_allclose(ended, one.reward, rtol=1e-6)


def test_a_chunk_across_an_episodes_end_counts_by_its_state_alone():
    state = started()
    valid = jnp.ones((4, 2), bool).at[0, 1].set(False)
    plain, other = batch(valid=valid), batch(valid=valid)
    other = other._replace(reward=other.reward.at[0].set(50.0), chunk=other.chunk.at[0].set(0.9))
    first, second = (LOSSES(state, one, KEYS) for one in (plain, other))
    for name in ("critic/loss", "reference/flow_matching_loss", "policy/adjoint_matching_loss"):
        np.testing.assert_allclose(first[name], second[name], rtol=1e-5, err_msg=name)
    assert float(first["replay/whole_chunks"]) == 0.75
    seen = other.observation._replace(proprio=other.observation.proprio.at[0].add(1.0))
    moved = LOSSES(state, other._replace(observation=seen), KEYS)
    assert abs(float(moved["policy/adjoint_matching_loss"] - second["policy/adjoint_matching_loss"])) > 1e-4
    np.testing.assert_allclose(moved["critic/loss"], second["critic/loss"], rtol=1e-5)


def test_averages_follow_the_parameters_from_before_the_step():
    """At the start a copy equals what it follows, so the first step leaves it; the second moves it by the first's change."""
    first = started()
    second, metrics = UPDATE(first, batch(), jax.random.key(1))
    assert_trees_equal(second.target, first.target)
    assert_trees_equal(second.behaviour_average, first.behaviour_average)
    third, _ = UPDATE(second, batch(), jax.random.key(2))
    weight = lambda critic: np.asarray(critic.heads.out.weight, np.float64)  # noqa: E731
    expected = weight(first.target) + 0.005 * (weight(second.learned.critic) - weight(first.target))
    np.testing.assert_allclose(weight(third.target), expected, atol=1e-7)
    assert int(third.step) == 2
    assert float(metrics["gradient_norm"]) > 0


def test_the_two_flows_begin_apart_and_every_part_moves():
    first = started()
    flows = first.learned.policy.out.weight, first.learned.behaviour.out.weight
    assert not np.allclose(*flows)
    second, _ = UPDATE(first, batch(), jax.random.key(1))
    for part in ("policy", "behaviour"):
        before, after = (getattr(s.learned, part).out.weight for s in (first, second))
        assert not np.allclose(before, after), part
    assert not np.allclose(first.learned.critic.heads.out.weight, second.learned.critic.heads.out.weight)
    assert_trees_equal(first.learned.policy.normalizer, second.learned.policy.normalizer)
    assert_trees_equal(first.learned.critic.value, second.learned.critic.value)


def test_it_is_a_method_like_the_others():
    assert isinstance(CONFIG, Method)
    state = CONFIG.continued(FIRST, started())
    observation = Observation(jnp.zeros(3), jnp.zeros(1), {})
    chunk = act(CONFIG.acting(state), observation, jax.random.key(0), (2, 2), 3)
    assert chunk.shape == (2, 2)


@pytest.mark.parametrize("wrong", [{"inverse_temperature": 0.0}, {"rho": -0.1}, {"ema_rate": 0.0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"PublicQam: .*got"):
        PublicQam(**{"inverse_temperature": 1.0, **wrong})
