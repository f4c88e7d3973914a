"""What the transformers here are made of. Norms and softmax in float32, matrix products in the type of the activations.

Parameters of a stack carry a leading axis of layers, so that one compiled layer serves them all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

Module = TypeVar("Module")
Carry = TypeVar("Carry")
Rope = tuple[Float[Array, "T half"], Float[Array, "T half"]]
"""Cosine and sine of every position's angles, float32."""

_MASKED = (
    -2.3819763e38
)  # what Gemma writes where a key must not be seen; finite, so that an empty row is no NaN


class KeysValues(NamedTuple):
    """Keys and values of every layer, in the type of the activations: [layers, tokens, kv_heads, head_dim] each."""

    keys: Float[Array, "L S K D"]
    values: Float[Array, "L S K D"]


class Dense(eqx.Module):
    """x W + b over the last axis; weights stored [in, out] and used in x's type."""

    weight: Float[Array, "i o"]
    bias: Float[Array, " o"] | None

    @staticmethod
    def init(
        key: PRNGKeyArray, inputs: int, outputs: int, *, bias: bool = False, scale: float = 1.0
    ) -> Dense:
        """Normal weights of variance scale^2 / inputs, zero bias."""
        weight = scale * inputs**-0.5 * jax.random.normal(key, (inputs, outputs))
        return Dense(weight, jnp.zeros(outputs) if bias else None)

    def __call__(self, x: Float[Array, "*n i"]) -> Float[Array, "*n o"]:
        """Any number of leading axes."""
        y = x @ self.weight.astype(x.dtype)
        return y if self.bias is None else y + self.bias.astype(x.dtype)


def rms_normalise(x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
    """Input over its root mean square along the last axis, float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)


class RmsNorm(eqx.Module):
    """RMS norm with a learned gain 1 + scale, as in every Gemma."""

    scale: Float[Array, " d"]

    @staticmethod
    def init(width: int) -> RmsNorm:
        """Gain 1."""
        return RmsNorm(jnp.zeros(width))

    def __call__(self, x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
        """Same type as x."""
        return (rms_normalise(x) * (1.0 + self.scale.astype(jnp.float32))).astype(x.dtype)

    def gated(self, x: Float[Array, "*n d"], condition: None) -> tuple[Float[Array, "*n d"], None]:
        """The norm, and no gate: the branch is added as it is."""
        return self(x), None


class AdaptiveRmsNorm(eqx.Module):
    """RMS norm whose gain, shift and gate of the residual branch follow from a condition: pi0.5's flow time."""

    modulate: Dense

    @staticmethod
    def init(width: int, condition: int) -> AdaptiveRmsNorm:
        """Gain 1, shift 0 and gate 0: every branch starts closed."""
        return AdaptiveRmsNorm(Dense(jnp.zeros((condition, 3 * width)), jnp.zeros(3 * width)))

    def gated(
        self, x: Float[Array, "*n d"], condition: Float[Array, " c"]
    ) -> tuple[Float[Array, "*n d"], Float[Array, " d"]]:
        """The norm in x's type, and the gate that the branch is multiplied with."""
        scale, shift, gate = jnp.split(self.modulate(condition.astype(jnp.float32)), 3)
        return (rms_normalise(x) * (1.0 + scale) + shift).astype(x.dtype), gate.astype(x.dtype)


class LayerNorm(eqx.Module):
    """Layer norm with gain and bias, epsilon 1e-6, as in SigLIP."""

    scale: Float[Array, " d"]
    bias: Float[Array, " d"]

    @staticmethod
    def init(width: int) -> LayerNorm:
        """Gain 1, bias 0."""
        return LayerNorm(jnp.ones(width), jnp.zeros(width))

    def __call__(self, x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
        """Same type as x."""
        y = x.astype(jnp.float32)
        y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + 1e-6)
        return (y * self.scale.astype(jnp.float32) + self.bias.astype(jnp.float32)).astype(x.dtype)


class GatedMlp(eqx.Module):
    """Gemma's feed-forward: down(gelu(gate x) * up x)."""

    gate: Dense
    up: Dense
    down: Dense

    @staticmethod
    def init(key: PRNGKeyArray, width: int, hidden: int) -> GatedMlp:
        """Random weights, no biases."""
        gate, up, down = jax.random.split(key, 3)
        return GatedMlp(
            Dense.init(gate, width, hidden), Dense.init(up, width, hidden), Dense.init(down, hidden, width)
        )

    def __call__(self, x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
        """Any number of leading axes."""
        return self.down(jax.nn.gelu(self.gate(x)) * self.up(x))


def rope(positions: Int[Array, " T"], head_dim: int, base: float) -> Rope:
    """Angles position / base^(2 i / head_dim), i < head_dim / 2."""
    frequency = base ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angles = positions.astype(jnp.float32)[:, None] * frequency
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Float[Array, "T N D"], angles: Rope) -> Float[Array, "T N D"]:
    """Rotate the pairs (x_i, x_{i + D/2}), in float32; the type of x."""
    cos, sin = (a[:, None, :] for a in angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def attend(
    queries: Float[Array, "T N D"],
    keys: Float[Array, "S K D"],
    values: Float[Array, "S K D"],
    mask: Bool[Array, "T S"] | None,
    scale: float,
) -> Float[Array, "T ND"]:
    """Softmax attention of N query heads, N / K of which share one key head; the heads side by side.

    `mask` is True where a query sees a key; None where it sees them all.
    """
    tokens, heads, size = queries.shape
    grouped = queries.reshape(tokens, keys.shape[1], -1, size)
    logits = scale * jnp.einsum("tkgd,skd->kgts", grouped, keys, preferred_element_type=jnp.float32)
    if mask is not None:
        logits = jnp.where(mask, logits, _MASKED)
    weights = jax.nn.softmax(logits, axis=-1).astype(values.dtype)
    return jnp.einsum("kgts,skd->tkgd", weights, values).reshape(tokens, heads * size)


def heads_of(x: Float[Array, "T ND"], head_dim: int) -> Float[Array, "T N D"]:
    """The last axis cut into heads."""
    return x.reshape(x.shape[0], -1, head_dim)


def stacked(init: Callable[[PRNGKeyArray], Module], key: PRNGKeyArray, depth: int) -> Module:
    """`depth` modules of one structure as one, with a leading axis of layers on every array."""
    return eqx.filter_vmap(init)(jax.random.split(key, depth))


def scan_layers(
    body: Callable[[Carry, Any, Any], tuple[Carry, Any]], x: Carry, layers: Any, extras: Any, remat: bool
) -> tuple[Carry, Any]:
    """Run a stack: body(x, layer, extra) -> (x, output of the layer), outputs stacked.

    Args:
        body: one layer.
        x: what enters the first layer.
        layers: modules with a leading axis of layers.
        extras: a tree with a leading axis of layers, or None.
        remat: recompute a layer's activations in the backward pass instead of keeping them.
    """
    dynamic, static = eqx.partition(layers, eqx.is_array)

    def step(carry: Carry, xs: tuple[Any, Any]) -> tuple[Carry, Any]:
        return body(carry, eqx.combine(xs[0], static), xs[1])

    return jax.lax.scan(jax.checkpoint(step, prevent_cse=False) if remat else step, x, (dynamic, extras))


def cast(module: Module, dtype: str) -> Module:
    """The module with its floating-point parameters in this type."""
    return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, module)
