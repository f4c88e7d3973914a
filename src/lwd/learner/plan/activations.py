"""Bytes of activations, for one example: what the backward pass keeps, and what one layer needs while it is at work.

Per layer of T tokens of width W with N query heads and K key heads of size D over S keys, feed-forward M, activations of c
bytes, autodiff of the code as it is written keeps

    norms       2 T W (4 + 4 + c)          the input and the normalised input in float32, and the result
    projections T (N + 2 K) D c            queries, keys, values
    weights     N T S (4 + c)              the softmax in float32, and rounded for the product with the values
    mixed       T N D c                    what enters the output projection
    feed-forward f T M c                   f = 6 gated (gate, up, three of gelu, their product), 4 plain
    branches    2 T W c                    only where a gate or another norm stands behind a branch

(where c = 4 the rounded copies are the float32 ones and are counted once). With checkpointing a layer keeps T W c, its input;
the rest exists for one layer at a time, twice over while its backward pass runs: once recomputed, once as cotangents.
"""

from __future__ import annotations

from dataclasses import dataclass

from lwd.learner.plan.flops import critic_tokens, prefix_tokens
from lwd.learner.plan.networks import Networks
from lwd.models.vla.config import Gemma3Config, GemmaConfig, SiglipConfig


@dataclass(frozen=True, kw_only=True)
class Layers:
    """A stack of equal layers as the formulae see it.

    Attributes:
        depth, width, mlp, heads, kv_heads, head_dim: of the stack.
        tokens, keys: T and S.
        itemsize: c, bytes of an activation.
        gated: the feed-forward is gated.
        behind: a gate or a norm stands behind each branch.
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
    behind: bool = False
    sequences: int = 1

    @property
    def carried(self) -> int:
        """What enters one layer."""
        return self.sequences * self.tokens * self.width * self.itemsize

    @property
    def one(self) -> int:
        """What one layer keeps for its backward pass."""
        c = self.itemsize
        rounded = 0 if c == 4 else c
        norms = 2 * self.width * (4 + 4 + rounded)
        projections = (2 * self.heads + 2 * self.kv_heads) * self.head_dim * c
        softmax = self.heads * self.keys * (4 + rounded)
        feed_forward = (6 if self.gated else 4) * self.mlp * c
        branches = 2 * self.width * c if self.behind else 0
        return self.sequences * self.tokens * (norms + projections + softmax + feed_forward + branches)

    @property
    def forwards(self) -> int:
        """What one layer needs at once where nothing is kept: its attention or its feed-forward, whichever is larger."""
        attention = self.heads * self.keys * (4 + self.itemsize)
        feed_forward = 3 * self.mlp * self.itemsize
        stream = self.width * (4 + 2 * self.itemsize)
        return self.sequences * self.tokens * (max(attention, feed_forward) + stream)

    def kept(self, remat: bool) -> int:
        """What all layers keep until the backward pass."""
        return self.depth * (self.carried if remat else self.one)

    def working(self, remat: bool) -> int:
        """What the layer at work in the backward pass adds: recomputed values and cotangents, or cotangents alone."""
        return (2 if remat else 1) * self.one


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Activations of one of the three gradient computations, bytes per example.

    Attributes:
        kept: until the backward pass.
        working: of the largest layer at work.
    """

    kept: int
    working: int

    @property
    def total(self) -> int:
        """Both."""
        return self.kept + self.working


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
        sequences=pictures if at_once else 1,
    )


def decoder_layers(
    config: GemmaConfig | Gemma3Config, tokens: int, keys: int, itemsize: int, behind: bool
) -> Layers:
    """A Gemma of either generation."""
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
        behind=behind,
    )


def policy_phase(networks: Networks, *, evaluations: int, backbone_trains: bool, qam: bool) -> Phase:
    """Flow matching (one evaluation) or QAM (one per flow step, and the reference beside it)."""
    config, steps = networks.policy_config, networks.chunk_steps
    c, prefix = _itemsize(config.compute), prefix_tokens(networks)
    pictures, remat = len(config.cameras), config.remat
    towers = vision_layers(config.vision, pictures, c, at_once=True)
    tower = vision_layers(config.vision, pictures, c, at_once=False)
    language = decoder_layers(config.language, prefix, prefix, c, behind=False)
    own = steps + (0 if networks.policy.state is None else 1)
    expert = decoder_layers(config.expert, own, own + prefix, c, behind=True)
    cache = 2 * config.language.depth * prefix * config.language.kv_heads * config.language.head_dim * c
    kept = cache + evaluations * expert.kept(remat)
    work = [expert.working(remat), language.forwards, tower.forwards]
    if qam:
        kept += cache  # the reference's
        work += [evaluations * expert.forwards, expert.kept(remat) + expert.working(remat)]
    if backbone_trains:
        kept += cache + towers.kept(remat) + language.kept(remat)  # the cache's gradient, and the prefix's own
        work += [language.working(remat), tower.working(remat)]
    return Phase(kept=kept, working=max(work))


def critic_phase(networks: Networks, prompt_tokens: int) -> Phase:
    """Value or critic: one sequence forwards and backwards; the heads are small beside it."""
    config = networks.critic_config
    c, tokens = _itemsize(config.compute), critic_tokens(networks, prompt_tokens)
    towers = vision_layers(config.vision, len(config.cameras), c, at_once=True)
    tower = vision_layers(config.vision, 1, c, at_once=False)
    language = decoder_layers(config.language, tokens, tokens, c, behind=True)
    return Phase(
        kept=towers.kept(config.remat) + language.kept(config.remat),
        working=max(tower.working(config.remat), language.working(config.remat)),
    )


def _itemsize(compute: str) -> int:
    return 2 if compute == "bfloat16" else 4
