"""Gemma 3's text stack (arXiv 2503.19786): local layers with a sliding window between global ones, query and key norms.

Backbone of value and critic. No key-value cache: it reads an observation once.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from lwd.models.vla.config import Gemma3Config
from lwd.models.vla.layers import (
    Dense,
    GatedMlp,
    RmsNorm,
    Rope,
    attend,
    heads_of,
    rope,
    rotate,
    scan_layers,
    stacked,
)

Tokens = Float[Array, "T W"]


class Gemma3Block(eqx.Module):
    """One layer: attention, then a gated perceptron, each with an RMS norm before and behind it."""

    pre_attention: RmsNorm
    q: Dense
    k: Dense
    v: Dense
    o: Dense
    q_norm: RmsNorm
    k_norm: RmsNorm
    post_attention: RmsNorm
    pre_mlp: RmsNorm
    mlp: GatedMlp
    post_mlp: RmsNorm

    @staticmethod
    def init(key: PRNGKeyArray, config: Gemma3Config) -> Gemma3Block:
        """Random weights."""
        q, k, v, o, mlp = jax.random.split(key, 5)
        width, size = config.width, config.head_dim
        return Gemma3Block(
            pre_attention=RmsNorm.init(width),
            q=Dense.init(q, width, config.heads * size),
            k=Dense.init(k, width, config.kv_heads * size),
            v=Dense.init(v, width, config.kv_heads * size),
            o=Dense.init(o, config.heads * size, width),
            q_norm=RmsNorm.init(size),
            k_norm=RmsNorm.init(size),
            post_attention=RmsNorm.init(width),
            pre_mlp=RmsNorm.init(width),
            mlp=GatedMlp.init(mlp, width, config.mlp),
            post_mlp=RmsNorm.init(width),
        )

    def __call__(self, x: Tokens, angles: Rope, mask: Bool[Array, "T T"], config: Gemma3Config) -> Tokens:
        """One sequence."""
        y = self.pre_attention(x)
        q, k, v = (heads_of(projection(y), config.head_dim) for projection in (self.q, self.k, self.v))
        q, k = rotate(self.q_norm(q), angles), rotate(self.k_norm(k), angles)
        x = x + self.post_attention(self.o(attend(q, k, v, mask, config.query_scale**-0.5)))
        return x + self.post_mlp(self.mlp(self.pre_mlp(x)))


class Gemma3(eqx.Module):
    """The stack with its final norm; the token table belongs to whoever uses it."""

    layers: Gemma3Block
    final_norm: RmsNorm
    config: Gemma3Config = eqx.field(static=True)

    @staticmethod
    def init(key: PRNGKeyArray, config: Gemma3Config) -> Gemma3:
        """Random weights."""
        layers = stacked(lambda k: Gemma3Block.init(k, config), key, config.depth)
        return Gemma3(layers, RmsNorm.init(config.width), config)

    def __call__(
        self, x: Tokens, positions: Int[Array, " T"], mask: Bool[Array, "T T"], remat: bool = False
    ) -> Tokens:
        """Last hidden states after the final norm.

        Args:
            x: tokens, in the type that activations shall have.
            positions: of the tokens; local layers see keys less than `window` positions away.
            mask: True where a token may see a key, before the window.
            remat: recompute activations in the backward pass.
        """
        config = self.config
        near = jnp.abs(positions[:, None] - positions[None, :]) < config.window
        wide = rope(positions, config.head_dim, config.rope_base)
        local = rope(positions, config.head_dim, config.rope_base_local)

        def body(x: Tokens, layer: Gemma3Block, sees_all: Bool[Array, ""]) -> tuple[Tokens, None]:
            angles = jax.tree.map(lambda a, b: jnp.where(sees_all, a, b), wide, local)
            return layer(x, angles, mask & (near | sees_all), config), None

        flags = jnp.array(config.global_layers)
        return self.final_norm(scan_layers(body, x, self.layers, flags, remat)[0])
