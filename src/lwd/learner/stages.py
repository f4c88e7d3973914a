"""Algorithm 1: clone, offline RL, online RL. Three values of one loop; they differ in update, draw and configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol, TypeVar, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from lwd.learner.clone import CloneConfig, CloneState, clone_update
from lwd.learner.divl import Metrics
from lwd.learner.state import LearnerConfig, LearnerState
from lwd.learner.update import update, update_critic
from lwd.models.mlp import MlpPolicy
from lwd.transition import Transition


@runtime_checkable
class Stepped(Protocol):
    """A state that counts its learner steps."""

    @property
    def step(self) -> Int[Array, ""]:
        """Learner steps done."""
        ...


State = TypeVar("State", bound=Stepped)
Update = Callable[[State, Transition, PRNGKeyArray], tuple[State, Metrics]]
Draw = Callable[[int, int], Transition]
"""draw(learner_step, count): the stacked batches [count, B, ...] of the learner steps from `learner_step` on."""


def clone_stage(config: CloneConfig) -> Update[CloneState]:
    """Stage 1: flow matching on demonstrations."""
    return eqx.Partial(clone_update, config)  # pyright: ignore


def critic_stage(config: LearnerConfig) -> Update[LearnerState]:
    """Stage 2a: value and critic alone, until their gradient means something (decision record 0008)."""
    return partial(update_critic, config)


def rl_stage(config: LearnerConfig, reference: MlpPolicy) -> Update[LearnerState]:
    """Stages 2 and 3: Algorithm 2. Offline and online differ in `config` and in what `draw` mixes."""
    return eqx.Partial(update, config, reference)  # pyright: ignore


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


def train(
    one_update: Update[State],
    state: State,
    draw: Draw,
    key: PRNGKeyArray,
    *,
    until_step: int,
    block_steps: int,
) -> Iterator[tuple[State, Metrics]]:
    """Run learner steps up to `until_step`, yielding state and mean metrics after each block.

    The yielded metrics are JAX arrays still being computed; reading them waits, so read them one block late.
    """
    step = int(state.step)
    while step < until_step:
        count = min(block_steps, until_step - step)
        state, metrics = run_block(one_update, state, draw(step, count), key)
        step += count
        yield state, metrics
