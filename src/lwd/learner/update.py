"""One learner step, in the order of the paper. Pure functions; metrics are returned, never logged here. Paper: Algorithm 2."""

from __future__ import annotations

import jax
from jaxtyping import PRNGKeyArray

from lwd.learner import divl, qam
from lwd.learner.divl import Metrics
from lwd.learner.state import LearnerConfig, LearnerState
from lwd.learner.steps import Loss, critic_step, policy_step, target_step, value_step, with_filled_tails
from lwd.models.protocols import LearnedCritic, LearnedPolicy
from lwd.transition import Transition


def update(
    config: LearnerConfig, reference: LearnedPolicy, state: LearnerState, batch: Transition, key: PRNGKeyArray
) -> tuple[LearnerState, Metrics]:
    """Lines 1 to 5: one learner step. `batch` carries one leading axis of `config.batch` transitions.

    Paper: Algorithm 2.
    """
    k_critic, k_policy = jax.random.split(key)
    state, critic_metrics = update_critic(config, state, batch, k_critic)  # lines 1 to 4
    state, policy_metrics = fit_policy(config, reference, state, batch, k_policy)  # line 5
    return state, {**critic_metrics, **policy_metrics}


def update_critic(
    config: LearnerConfig, state: LearnerState, batch: Transition, key: PRNGKeyArray
) -> tuple[LearnerState, Metrics]:
    """Lines 1 to 4, which alone warm value and critic up before the policy moves. Paper: Algorithm 2, Eq 12, 15, 19."""
    batch, old_target = with_filled_tails(batch, key), state.target

    def loss(critic: LearnedCritic) -> Loss:
        return divl.value_loss(critic, old_target, batch, config.divl)

    # 1. psi: one step on Eq 12.
    state, value_metrics = value_step(config, state, loss)
    # 2. y_Q, from the updated psi: Eq 19.
    y, target_metrics = divl.bootstrap_target(state.critic, batch, config.divl)
    # 3. phi: one step on Eq 15.
    state, critic_metrics = critic_step(config, state, batch, y)
    # 4. The target follows psi and phi.
    state = target_step(config, state)
    return state, {**value_metrics, **target_metrics, **critic_metrics}


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
