"""Gemma (arXiv 2403.08295) as a stack of layers: backbone of pi0 and pi0.5, and, with adaptive norms, their action expert.

A stack reads keys and values that came before (the prefix) beside its own, so backbone and expert share attention
without ever running together: the prefix does not see the suffix.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from lwd.models.vla.config import GemmaConfig
from lwd.models.vla.layers import (
    AdaptiveRmsNorm,
    Dense,
    GatedMlp,
    KeysValues,
    RmsNorm,
    Rope,
    attend,
    heads_of,
    rope,
    rotate,
    scan_layers,
    stacked,
)

Norm = RmsNorm | AdaptiveRmsNorm
Tokens = Float[Array, "T W"]


class GemmaBlock(eqx.Module):
    """One layer: attention, then a gated perceptron, each behind an RMS norm."""

    pre_attention: Norm
    q: Dense
    k: Dense
    v: Dense
    o: Dense
    pre_mlp: Norm
    mlp: GatedMlp

    @staticmethod
    def init(key: PRNGKeyArray, config: GemmaConfig, condition: int | None) -> GemmaBlock:
        """Random weights; norms are adaptive where there is a condition of this size."""
        q, k, v, o, mlp = jax.random.split(key, 5)
        inner, inner_kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
        return GemmaBlock(
            pre_attention=make_norm(config.width, condition),
            q=Dense.init(q, config.width, inner),
            k=Dense.init(k, config.width, inner_kv),
            v=Dense.init(v, config.width, inner_kv),
            o=Dense.init(o, inner, config.width),
            pre_mlp=make_norm(config.width, condition),
            mlp=GatedMlp.init(mlp, config.width, config.mlp),
        )

    def __call__(
        self,
        x: Tokens,
        angles: Rope,
        mask: Bool[Array, "T S"],
        past: KeysValues | None,
        condition: Float[Array, " C"] | None,
        head_dim: int,
    ) -> tuple[Tokens, KeysValues]:
        """One layer; `past` and the result's keys and values are of this layer alone, [tokens, kv_heads, head_dim]."""
        y, gate = self.pre_attention.gated(x, condition)  # pyright: ignore[reportArgumentType] - by construction
        k, v = rotate(heads_of(self.k(y), head_dim), angles), heads_of(self.v(y), head_dim)
        keys, values = (k, v) if past is None else (_after(past.keys, k), _after(past.values, v))
        q = rotate(heads_of(self.q(y), head_dim), angles)
        x = _add(x, self.o(attend(q, keys, values, mask, head_dim**-0.5)), gate)
        y, gate = self.pre_mlp.gated(x, condition)  # pyright: ignore[reportArgumentType] - by construction
        return _add(x, self.mlp(y), gate), KeysValues(k, v)


class Gemma(eqx.Module):
    """The stack with its final norm; token tables belong to whoever uses it."""

    layers: GemmaBlock
    final_norm: Norm
    config: GemmaConfig = eqx.field(static=True)

    @staticmethod
    def init(key: PRNGKeyArray, config: GemmaConfig, condition: int | None = None) -> Gemma:
        """Random weights; norms are adaptive where there is a condition of this size."""
        layers = stacked(lambda k: GemmaBlock.init(k, config, condition), key, config.depth)
        return Gemma(layers, make_norm(config.width, condition), config)

    def __call__(
        self,
        x: Tokens,
        positions: Int[Array, " T"],
        mask: Bool[Array, "T S"],
        *,
        past: KeysValues | None = None,
        condition: Float[Array, " C"] | None = None,
        remat: bool = False,
    ) -> tuple[Tokens, KeysValues]:
        """Last hidden states after the final norm, and the keys and values of these tokens.

        Args:
            x: tokens, in the type that activations shall have.
            positions: of the tokens, for the rotary embedding.
            mask: True where a token sees a key; keys of `past` come first, then those of x.
            past: keys and values that came before.
            condition: of the adaptive norms, float32; None where there are none.
            remat: recompute activations in the backward pass.
        """
        size = self.config.head_dim
        angles = rope(positions, size, self.config.rope_base)

        def body(x: Tokens, layer: GemmaBlock, past: KeysValues | None) -> tuple[Tokens, KeysValues]:
            return layer(x, angles, mask, past, condition, size)

        x, present = scan_layers(body, x, self.layers, past, remat)
        return self.final_norm.gated(x, condition)[0], present  # pyright: ignore[reportArgumentType]


def make_norm(width: int, condition: int | None) -> Norm:
    """Plain, or adaptive to a condition of this size."""
    return RmsNorm.init(width) if condition is None else AdaptiveRmsNorm.init(width, condition)


def embed(table: Float[Array, "V W"], tokens: Int[Array, " T"], compute: str) -> Tokens:
    """Rows of the token table times sqrt(width), as every Gemma does; the factor is rounded to the activations' type."""
    return table[tokens].astype(compute) * jnp.sqrt(jnp.float32(table.shape[1])).astype(compute)


def _after(past: Float[Array, "P K D"], new: Float[Array, "T K D"]) -> Float[Array, "PT K D"]:
    return jnp.concatenate([past.astype(new.dtype), new])


def _add(x: Tokens, branch: Tokens, gate: Float[Array, " W"] | None) -> Tokens:
    return x + (branch if gate is None else branch * gate)
