"""IQL with QAM: LWD with a scalar value in place of the distribution (Table II of the paper, "scalar expectile").

Only the value differs from LWD. Implicit Q-learning, Kostrikov et al., arXiv 2110.06169; symbols as in `lwd.learner.divl`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lwd.errors import ConfigError
from lwd.learner.divl import Metrics, target_values
from lwd.learner.method import ActorCritic
from lwd.learner.stages import Update
from lwd.learner.state import LearnerState
from lwd.learner.steps import critic_step, target_step, value_step, with_filled_tails
from lwd.learner.trainable import typed
from lwd.learner.update import fit_policy
from lwd.models.protocols import Critic, LearnedPolicy
from lwd.transition import Observation, Transition

# ---- equations -------------------------------------------------------------------------------------------------------


def expectile_loss(error: Float[Array, ""], tau: float) -> Float[Array, ""]:
    """|tau - 1(u < 0)| u^2 for u = label - value: a label above the value counts tau, one below it 1 - tau."""
    return jnp.where(error < 0.0, 1.0 - tau, tau) * jnp.square(error)


def scalar_value(critic: Critic, observation: Observation) -> Float[Array, ""]:
    """V(s): the single output of the value."""
    return critic.value_logits(critic.encode(observation))[0]


# ---- losses ----------------------------------------------------------------------------------------------------------


def value_loss(
    critic: Critic, target: Critic, batch: Transition, tau: float
) -> tuple[Float[Array, ""], Metrics]:
    """Expectile regression of V(s) to the target critic's values of the replay actions."""
    labels = target_values(target, batch)
    value = jax.vmap(scalar_value, (None, 0))(critic, batch.observation)
    loss = jnp.mean(jax.vmap(expectile_loss, (0, None))(labels - value, tau))
    return loss, {"value/expectile_loss": loss, "value/label": jnp.mean(labels)}


def bootstrap_target(critic: Critic, batch: Transition) -> tuple[Float[Array, " B"], Metrics]:
    """y_Q = reward + discount * V(s'), with the live value."""
    value = jax.vmap(scalar_value, (None, 0))(critic, batch.next_observation)
    y = jax.lax.stop_gradient(batch.reward + batch.discount * value)
    return y, {"value/expectile": jnp.mean(value), "critic/target": jnp.mean(y)}


# ---- one learner step ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Iql(ActorCritic):
    """Scalar value, two-head critic, QAM policy, in the order of Algorithm 2.

    Of `divl` only `tau_base` is read, as the expectile's level. A scalar has no entropy to adapt it by, so `alpha` must be 0.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.divl.alpha != 0.0:
            raise ConfigError(
                f"Iql: a scalar value has no entropy to adapt tau by; set divl.alpha to 0, got {self.divl.alpha}."
            )

    @property
    def value_outputs(self) -> int:
        """One: the value itself."""
        return 1

    def warm_up(self, reference: LearnedPolicy) -> Update[LearnerState]:
        """Value and critic alone."""
        return partial(update_critic, self)

    def update(self, reference: LearnedPolicy) -> Update[LearnerState]:
        """Value, critic, target, policy."""
        return eqx.Partial(update, self, typed(reference, self.trainable))  # pyright: ignore


def update_critic(
    config: Iql, state: LearnerState, batch: Transition, key: PRNGKeyArray
) -> tuple[LearnerState, Metrics]:
    """Value, critic target from the updated value, critic, EMA target."""
    batch, tau = with_filled_tails(batch, key), config.divl.tau_base
    state, value_metrics = value_step(
        config, state, lambda critic: value_loss(critic, state.target, batch, tau)
    )
    y, target_metrics = bootstrap_target(state.critic, batch)
    state, critic_metrics = critic_step(config, state, batch, y)
    return target_step(config, state), {**value_metrics, **target_metrics, **critic_metrics}


def update(
    config: Iql, reference: LearnedPolicy, state: LearnerState, batch: Transition, key: PRNGKeyArray
) -> tuple[LearnerState, Metrics]:
    """One learner step: `update_critic`, then LWD's own policy step."""
    k_critic, k_policy = jax.random.split(key)
    state, critic_metrics = update_critic(config, state, batch, k_critic)
    state, policy_metrics = fit_policy(config, reference, state, batch, k_policy)
    return state, {**critic_metrics, **policy_metrics}
