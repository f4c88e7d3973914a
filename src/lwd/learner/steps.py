"""Steps that move one part of the state each; Algorithm 2 (`lwd.learner.update`) and the baselines are made of them."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from lwd.learner import divl
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
