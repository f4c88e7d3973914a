"""One learner step, in the order of the paper. Pure functions; metrics are returned, never logged here. Paper: Algorithm 2."""

from __future__ import annotations

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from lwd.learner import divl, qam
from lwd.learner.divl import Metrics
from lwd.learner.optimizers import ema, make_optimizer, step
from lwd.learner.state import LearnerConfig, LearnerState, trained_critic, trained_policy, trained_value
from lwd.models.mlp import MlpPolicy
from lwd.transition import Transition


def fit_value(config: LearnerConfig, state: LearnerState, batch: Transition) -> tuple[LearnerState, Metrics]:
    """Line 1, psi: one step on Eq 12. Paper: Algorithm 2, Eq 12."""
    (_, metrics), gradients = eqx.filter_value_and_grad(divl.value_loss, has_aux=True)(
        state.critic, state.target, batch, config.divl
    )
    critic, value_opt = step(
        make_optimizer(config.critic), state.critic, trained_value(state.critic), gradients, state.value_opt
    )
    return eqx.tree_at(lambda s: (s.critic, s.value_opt), state, (critic, value_opt)), metrics


def fit_critic(config: LearnerConfig, state: LearnerState, batch: Transition) -> tuple[LearnerState, Metrics]:
    """Lines 2 and 3, y_Q from the updated psi, then phi: one step on Eq 15. Paper: Algorithm 2, Eq 15, 19."""
    y, target_metrics = divl.bootstrap_target(state.critic, batch, config.divl)
    (_, metrics), gradients = eqx.filter_value_and_grad(divl.critic_loss, has_aux=True)(
        state.critic, batch, y
    )
    critic, critic_opt = step(
        make_optimizer(config.critic), state.critic, trained_critic(state.critic), gradients, state.critic_opt
    )
    state = eqx.tree_at(lambda s: (s.critic, s.critic_opt), state, (critic, critic_opt))
    return state, {**target_metrics, **metrics}


def fit_policy(
    config: LearnerConfig, reference: MlpPolicy, state: LearnerState, batch: Transition, key: PRNGKeyArray
) -> tuple[LearnerState, Metrics]:
    """Line 5, theta: paths from noise, adjoint, one step on Eq 9; then the published copy follows. Paper: Algorithm 2, Eq 9."""
    observation = jax.tree.map(lambda x: x[: config.policy_batch], batch.observation)
    chunk_shape = batch.chunk.shape[-2:]
    (_, metrics), gradients = eqx.filter_value_and_grad(qam.policy_loss, has_aux=True)(
        state.policy, reference, state.target, observation, chunk_shape, key, config.qam
    )
    policy, policy_opt = step(
        make_optimizer(config.policy), state.policy, trained_policy(state.policy), gradients, state.policy_opt
    )
    acting_policy = ema(state.acting_policy, policy, config.policy_ema_rate)
    state = eqx.tree_at(
        lambda s: (s.policy, s.policy_opt, s.acting_policy), state, (policy, policy_opt, acting_policy)
    )
    return state, metrics


def update_critic(
    config: LearnerConfig, state: LearnerState, batch: Transition, key: PRNGKeyArray
) -> tuple[LearnerState, Metrics]:
    """Lines 1 to 4 of Algorithm 2: value, target, critic, EMA. Alone, it warms the critic up before the policy moves."""
    batch = batch._replace(
        chunk=jax.vmap(divl.fill_tail)(batch.chunk, batch.valid, jax.random.split(key, batch.reward.shape[0]))
    )
    state, value_metrics = fit_value(config, state, batch)
    state, critic_metrics = fit_critic(config, state, batch)
    target = ema(state.target, state.critic, config.ema_rate)
    state = eqx.tree_at(lambda s: (s.target, s.step), state, (target, state.step + 1))
    return state, {**value_metrics, **critic_metrics}


def update(
    config: LearnerConfig, reference: MlpPolicy, state: LearnerState, batch: Transition, key: PRNGKeyArray
) -> tuple[LearnerState, Metrics]:
    """One learner step, in the paper's order. `batch` carries one leading axis of `config.batch` transitions.

    Paper: Algorithm 2.
    """
    k_critic, k_policy = jax.random.split(key)
    state, critic_metrics = update_critic(config, state, batch, k_critic)  # psi, y_Q, phi, target  Eq 11-19
    state, policy_metrics = fit_policy(config, reference, state, batch, k_policy)  # theta  Eq 8-10
    return state, {**critic_metrics, **policy_metrics}
