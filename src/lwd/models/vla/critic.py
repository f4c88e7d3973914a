"""Value and critic on one vision-language backbone: Gemma 3 with SigLIP. Paper: Section 6.

Sequence: pictures, prompt, one proprio token, one readout token. Pictures see each other; everything after them sees what
came before. The readout token is last, so its last hidden state z_t has seen it all; value and critic heads read z_t.
What the paper leaves open (proprio token, widths, where the pooling's positions come from) is decided here.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from lwd.models.mlp import Linear, Stack
from lwd.models.normalizer import Normalizer
from lwd.models.vla.config import VlaCriticConfig
from lwd.models.vla.gemma3 import Gemma3
from lwd.models.vla.layers import Dense, attend, cast
from lwd.models.vla.prefix import embed_pictures, embed_prompt
from lwd.models.vla.siglip import Siglip
from lwd.transition import Observation


class Backbone(eqx.Module):
    """Observation to z_t. Vision tower, token table and language stack come pretrained, the rest starts from scratch."""

    vision: Siglip
    project: Dense
    tokens: Float[Array, "V W"]
    proprio: Dense
    readout: Float[Array, " W"]
    language: Gemma3
    config: VlaCriticConfig = eqx.field(static=True)

    @staticmethod
    def init(key: PRNGKeyArray, config: VlaCriticConfig) -> Backbone:
        """Random weights."""
        vision, project, tokens, proprio, readout, language = jax.random.split(key, 6)
        width = config.language.width
        return Backbone(
            vision=Siglip.init(vision, config.vision),
            project=Dense.init(project, config.vision.width, width, bias=True),
            tokens=width**-0.5 * jax.random.normal(tokens, (config.vocabulary, width)),
            proprio=Dense.init(proprio, config.proprio_dim, width, bias=True),
            readout=jax.random.normal(readout, (width,)),
            language=Gemma3.init(language, config.language),
            config=config,
        )

    def __call__(self, observation: Observation, proprio: Float[Array, " P"]) -> Float[Array, " W"]:
        """z_t in float32, from the observation's pictures and prompt and its standardised proprio."""
        config = self.config
        compute = config.compute
        prompt, written = embed_prompt(self.tokens, observation, config.prompt, compute)
        pictures = embed_pictures(
            self.vision, self.project, observation, config.cameras, compute, config.remat
        )
        tail = jnp.stack([self.proprio(proprio), self.readout.astype(jnp.float32)]).astype(compute)
        seen, last = jnp.ones(pictures.shape[0], bool), jnp.ones(2, bool)
        valid = jnp.concatenate([seen, written, last])
        x = jnp.concatenate([pictures, prompt, tail])
        hidden = self.language(x, jnp.cumsum(valid) - 1, sees(pictures.shape[0], valid), config.remat)
        return hidden[-1].astype(jnp.float32)


def sees(pictures: int, valid: Bool[Array, " T"]) -> Bool[Array, "T T"]:
    """The mask: causal, with the first `pictures` tokens seeing each other; nobody sees padding."""
    order = jnp.maximum(jnp.arange(valid.shape[0]), pictures - 1)
    return (order[:, None] >= order[None, :]) & valid


class ChunkPool(eqx.Module):
    """Learned temporal attention pooling: every step of the chunk a token, one learned query per head over them."""

    first: Dense
    second: Dense
    times: Float[Array, "H W"]
    query: Float[Array, "heads D"]
    key: Dense
    value: Dense
    out: Dense

    @staticmethod
    def init(key: PRNGKeyArray, config: VlaCriticConfig) -> ChunkPool:
        """Random weights."""
        first, second, times, query, k, v, out = jax.random.split(key, 7)
        width = config.chunk_width
        return ChunkPool(
            first=Dense.init(first, config.action_dim, width, bias=True),
            second=Dense.init(second, width, width, bias=True),
            times=0.1 * jax.random.normal(times, (config.chunk_steps, width)),
            query=jax.random.normal(query, (config.chunk_heads, width // config.chunk_heads)),
            key=Dense.init(k, width, width),
            value=Dense.init(v, width, width),
            out=Dense.init(out, width, width, bias=True),
        )

    def __call__(self, chunk: Float[Array, "H A"]) -> Float[Array, " W"]:
        """One chunk, float32."""
        steps = self.second(jax.nn.gelu(self.first(chunk.astype(jnp.float32)))) + self.times
        heads, size = self.query.shape
        keys, values = (f(steps).reshape(-1, heads, size) for f in (self.key, self.value))
        return self.out(attend(self.query[None], keys, values, None, size**-0.5)[0])


class VlaCritic(eqx.Module):
    """Value and critic. `heads` carries a leading axis of critic heads; pooling and heads stay in float32."""

    normalizer: Normalizer
    backbone: Backbone
    value: Stack
    pool: ChunkPool
    heads: Stack

    @staticmethod
    def init(key: PRNGKeyArray, config: VlaCriticConfig, normalizer: Normalizer) -> VlaCritic:
        """Random weights; the value starts near uniform over its atoms."""
        k_backbone, k_value, k_pool, k_heads = jax.random.split(key, 4)
        width = config.language.width
        make_head = eqx.filter_vmap(lambda k: _stack(k, width + config.chunk_width, 1, config, 1.0))
        return VlaCritic(
            normalizer=normalizer,
            backbone=cast(Backbone.init(k_backbone, config), config.parameters),
            value=_stack(k_value, width, config.atoms, config, 0.1),
            pool=ChunkPool.init(k_pool, config),
            heads=make_head(jax.random.split(k_heads, config.heads)),
        )

    def value_parts(self) -> tuple[Backbone, Stack]:
        """See `LearnedCritic`: the backbone is trained by both losses."""
        return self.backbone, self.value

    def critic_parts(self) -> tuple[Backbone, ChunkPool, Stack]:
        """See `LearnedCritic`."""
        return self.backbone, self.pool, self.heads

    def encode(self, observation: Observation) -> Float[Array, " Z"]:
        """State representation z_t, the readout token's last hidden state; float32."""
        return self.backbone(observation, self.normalizer(observation.proprio))

    def value_logits(self, z: Float[Array, " Z"]) -> Float[Array, " K"]:
        """Logits over the atoms."""
        return self.value(z)

    def q(self, z: Float[Array, " Z"], chunk: Float[Array, "H A"]) -> Float[Array, " heads"]:
        """All heads at once, on z_t beside the pooled chunk."""
        x = jnp.concatenate([z, self.pool(chunk)])
        return eqx.filter_vmap(lambda head: head(x)[0])(self.heads)


def _stack(key: PRNGKeyArray, inputs: int, outputs: int, config: VlaCriticConfig, scale: float) -> Stack:
    """Hidden layers of the heads' size."""
    keys = jax.random.split(key, config.head_depth + 1)
    sizes = [inputs] + [config.head_width] * config.head_depth
    layers = tuple(Linear.init(k, i, o) for k, i, o in zip(keys, sizes[:-1], sizes[1:], strict=False))
    return Stack(layers, Linear.init(keys[-1], config.head_width, outputs, scale))
