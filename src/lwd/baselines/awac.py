"""AWAC-style policy on LWD's value and critic: flow matching to the data, weighted by how good an action is for its state.

After AWAC, Nair et al., arXiv 2006.09359. Symbols: A advantage Q(s, a) - V(s), beta its temperature.
"""

from __future__ import annotations

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lwd.errors import ConfigError
from lwd.learner.clone import clone_losses
from lwd.learner.divl import DivlConfig, Metrics, read_value, target_values
from lwd.learner.method import ActorCritic
from lwd.learner.stages import Update, critic_stage
from lwd.learner.state import LearnerState
from lwd.learner.steps import policy_step, with_filled_tails
from lwd.learner.update import update_critic
from lwd.models.protocols import Critic, LearnedPolicy
from lwd.transition import Transition

# ---- equations -------------------------------------------------------------------------------------------------------


def weights(advantage: Float[Array, " B"], beta: float, largest: float) -> Float[Array, " B"]:
    """exp(A / beta) with the exponent clipped to [-largest, largest], divided by the batch's mean: weights of mean 1."""
    raw = jnp.exp(jnp.clip(advantage / beta, -largest, largest))
    return raw / jnp.mean(raw)


def advantages(critic: Critic, target: Critic, batch: Transition, config: DivlConfig) -> Float[Array, " B"]:
    """min-head target-critic value of the replay action, minus the quantile that DIVL reads off its distribution."""
    logits = jax.vmap(lambda o: critic.value_logits(critic.encode(o)))(batch.observation)
    value, _, _ = jax.vmap(read_value, (0, None))(logits, config)
    return jax.lax.stop_gradient(target_values(target, batch) - value)


# ---- one learner step ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Awac(ActorCritic):
    """DIVL for value and critic as in LWD; the policy imitates the replay, weighted by advantage.

    The policy learns from the whole batch, since flow matching needs no paths: `qam` and `policy_batch` are not read.

    Attributes:
        beta: temperature of the weights, in units of the value.
        largest_exponent: bound on abs(A / beta).
    """

    beta: float = 0.05
    largest_exponent: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta <= 0.0 or self.largest_exponent <= 0.0:
            raise ConfigError(
                f"Awac: beta and largest_exponent must be positive, got {self.beta} and {self.largest_exponent}."
            )

    def warm_up(self, reference: LearnedPolicy) -> Update[LearnerState]:
        """Value and critic alone."""
        return critic_stage(self)

    def update(self, reference: LearnedPolicy) -> Update[LearnerState]:
        """Value, critic, target, policy."""
        return eqx.Partial(update, self)  # pyright: ignore


def fit_policy(
    config: Awac, state: LearnerState, batch: Transition, key: PRNGKeyArray
) -> tuple[LearnerState, Metrics]:
    """One step of weighted flow matching."""
    k_tail, k_flow = jax.random.split(key)
    # The critic has only ever seen filled tails; the policy imitates the chunk as it was.
    advantage = advantages(state.critic, state.target, with_filled_tails(batch, k_tail), config.divl)
    weight = weights(advantage, config.beta, config.largest_exponent)

    def loss(policy: LearnedPolicy) -> tuple[Float[Array, ""], Metrics]:
        mean = jnp.mean(weight * clone_losses(policy, batch, k_flow))
        return mean, {
            "policy/weighted_flow_matching_loss": mean,
            "policy/advantage": jnp.mean(advantage),
            "policy/effective_share": 1.0 / jnp.mean(jnp.square(weight)),
        }

    return policy_step(config, state, loss)


def update(
    config: Awac, state: LearnerState, batch: Transition, key: PRNGKeyArray
) -> tuple[LearnerState, Metrics]:
    """One learner step: value, critic and target of Algorithm 2, then `fit_policy` with the new target."""
    k_critic, k_policy = jax.random.split(key)
    state, critic_metrics = update_critic(config, state, batch, k_critic)
    state, policy_metrics = fit_policy(config, state, batch, k_policy)
    return state, {**critic_metrics, **policy_metrics}
