"""Clone, offline RL, online RL: three values of one loop; they differ in update, draw and configuration.

Paper: Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from lwd.errors import ConfigError
from lwd.learner.augment import AugmentConfig, augment_batch
from lwd.learner.clone import CloneConfig, CloneState, clone_update
from lwd.learner.divl import Metrics
from lwd.learner.state import LearnerConfig, LearnerState
from lwd.learner.trainable import typed
from lwd.learner.update import update, update_critic
from lwd.models.protocols import LearnedPolicy
from lwd.transition import Transition


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How a stage's learner steps are dispatched.

    Attributes:
        block_steps: learner steps per dispatch (`lax.scan`), the grain of logging.
        checkpoint_every_blocks: blocks between checkpoints.
    """

    block_steps: int = 250
    checkpoint_every_blocks: int = 10

    def __post_init__(self) -> None:
        if self.block_steps < 1 or self.checkpoint_every_blocks < 1:
            raise ConfigError("LoopConfig: block_steps and checkpoint_every_blocks must be at least 1.")


@runtime_checkable
class Stepped(Protocol):
    """A state that counts its learner steps."""

    @property
    def step(self) -> Int[Array, ""]:
        """Learner steps done."""
        ...


State = TypeVar("State", bound=Stepped)
Update = Callable[[State, Transition, PRNGKeyArray], tuple[State, Metrics]]


def clone_stage(config: CloneConfig) -> Update[CloneState]:
    """Stage 1: flow matching on demonstrations. Paper: Algorithm 1."""
    return eqx.Partial(clone_update, config)  # pyright: ignore


def critic_stage(config: LearnerConfig) -> Update[LearnerState]:
    """Stage 2a: value and critic alone, until their gradient means something (decision record 0008)."""
    return partial(update_critic, config)


def rl_stage(config: LearnerConfig, reference: LearnedPolicy) -> Update[LearnerState]:
    """Stages 2 and 3; offline and online differ in `config` and in what is drawn. Paper: Algorithm 1 (around Algorithm 2)."""
    return eqx.Partial(update, config, typed(reference, config.trainable))  # pyright: ignore


def augmented(one_update: Update[State], config: AugmentConfig | None) -> Update[State]:
    """The learner step on a batch whose pictures are augmented first, on the device; the step itself where config is None.

    Whoever runs a stage does this, with the `augment` of its method: no method augments by itself.
    """
    return one_update if config is None else eqx.Partial(_augmented, one_update, config)  # pyright: ignore


def _augmented(
    one_update: Update[State],
    config: AugmentConfig,
    state: State,
    batch: Transition,
    key: PRNGKeyArray,
) -> tuple[State, Metrics]:
    k_augment, k_update = jax.random.split(key)
    return one_update(state, augment_batch(batch, k_augment, config), k_update)


@eqx.filter_jit(donate="all-except-first")
def _scan(fixed: tuple[Any, PRNGKeyArray], state: Any, batches: Transition) -> tuple[Any, Metrics]:
    one_update, key = fixed

    def body(state: Any, batch: Transition) -> tuple[Any, Metrics]:
        return one_update(state, batch, jax.random.fold_in(key, state.step))

    state, metrics = jax.lax.scan(body, state, batches)
    return state, jax.tree.map(jnp.mean, metrics)


def run_block(
    one_update: Update[State], state: State, batches: Transition, key: PRNGKeyArray
) -> tuple[State, Metrics]:
    """Many learner steps in one dispatch; metrics are means over them. `state` is donated: do not use it again.

    The key of a learner step is `fold_in(key, step)`, so a resumed run draws what an uninterrupted one would have drawn.
    """
    return _scan((one_update, key), state, batches)
