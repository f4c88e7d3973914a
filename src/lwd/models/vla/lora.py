"""LoRA (arXiv 2106.09685): low-rank adapters beside frozen projections, for those who lack memory for a whole network.

y = x W + (alpha / rank) x A B. B starts at zero, so an adapted network begins as the one that it was made from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lwd.errors import ConfigError
from lwd.models.vla.layers import Dense

Module = TypeVar("Module")
Part = Literal["vision", "language", "expert"]

_PROJECTIONS = frozenset({"q", "k", "v", "o", "gate", "up", "down"})
"""Attention and feed-forward, by their names in the layers of SigLIP and Gemma."""


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Settings of the adapters.

    Attributes:
        rank: r, columns of A and rows of B.
        alpha: the adapter's output is scaled by alpha / rank.
        parts: of a `PiPolicy`; in each, attention and feed-forward projections get adapters and nothing else trains.
        seed: of A.
    """

    rank: int = 16
    alpha: float = 16.0
    parts: tuple[Part, ...] = ("language", "expert")
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0.0:
            raise ConfigError(
                f"LoraConfig: rank must be at least 1 and alpha positive, got {self.rank} and {self.alpha}."
            )
        if not self.parts or len(set(self.parts)) != len(self.parts):
            raise ConfigError(f"LoraConfig.parts must name parts, each once, got {self.parts}.")


class LoraDense(Dense):
    """A `Dense` with an adapter."""

    lora_a: Float[Array, "i r"]
    lora_b: Float[Array, "r o"]
    scale: float = eqx.field(static=True)

    def __call__(self, x: Float[Array, "*n i"]) -> Float[Array, "*n o"]:
        """Any number of leading axes; the adapter is used in x's type like the weights."""
        low = (x @ self.lora_a.astype(x.dtype)) @ self.lora_b.astype(x.dtype)
        return Dense.__call__(self, x) + self.scale * low


def with_adapters(policy: Module, config: LoraConfig) -> Module:
    """The policy with new adapters; it still computes the same.

    Raises:
        ConfigError: the policy has no such part, or has adapters already.
    """
    if has_adapters(policy):
        raise ConfigError("This policy has adapters already; merge them before new ones are added.")
    for index, name in enumerate(config.parts):
        if not hasattr(policy, name):
            raise ConfigError(
                f"A {type(policy).__name__} has no part {name!r} for adapters; LoRA is for PiPolicy. "
                "Set Trainable.lora to None."
            )
        key = jax.random.fold_in(jax.random.key(config.seed), index)
        adapted = _adapted(getattr(policy, name), config, key)
        policy = eqx.tree_at(lambda p, name=name: getattr(p, name), policy, adapted)
    return policy


def merged(module: Module) -> Module:
    """Every adapter added to the weights that it stands beside, W + (alpha / rank) A B: what is published and exported.

    The result has the structure of a network that never had adapters; one without them comes back as it is.
    """

    def merge(node: Any) -> Any:
        return eqx.filter_vmap(_merged)(node) if isinstance(node, LoraDense) else node

    return jax.tree.map(merge, module, is_leaf=_is_adapted)


def adapter_mask(module: Module) -> Module:
    """True on the adapters, False everywhere else."""

    def mark(node: Any) -> Any:
        nothing = jax.tree.map(lambda _: False, node)
        if not isinstance(node, LoraDense):
            return nothing
        return eqx.tree_at(lambda d: (d.lora_a, d.lora_b), nothing, (True, True))

    return jax.tree.map(mark, module, is_leaf=_is_adapted)


def has_adapters(module: object) -> bool:
    """Whether any projection in it has an adapter."""
    return any(_is_adapted(node) for node in jax.tree.leaves(module, is_leaf=_is_adapted))


def _adapted(part: Module, config: LoraConfig, key: PRNGKeyArray) -> Module:
    """Adapters on the attention and feed-forward projections of a part's layers."""
    counted = 0

    def adapt(path: tuple[Any, ...], node: Any) -> Any:
        nonlocal counted
        names = [str(getattr(step, "name", "")) for step in path]
        if not isinstance(node, Dense) or "layers" not in names or names[-1] not in _PROJECTIONS:
            return node
        counted += 1
        keys = jax.random.split(jax.random.fold_in(key, counted), node.weight.shape[0])  # one per layer
        return eqx.filter_vmap(lambda dense, k: _with_adapter(dense, config, k))(node, keys)

    return jax.tree_util.tree_map_with_path(adapt, part, is_leaf=lambda node: isinstance(node, Dense))


def _with_adapter(dense: Dense, config: LoraConfig, key: PRNGKeyArray) -> LoraDense:
    """One layer's projection with a new adapter."""
    inputs, outputs = dense.weight.shape
    a = inputs**-0.5 * jax.random.normal(key, (inputs, config.rank))
    scale = config.alpha / config.rank
    return LoraDense(dense.weight, dense.bias, a, jnp.zeros((config.rank, outputs)), scale)


def _merged(dense: LoraDense) -> Dense:
    """One layer's projection as it acts."""
    change = dense.scale * (dense.lora_a.astype(jnp.float32) @ dense.lora_b.astype(jnp.float32))
    return Dense((dense.weight.astype(jnp.float32) + change).astype(dense.weight.dtype), dense.bias)


def _is_adapted(node: object) -> bool:
    return isinstance(node, LoraDense)
