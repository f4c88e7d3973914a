"""Bytes of activations, for one example: what the backward pass keeps, and what one layer needs while it is at work.

Per layer of T tokens of width W with N query heads and K key heads of size D over S keys, feed-forward M, activations of c
bytes, autodiff of the code as it is written keeps (a test compares this with JAX's own residuals)

    norms        2 T W (12 + c)           three float32 arrays, and the result
    projections  2 T N D c + 2 S K D c    queries and what enters the output projection; keys and values
    softmax      N T S (4 + c)            in float32, and rounded for the product with the values
    feed-forward f T M c                  f = 8 gated, 6 plain: the products, and what gelu keeps
    gates        2 T W c                  of the flow time's adaptive norms
    mask         5 N T S                  Gemma's, once for all layers: as truth values, and the zeros behind it
    more norms   24 T W + 12 T (N + K) D  Gemma 3's, behind the branches and on queries and keys; and its mask, N T S
    weights      c per number             where c < 4: their rounded copies, once for the whole batch

With checkpointing a layer keeps T W c, its input, and the rest exists for one layer at a time, while its backward pass runs.
A vision tower adds its patches' pixels and its last norm: T (3 p^2 + 2 W) 4 per picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lwd.learner.plan.flops import critic_tokens, prefix_tokens
from lwd.learner.plan.networks import PlannedShapes, products, weights
from lwd.models.vla.config import Gemma3Config, GemmaConfig, SiglipConfig


@dataclass(frozen=True, kw_only=True)
class Layers:
    """A stack of equal layers as the formulae see it.

    Attributes:
        depth, width, mlp, heads, kv_heads, head_dim: of the stack.
        tokens, keys: T and S.
        itemsize: c, bytes of an activation.
        gated: the feed-forward is gated.
        gates: the norms are adaptive and gate their branches.
        more_norms: Gemma 3's.
        masked: not every token sees every other.
        outside: bytes kept outside the layers.
        sequences: how many such sequences an example has (pictures).
    """

    depth: int
    width: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int
    tokens: int
    keys: int
    itemsize: int
    gated: bool = True
    gates: bool = False
    more_norms: bool = False
    masked: bool = False
    outside: int = 0
    sequences: int = 1

    @property
    def carried(self) -> int:
        """What enters one layer."""
        return self.sequences * self.tokens * self.width * self.itemsize

    @property
    def one(self) -> int:
        """What one layer keeps for its backward pass."""
        c, tokens, inner = self.itemsize, self.tokens, self.heads * self.head_dim
        inner_kv = self.kv_heads * self.head_dim
        stream = self.width * (2 * (12 + c) + 2 * c * self.gates + 24 * self.more_norms)
        heads = 2 * inner * c + 12 * self.more_norms * (inner + inner_kv)
        softmax = self.heads * self.keys * (4 + c + self.more_norms)
        feed_forward = (8 if self.gated else 6) * self.mlp * c
        own = tokens * (stream + heads + softmax + feed_forward)
        return self.sequences * (own + 2 * self.keys * inner_kv * c)

    @property
    def forwards(self) -> int:
        """What one layer needs at once where nothing is kept: its attention or its feed-forward, whichever is larger."""
        attention = self.heads * self.keys * (4 + self.itemsize)
        feed_forward = 3 * self.mlp * self.itemsize
        stream = self.width * (4 + 2 * self.itemsize)
        return self.sequences * self.tokens * (max(attention, feed_forward) + stream)

    def working(self, remat: bool) -> int:
        """What the layer at work in the backward pass adds: its recomputed values, or where they were kept its cotangents."""
        return self.one if remat else self.forwards

    def kept(self, remat: bool) -> int:
        """What all layers keep until the backward pass."""
        mask = 5 * self.heads * self.tokens * self.keys if self.masked and not remat else 0
        return mask + self.depth * (self.carried if remat else self.one) + self.sequences * self.outside


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Activations of one of the three gradient computations, bytes per example.

    Attributes:
        kept: until the backward pass.
        working: of the largest layer at work.
        shared: rounded copies of weights that the backward pass keeps, bytes for the whole batch.
    """

    kept: int
    working: int
    shared: int


def vision_layers(config: SiglipConfig, pictures: int, itemsize: int, *, at_once: bool) -> Layers:
    """The tower; `at_once` counts all pictures, otherwise the one at work."""
    return Layers(
        depth=config.depth,
        width=config.width,
        mlp=config.mlp,
        heads=config.heads,
        kv_heads=config.heads,
        head_dim=config.width // config.heads,
        tokens=config.tokens,
        keys=config.tokens,
        itemsize=itemsize,
        gated=False,
        outside=4 * config.tokens * (3 * config.patch**2 + 2 * config.width),
        sequences=pictures if at_once else 1,
    )


def decoder_layers(config: GemmaConfig | Gemma3Config, tokens: int, keys: int, itemsize: int) -> Layers:
    """A Gemma of either generation; the action expert where there are more keys than tokens."""
    expert, third = keys > tokens, isinstance(config, Gemma3Config)
    return Layers(
        depth=config.depth,
        width=config.width,
        mlp=config.mlp,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        tokens=tokens,
        keys=keys,
        itemsize=itemsize,
        gates=expert,
        more_norms=third,
        masked=True,
        # The final norm's two float32 arrays; the prefix's hands on keys and values before it.
        outside=8 * tokens * config.width if expert or third else 0,
    )


def policy_phase(networks: PlannedShapes, *, evaluations: int, backbone_trains: bool, qam: bool) -> Phase:
    """Flow matching (one evaluation) or QAM (one per flow step, and the reference beside it)."""
    config, steps = networks.policy_config, networks.chunk_steps
    c, prefix = _itemsize(config.compute), prefix_tokens(networks)
    pictures, remat = len(config.cameras), config.remat
    towers = vision_layers(config.vision, pictures, c, at_once=True)
    tower = vision_layers(config.vision, pictures, c, at_once=False)
    language = decoder_layers(config.language, prefix, prefix, c)
    own = steps + (0 if networks.policy.state is None else 1)
    expert = decoder_layers(config.expert, own, own + prefix, c)
    cache = 2 * config.language.depth * prefix * config.language.kv_heads * config.language.head_dim * c
    kept = cache + evaluations * expert.kept(remat)
    work = [expert.working(remat), language.forwards, tower.forwards]
    if qam:
        kept += cache  # the reference's
        work += [evaluations * expert.forwards, expert.kept(remat) + expert.working(remat)]
    if backbone_trains:
        kept += (
            cache + towers.kept(remat) + language.kept(remat)
        )  # the cache's gradient, and the prefix's own
        work += [language.working(remat), tower.working(remat)]
    policy = networks.policy
    learned = [policy.expert, policy.vision.layers, policy.language] if backbone_trains else [policy.expert]
    return Phase(kept=kept, working=max(work), shared=_rounded(learned, c, remat))


def critic_phase(networks: PlannedShapes, prompt_tokens: int) -> Phase:
    """Value or critic: one sequence forwards and backwards; the heads are small beside it."""
    config = networks.critic_config
    c, tokens = _itemsize(config.compute), critic_tokens(networks, prompt_tokens)
    towers = vision_layers(config.vision, len(config.cameras), c, at_once=True)
    tower = vision_layers(config.vision, 1, c, at_once=False)
    language = decoder_layers(config.language, tokens, tokens, c)
    backbone = networks.critic.backbone
    return Phase(
        shared=_rounded([backbone.vision.layers, backbone.language], c, config.remat),
        kept=towers.kept(config.remat) + language.kept(config.remat),
        working=max(tower.working(config.remat), language.working(config.remat)),
    )


def _rounded(stacks: Any, itemsize: int, remat: bool) -> int:
    return 0 if remat or itemsize == 4 else itemsize * weights(products(stacks))


def _itemsize(compute: str) -> int:
    return 2 if compute == "bfloat16" else 4
