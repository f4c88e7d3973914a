"""SigLIP's vision tower (arXiv 2303.15343): a picture in, one vector per patch out; no pooling head."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lwd.models.vla.config import SiglipConfig
from lwd.models.vla.layers import Dense, LayerNorm, attend, heads_of, scan_layers, stacked


class SiglipBlock(eqx.Module):
    """One layer: attention among all patches, then a two-layer perceptron, each behind a layer norm."""

    pre_attention: LayerNorm
    q: Dense
    k: Dense
    v: Dense
    o: Dense
    pre_mlp: LayerNorm
    up: Dense
    down: Dense

    @staticmethod
    def init(key: PRNGKeyArray, config: SiglipConfig) -> SiglipBlock:
        """Random weights."""
        q, k, v, o, up, down = jax.random.split(key, 6)
        width = config.width
        return SiglipBlock(
            pre_attention=LayerNorm.init(width),
            q=Dense.init(q, width, width, bias=True),
            k=Dense.init(k, width, width, bias=True),
            v=Dense.init(v, width, width, bias=True),
            o=Dense.init(o, width, width, bias=True),
            pre_mlp=LayerNorm.init(width),
            up=Dense.init(up, width, config.mlp, bias=True),
            down=Dense.init(down, config.mlp, width, bias=True),
        )

    def __call__(self, x: Float[Array, "T W"], heads: int) -> Float[Array, "T W"]:
        """One picture's patches."""
        size = x.shape[-1] // heads
        y = self.pre_attention(x)
        q, k, v = (heads_of(projection(y), size) for projection in (self.q, self.k, self.v))
        x = x + self.o(attend(q, k, v, None, size**-0.5))
        return x + self.down(jax.nn.gelu(self.up(self.pre_mlp(x))))


class Siglip(eqx.Module):
    """The tower. `layers` carries a leading axis of layers."""

    patches: Dense
    positions: Float[Array, "T W"]
    layers: SiglipBlock
    final_norm: LayerNorm
    config: SiglipConfig = eqx.field(static=True)

    @staticmethod
    def init(key: PRNGKeyArray, config: SiglipConfig) -> Siglip:
        """Random weights."""
        k_patches, k_positions, k_layers = jax.random.split(key, 3)
        return Siglip(
            patches=Dense.init(k_patches, 3 * config.patch**2, config.width, bias=True),
            positions=config.width**-0.5 * jax.random.normal(k_positions, (config.tokens, config.width)),
            layers=stacked(lambda k: SiglipBlock.init(k, config), k_layers, config.depth),
            final_norm=LayerNorm.init(config.width),
            config=config,
        )

    def __call__(self, pixels: Float[Array, "h w 3"], compute: str, remat: bool) -> Float[Array, "T W"]:
        """One vector per patch, row by row.

        Args:
            pixels: float32 in [-1, 1], of the tower's size.
            compute: type of the transformer's activations; patches and positions are added in float32.
            remat: recompute activations in the backward pass.
        """
        side, patch = self.config.image // self.config.patch, self.config.patch
        cut = pixels.reshape(side, patch, side, patch, 3).transpose(0, 2, 1, 3, 4)
        x = self.patches(cut.reshape(side * side, -1)) + self.positions.astype(jnp.float32)

        def body(x: Float[Array, "T W"], layer: SiglipBlock, _: None) -> tuple[Float[Array, "T W"], None]:
            return layer(x, self.config.heads), None

        x, _ = scan_layers(body, x.astype(compute), self.layers, None, remat)
        return self.final_norm(x)
