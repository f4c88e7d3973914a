"""Algorithm 2: the order of one learner step, who changes in it, and who must not.

Networks are tiny. Adam's first step is close to the gradient's sign, so rounding would show in the parameters; gradients are
read off the optimiser's memory instead, which after one step from fresh is 0.1 times the clipped gradient. The clip is so low
that it always acts, so gradients are compared by direction.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lwd.learner import divl, qam
from lwd.learner.state import init_state, trained_critic, trained_policy, trained_value
from lwd.learner.steps import critic_step, value_step
from lwd.learner.update import update, update_critic
from lwd.models.mlp import Normalizer
from tests.paper.paper_examples import (
    assert_trees_close,
    assert_trees_equal,
    random_batch,
    tiny_config,
    tiny_critic,
    tiny_policy,
    trees_differ,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

CLIP = 1e-3
CONFIG = tiny_config(clip_norm=CLIP, ema_rate=0.1, policy_ema_rate=0.2)
KEY = jax.random.key(22)
BATCH = random_batch(3, 6)
NORMALIZER = Normalizer(jnp.array([0.1, 0.0, -0.2]), jnp.array([1.5, 1.0, 0.7]))
REFERENCE = tiny_policy(0, NORMALIZER)

jitted_update = eqx.filter_jit(update)


@pytest.fixture(scope="module")
def before():
    """A state whose parts all differ from one another, as in the middle of training."""
    state = init_state(CONFIG, REFERENCE, tiny_critic(1))
    return eqx.tree_at(
        lambda s: (s.policy, s.acting_policy, s.target),
        state,
        (tiny_policy(2, NORMALIZER), tiny_policy(3, NORMALIZER), tiny_critic(4)),
    )


def memory(opt_state):
    """Adam's first moment."""
    return next(
        part.mu
        for part in jax.tree.leaves(opt_state, is_leaf=lambda x: hasattr(x, "mu"))
        if hasattr(part, "mu")
    )


def direction(gradient):
    norm = optax.global_norm(gradient)
    return jax.tree.map(lambda g: g / norm, gradient)


def assert_taken(opt_state, gradient, trained):
    """The optimiser's first step took this gradient, and none but the trained leaves of it."""
    assert_trees_close(
        direction(memory(opt_state)), direction(eqx.filter(gradient, trained)), rtol=2e-3, atol=2e-5
    )


@pytest.fixture(scope="module")
def after(before):
    return jitted_update(CONFIG, REFERENCE, before, BATCH, KEY)[0]


@pytest.fixture(scope="module")
def parts(before):
    """The state after line 1, after lines 1 to 3, and after lines 1 to 4."""

    @eqx.filter_jit
    def run(state):
        psi, _ = value_step(CONFIG, state, lambda c: divl.value_loss(c, state.target, BATCH, CONFIG.divl))
        y, _ = divl.bootstrap_target(psi.critic, BATCH, CONFIG.divl)
        phi, _ = critic_step(CONFIG, psi, BATCH, y)
        return psi, phi, update_critic(CONFIG, state, BATCH, KEY)

    return run(before)


@pytest.fixture(scope="module")
def psi_done(parts):
    return parts[0]


@pytest.fixture(scope="module")
def phi_done(parts):
    return parts[1]


# ---- order -----------------------------------------------------------------------------------------------------------


def test_line_1_psi_takes_the_gradient_of_eq_12_with_the_old_target(before, after):
    @eqx.filter_jit
    def gradient(critic):
        return eqx.filter_grad(lambda c: divl.value_loss(c, before.target, BATCH, CONFIG.divl)[0])(critic)

    assert_taken(after.value_opt, gradient(before.critic), trained_value(before.critic))


def test_lines_2_and_3_phi_moves_towards_the_target_of_the_updated_psi(before, psi_done, after):
    @eqx.filter_jit
    def gradient(critic, target_from):
        y, _ = divl.bootstrap_target(target_from, BATCH, CONFIG.divl)
        return eqx.filter_grad(lambda c: divl.critic_loss(c, BATCH, y)[0])(critic), y

    expected, y = gradient(psi_done.critic, psi_done.critic)
    stale, stale_y = gradient(psi_done.critic, before.critic)
    assert np.any(y != stale_y)  # the step on psi moved a quantile, so that the order can be told
    trained = trained_critic(before.critic)
    assert_taken(after.critic_opt, expected, trained)
    with pytest.raises(AssertionError):
        assert_taken(after.critic_opt, stale, trained)


def test_line_4_the_target_averages_the_new_critic(before, phi_done, after):
    assert_trees_close(after.critic, phi_done.critic, rtol=1e-4, atol=1e-5)
    expected = jax.tree.map(lambda t, c: 0.9 * t + 0.1 * c, before.target, after.critic)
    assert_trees_close(after.target, expected, atol=1e-6)
    assert trees_differ(before.target, after.target)


def test_line_5_theta_takes_the_gradient_of_eq_9_under_the_new_target(before, after):
    k_policy = jax.random.split(KEY)[1]
    few = jax.tree.map(lambda x: x[:3], BATCH.observation)  # policy_batch

    @eqx.filter_jit
    def gradient(critic):
        return eqx.filter_grad(
            lambda p: qam.policy_loss(p, REFERENCE, critic, few, (2, 2), k_policy, CONFIG.qam)[0]
        )(before.policy)

    trained = trained_policy(before.policy)
    assert_taken(after.policy_opt, gradient(after.target), trained)
    for other in (before.target, after.critic):
        with pytest.raises(AssertionError):
            assert_taken(after.policy_opt, gradient(other), trained)


def test_the_published_copy_follows_the_new_policy(before, after):
    expected = jax.tree.map(lambda a, p: 0.8 * a + 0.2 * p, before.acting_policy, after.policy)
    assert_trees_close(after.acting_policy, expected, atol=1e-6)


# ---- who changes, and who must not -----------------------------------------------------------------------------------


def test_everything_that_is_trained_changes(before, after):
    assert int(after.step) == int(before.step) + 1
    for part in ("policy", "acting_policy", "critic", "target"):
        assert trees_differ(getattr(before, part), getattr(after, part))


def test_psi_leaves_the_critic_heads_and_phi_the_value_head(before, psi_done, phi_done):
    assert_trees_equal(psi_done.critic.heads, before.critic.heads)
    assert trees_differ(psi_done.critic.value, before.critic.value)
    assert_trees_equal(phi_done.critic.value, psi_done.critic.value)
    assert trees_differ(phi_done.critic.heads, psi_done.critic.heads)
    for part in ("policy", "acting_policy", "target", "policy_opt"):
        assert_trees_equal(getattr(phi_done, part), getattr(before, part))


def test_reference_and_normalisers_never_change(before, after):
    assert_trees_equal(REFERENCE, tiny_policy(0, NORMALIZER))
    assert_trees_equal(after.policy.normalizer, NORMALIZER)
    assert_trees_equal(after.critic.normalizer, before.critic.normalizer)
    np.testing.assert_allclose(after.acting_policy.normalizer.mean, NORMALIZER.mean, atol=1e-7)


def test_optimisers_remember_nothing_of_frozen_leaves(before):
    assert jax.tree.leaves(memory(before.policy_opt).normalizer) == []
    assert jax.tree.leaves(memory(before.value_opt).heads) == []
    critic_memory = memory(before.critic_opt)
    assert jax.tree.leaves((critic_memory.value, critic_memory.normalizer)) == []
    assert jax.tree.leaves(critic_memory.heads) != []


def test_the_critics_warm_up_leaves_the_policy(before, parts):
    warm, metrics = parts[2]
    for part in ("policy", "acting_policy", "policy_opt"):
        assert_trees_equal(getattr(warm, part), getattr(before, part))
    assert trees_differ(warm.target, before.target)
    assert int(warm.step) == 1
    assert not any(name.startswith("policy/") for name in metrics)


def test_each_module_is_clipped_by_its_own_norm(after):
    for opt_state in (after.policy_opt, after.value_opt, after.critic_opt):
        # With one clip over all of them, the squares of the three norms would add up to CLIP^2 instead.
        assert float(optax.global_norm(memory(opt_state))) / 0.1 == pytest.approx(CLIP, rel=1e-4)


def test_same_key_same_step_other_key_other_step(before, after):
    again, _ = jitted_update(CONFIG, REFERENCE, before, BATCH, KEY)
    assert_trees_equal(eqx.filter(again, eqx.is_array), eqx.filter(after, eqx.is_array))
    other, _ = jitted_update(CONFIG, REFERENCE, before, BATCH, jax.random.key(23))
    assert trees_differ(other.policy, after.policy)
    assert_trees_equal(other.critic, after.critic)  # the critic draws nothing where every chunk is whole
