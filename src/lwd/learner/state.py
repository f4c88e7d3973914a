"""The learner's state: everything that changes in one learner step, and nothing that does not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from lwd.errors import ConfigError
from lwd.learner.augment import AugmentConfig
from lwd.learner.divl import DivlConfig
from lwd.learner.optimizers import OptimizerConfig, make_optimizer
from lwd.learner.qam import QamConfig
from lwd.learner.trainable import Trainable, prepared, trained_critic, trained_policy, trained_value
from lwd.models.protocols import LearnedCritic, LearnedPolicy

Module = TypeVar("Module")


@dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """Algorithm 2's settings. Offline and online are two values of this class, never two code paths.

    Attributes:
        divl, qam: the two halves of the method.
        policy, critic: optimisers; `critic` serves value and critic, each with a state of its own.
        batch: transitions per learner step for value and critic.
        policy_batch: how many of those the policy's paths start from.
        ema_rate: of the target critic (0.005 in the paper).
        policy_ema_rate: of the trained leaves in the policy copy that is published; 1 publishes the live policy.
        augment: of the pictures, both observations of a transition each for itself; None for none.
        trainable: what of the policy trains; the paper's online stage is `Trainable(policy="expert")`.
    """

    policy: OptimizerConfig
    critic: OptimizerConfig
    divl: DivlConfig = field(default_factory=DivlConfig)
    qam: QamConfig = field(default_factory=QamConfig)
    batch: int = 256
    policy_batch: int = 128
    ema_rate: float = 0.005
    policy_ema_rate: float = 0.005
    augment: AugmentConfig | None = None
    trainable: Trainable = field(default_factory=Trainable)

    def __post_init__(self) -> None:
        if not 1 <= self.policy_batch <= self.batch:
            raise ConfigError(
                f"LearnerConfig: need 1 <= policy_batch <= batch, got {self.policy_batch} and {self.batch}."
            )
        for name in ("ema_rate", "policy_ema_rate"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ConfigError(f"LearnerConfig.{name} must be in (0, 1], got {getattr(self, name)}.")


class LearnerState(eqx.Module):
    """What a checkpoint holds. The reference is not in it: it never changes (Eq 8)."""

    step: Int[Array, ""]
    policy: LearnedPolicy
    policy_opt: optax.OptState
    acting_policy: LearnedPolicy
    critic: LearnedCritic
    value_opt: optax.OptState
    critic_opt: optax.OptState
    target: LearnedCritic


def copied(module: Module) -> Module:
    """The same numbers in buffers of their own: learner steps donate the state, so no two parts may share one."""
    return jax.tree.map(jnp.copy, module)


def init_state(config: LearnerConfig, reference: LearnedPolicy, critic: LearnedCritic) -> LearnerState:
    """Start of offline RL: the policy from the reference, value and critic from scratch (Algorithm 1)."""
    policy_optimizer, critic_optimizer = make_optimizer(config.policy), make_optimizer(config.critic)
    policy = prepared(reference, config.trainable)
    return LearnerState(
        step=jnp.zeros((), jnp.int32),
        policy=copied(policy),
        policy_opt=policy_optimizer.init(eqx.filter(policy, trained_policy(policy, config.trainable))),
        acting_policy=copied(policy),
        critic=copied(critic),
        value_opt=critic_optimizer.init(eqx.filter(critic, trained_value(critic))),
        critic_opt=critic_optimizer.init(eqx.filter(critic, trained_critic(critic))),
        target=copied(critic),
    )


def with_fresh_optimizers(config: LearnerConfig, state: LearnerState) -> LearnerState:
    """The same networks at learner step 0 of new schedules: what a new stage of Algorithm 1 starts from."""
    fresh = init_state(config, state.policy, state.critic)
    acting_policy = copied(prepared(state.acting_policy, config.trainable))
    return eqx.tree_at(lambda s: (s.acting_policy, s.target), fresh, (acting_policy, state.target))
