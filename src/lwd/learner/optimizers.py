"""Optimisers: one per learned thing, cosine schedules, gradients clipped per module, frozen leaves left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import equinox as eqx
import jax
import optax

from lwd.errors import ConfigError

Module = TypeVar("Module")
Aux = TypeVar("Aux")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with a linear warm-up and a cosine to `final_share` of the peak.

    Attributes:
        learning_rate: peak. Paper: 2e-5 for pi0.5's policy, 5e-4 for value and critic.
        warmup_steps, decay_steps: learner steps to the peak and to the cosine's end.
        final_share: learning rate after the cosine, as a share of the peak.
        weight_decay: decoupled weight decay.
        clip_norm: global-norm bound on this module's gradient.
    """

    learning_rate: float
    decay_steps: int
    warmup_steps: int = 100
    final_share: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        if self.learning_rate <= 0.0 or self.clip_norm <= 0.0:
            raise ConfigError("OptimizerConfig: learning_rate and clip_norm must be positive.")
        if not 0 <= self.warmup_steps < self.decay_steps:
            raise ConfigError(
                f"OptimizerConfig: need 0 <= warmup_steps < decay_steps, got {self.warmup_steps} and {self.decay_steps}."
            )
        if not 0.0 <= self.final_share <= 1.0:
            raise ConfigError(f"OptimizerConfig.final_share must be in [0, 1], got {self.final_share}.")


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """The chain: clip by global norm, AdamW, schedule."""
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=config.learning_rate / max(config.warmup_steps, 1),
        peak_value=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=config.decay_steps,
        end_value=config.learning_rate * config.final_share,
    )
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(schedule, weight_decay=config.weight_decay),
    )


def step(
    optimizer: optax.GradientTransformation,
    module: Module,
    trained: Module,
    gradients: Module,
    opt_state: optax.OptState,
) -> tuple[Module, optax.OptState]:
    """One step on the trained leaves; the others, and the optimiser's memory of them, do not exist here."""
    params = eqx.filter(module, trained)
    updates, opt_state = optimizer.update(eqx.filter(gradients, trained), opt_state, params)
    return eqx.apply_updates(module, updates), opt_state


def descend(
    optimizer: optax.GradientTransformation,
    module: Module,
    trained: Module,
    loss: Callable[[Module], tuple[Any, Aux]],
    opt_state: optax.OptState,
) -> tuple[Module, optax.OptState, Aux]:
    """One step of the trained leaves on a loss of the module; also the loss's second result.

    Only trained leaves are differentiated: no gradient of a frozen backbone is made, and nothing is kept to make it.
    """
    moving, still = eqx.partition(module, trained)

    def of_trained(moving: Module) -> tuple[Any, Aux]:
        return loss(eqx.combine(moving, still))

    (_, aux), gradients = eqx.filter_value_and_grad(of_trained, has_aux=True)(moving)
    updates, opt_state = optimizer.update(gradients, opt_state, moving)
    return eqx.combine(eqx.apply_updates(moving, updates), still), opt_state, aux


def follow(average: Module, live: Module, trained: Module, rate: float) -> Module:
    """`ema` of the trained leaves; the others are the live module's own."""
    moving, still = eqx.partition(live, trained)
    return eqx.combine(ema(eqx.filter(average, trained), moving, rate), still)


def ema(average: Module, live: Module, rate: float) -> Module:
    """Moved towards `live`: average + rate (live - average), leaf by leaf."""
    return jax.tree.map(lambda a, b: a + rate * (b - a), average, live)


def all_leaves(tree: Any) -> Any:
    """A mask that trains every floating-point leaf."""
    return jax.tree.map(lambda leaf: eqx.is_inexact_array(leaf), tree)
