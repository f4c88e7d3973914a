"""One learner step, in the order of the paper. Pure functions; metrics are returned, never logged here. Paper: Algorithm 2.

The four steps at the top move one part of the state each; Algorithm 2 below, and the baselines, are made of them.
"""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from lwd.learner import divl, qam
from lwd.learner.divl import Metrics
from lwd.learner.optimizers import descend, ema, follow, make_optimizer
from lwd.learner.state import LearnerConfig, LearnerState
from lwd.learner.trainable import trained_critic, trained_policy, trained_value
from lwd.models.protocols import LearnedCritic, LearnedPolicy
from lwd.transition import Transition

Loss = tuple[Float[Array, ""], Metrics]


def value_step(
    config: LearnerConfig, state: LearnerState, loss: Callable[[LearnedCritic], Loss]
) -> tuple[LearnerState, Metrics]:
    """psi: one step of the value's leaves on this loss."""
    optimizer, trained = make_optimizer(config.critic), trained_value(state.critic)
    critic, value_opt, metrics = descend(optimizer, state.critic, trained, loss, state.value_opt)
    return eqx.tree_at(lambda s: (s.critic, s.value_opt), state, (critic, value_opt)), metrics


def critic_step(
    config: LearnerConfig, state: LearnerState, batch: Transition, y: Float[Array, " B"]
) -> tuple[LearnerState, Metrics]:
    """phi: one step of the critic's heads towards y. Paper: Eq 15."""

    def loss(critic: LearnedCritic) -> Loss:
        return divl.critic_loss(critic, batch, y)

    optimizer, trained = make_optimizer(config.critic), trained_critic(state.critic)
    critic, critic_opt, metrics = descend(optimizer, state.critic, trained, loss, state.critic_opt)
    return eqx.tree_at(lambda s: (s.critic, s.critic_opt), state, (critic, critic_opt)), metrics


def target_step(config: LearnerConfig, state: LearnerState) -> LearnerState:
    """The target follows the critic, and the learner step is counted."""
    target = ema(state.target, state.critic, config.ema_rate)
    return eqx.tree_at(lambda s: (s.target, s.step), state, (target, state.step + 1))


def policy_step(
    config: LearnerConfig, state: LearnerState, loss: Callable[[LearnedPolicy], Loss]
) -> tuple[LearnerState, Metrics]:
    """theta: one step of the policy on this loss; then the published copy follows."""
    trained = trained_policy(state.policy, config.trainable)
    policy, policy_opt, metrics = descend(
        make_optimizer(config.policy), state.policy, trained, loss, state.policy_opt
    )
    acting_policy = follow(state.acting_policy, policy, trained, config.policy_ema_rate)
    state = eqx.tree_at(
        lambda s: (s.policy, s.policy_opt, s.acting_policy), state, (policy, policy_opt, acting_policy)
    )
    return state, metrics


def with_filled_tails(batch: Transition, key: PRNGKeyArray) -> Transition:
    """The batch as the critic sees it: every chunk with `fill_tail`."""
    keys = jax.random.split(key, batch.reward.shape[0])
    return batch._replace(chunk=jax.vmap(divl.fill_tail)(batch.chunk, batch.valid, keys))


def fit_value(config: LearnerConfig, state: LearnerState, batch: Transition) -> tuple[LearnerState, Metrics]:
    """Line 1, psi: one step on Eq 12. Paper: Algorithm 2, Eq 12."""
    return value_step(config, state, lambda critic: divl.value_loss(critic, state.target, batch, config.divl))


def fit_critic(config: LearnerConfig, state: LearnerState, batch: Transition) -> tuple[LearnerState, Metrics]:
    """Lines 2 and 3, y_Q from the updated psi, then phi: one step on Eq 15. Paper: Algorithm 2, Eq 15, 19."""
    y, target_metrics = divl.bootstrap_target(state.critic, batch, config.divl)
    state, metrics = critic_step(config, state, batch, y)
    return state, {**target_metrics, **metrics}


def fit_policy(
    config: LearnerConfig, reference: LearnedPolicy, state: LearnerState, batch: Transition, key: PRNGKeyArray
) -> tuple[LearnerState, Metrics]:
    """Line 5, theta: paths from noise, adjoint, one step on Eq 9; then the published copy follows. Paper: Algorithm 2, Eq 9."""
    observation = jax.tree.map(lambda x: x[: config.policy_batch], batch.observation)
    chunk_shape = batch.chunk.shape[-2:]

    def loss(policy: LearnedPolicy) -> Loss:
        return qam.policy_loss(
            policy,
            reference,
            state.target,
            observation,
            chunk_shape,
            key,
            config.qam,
            shared_prefix=config.trainable.shared_prefix,
        )

    return policy_step(config, state, loss)


def update_critic(
    config: LearnerConfig, state: LearnerState, batch: Transition, key: PRNGKeyArray
) -> tuple[LearnerState, Metrics]:
    """Lines 1 to 4 of Algorithm 2: value, target, critic, EMA. Alone, it warms the critic up before the policy moves."""
    batch = with_filled_tails(batch, key)
    state, value_metrics = fit_value(config, state, batch)
    state, critic_metrics = fit_critic(config, state, batch)
    return target_step(config, state), {**value_metrics, **critic_metrics}


def update(
    config: LearnerConfig, reference: LearnedPolicy, state: LearnerState, batch: Transition, key: PRNGKeyArray
) -> tuple[LearnerState, Metrics]:
    """One learner step, in the paper's order. `batch` carries one leading axis of `config.batch` transitions.

    Paper: Algorithm 2.
    """
    k_critic, k_policy = jax.random.split(key)
    state, critic_metrics = update_critic(config, state, batch, k_critic)  # psi, y_Q, phi, target  Eq 11-19
    state, policy_metrics = fit_policy(config, reference, state, batch, k_policy)  # theta  Eq 8-10
    return state, {**critic_metrics, **policy_metrics}
