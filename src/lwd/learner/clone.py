"""Behaviour cloning: the first stage of Algorithm 1, whose result is the SFT baseline and the frozen reference pi_beta."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lwd.errors import ConfigError
from lwd.learner.augment import AugmentConfig
from lwd.learner.divl import Metrics
from lwd.learner.flow import flow_matching_loss
from lwd.learner.optimizers import OptimizerConfig, descend, follow, make_optimizer
from lwd.learner.state import copied
from lwd.learner.trainable import Trainable, prepared, trained_policy
from lwd.models.protocols import LearnedPolicy, Policy
from lwd.transition import Transition


@dataclass(frozen=True, kw_only=True)
class CloneConfig:
    """Settings of flow-matching behaviour cloning.

    Attributes:
        policy: the optimiser.
        batch: transitions per learner step.
        policy_ema_rate: of the averaged copy, which becomes the reference.
        augment: of the pictures; None for none.
        trainable: what of the policy trains.
    """

    policy: OptimizerConfig
    batch: int = 256
    policy_ema_rate: float = 0.002
    augment: AugmentConfig | None = None
    trainable: Trainable = field(default_factory=Trainable)

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ConfigError(f"CloneConfig.batch must be at least 1, got {self.batch}.")
        if not 0.0 < self.policy_ema_rate <= 1.0:
            raise ConfigError(f"CloneConfig.policy_ema_rate must be in (0, 1], got {self.policy_ema_rate}.")


class CloneState(eqx.Module):
    """What a checkpoint of this stage holds."""

    step: Int[Array, ""]
    policy: LearnedPolicy
    policy_opt: optax.OptState
    acting_policy: LearnedPolicy


def init_clone(config: CloneConfig, policy: LearnedPolicy) -> CloneState:
    """Start cloning from this policy."""
    optimizer, policy = make_optimizer(config.policy), prepared(policy, config.trainable)
    return CloneState(
        step=jnp.zeros((), jnp.int32),
        policy=copied(policy),
        policy_opt=optimizer.init(eqx.filter(policy, trained_policy(policy, config.trainable))),
        acting_policy=copied(policy),
    )


def clone_losses(policy: Policy, batch: Transition, key: PRNGKeyArray) -> Float[Array, " B"]:
    """Flow-matching loss of every transition of a batch."""
    keys = jax.random.split(key, batch.reward.shape[0])
    return jax.vmap(flow_matching_loss, (None, 0, 0, 0, 0))(
        policy, batch.observation, batch.chunk, batch.valid, keys
    )


def clone_loss(policy: Policy, batch: Transition, key: PRNGKeyArray) -> Float[Array, ""]:
    """Flow-matching loss over a batch, mean."""
    return jnp.mean(clone_losses(policy, batch, key))


def clone_step(
    config: CloneConfig, state: CloneState, loss: Callable[[LearnedPolicy], tuple[Float[Array, ""], Metrics]]
) -> tuple[CloneState, Metrics]:
    """One step of the policy on this loss; its averaged copy follows."""
    trained = trained_policy(state.policy, config.trainable)
    policy, policy_opt, metrics = descend(
        make_optimizer(config.policy), state.policy, trained, loss, state.policy_opt
    )
    acting_policy = follow(state.acting_policy, policy, trained, config.policy_ema_rate)
    return CloneState(state.step + 1, policy, policy_opt, acting_policy), metrics


def clone_update(
    config: CloneConfig, state: CloneState, batch: Transition, key: PRNGKeyArray
) -> tuple[CloneState, Metrics]:
    """One step of flow matching on demonstrations."""

    def loss(policy: LearnedPolicy) -> tuple[Float[Array, ""], Metrics]:
        value = clone_loss(policy, batch, key)
        return value, {"policy/flow_matching_loss": value}

    return clone_step(config, state, loss)
