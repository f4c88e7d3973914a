"""Floating-point operations of one pass through one network, for one example. A multiply-add is two.

Only matrix products are counted, attention's among them: norms, softmax and activations are a few per cent at full size and
run at the memory's speed, not at the matrix units'. A pass backwards costs as much as the one forwards for the gradient of a
product's input, and as much again for the gradient of its weights; attention has two inputs and no weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lwd.learner.plan.networks import PlannedShapes, conditions, products, weights
from lwd.models.vla.config import GemmaConfig, SiglipConfig


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One stretch of a network, run forwards once.

    Attributes:
        dense: products with weights.
        own: attention among the stretch's own tokens.
        past: attention to keys and values that came before; the backward pass always makes their gradients too, since they lie
            in one array with the stretch's own.
        weights: numbers in the weights, which every pass reads from memory.
        in_stack: inside a stack of layers, hence computed again in the backward pass under checkpointing.
        spared: what of it is not computed again: a last product that is only added needs no value to be differentiated.
        first: nothing before it is learned, so the gradient of its input is not needed in training.
    """

    dense: float = 0.0
    own: float = 0.0
    past: float = 0.0
    weights: int = 0
    in_stack: bool = False
    spared: float = 0.0
    first: bool = False

    @property
    def forward(self) -> float:
        """Forwards."""
        return self.dense + self.own + self.past

    def again(self, remat: bool) -> float:
        """What checkpointing computes a second time."""
        return self.forward - self.spared if remat and self.in_stack else 0.0

    def to_input(self) -> float:
        """Backwards to the stretch's input alone: weights are constants."""
        return self.dense + 2 * (self.own + self.past)

    def trained(self, remat: bool) -> float:
        """Forwards and backwards with the gradient of the weights."""
        inputs = 0.0 if self.first else self.dense
        return self.forward + self.again(remat) + inputs + 2 * (self.own + self.past) + self.dense

    def adapted(self, remat: bool) -> float:
        """`trained` where the weights are frozen and adapters learn beside them; their own products are left out."""
        return self.trained(remat) - (0.0 if self.first else self.dense)


@dataclass(frozen=True, kw_only=True)
class Network:
    """The stretches of one network.

    Attributes:
        stretches: for every example.
        condition: of the flow time alone; once per flow step where the batch shares it.
    """

    stretches: tuple[Pass, ...]
    condition: float = 0.0

    @property
    def weights(self) -> int:
        """Numbers in the weights of all stretches."""
        return sum(stretch.weights for stretch in self.stretches)

    @property
    def forward(self) -> float:
        """One example forwards."""
        return sum(stretch.forward for stretch in self.stretches)

    def to_input(self, remat: bool) -> float:
        """One example forwards and back to the input."""
        return self.forward + sum(s.again(remat) + s.to_input() for s in self.stretches)

    def trained(self, remat: bool, *, adapters: bool = False) -> float:
        """One example forwards and backwards."""
        return sum(s.adapted(remat) if adapters else s.trained(remat) for s in self.stretches)


def prefix_tokens(networks: PlannedShapes) -> int:
    """Tokens of pi0.5's prefix: every camera's patches, then the prompt."""
    config = networks.policy_config
    return len(config.cameras) * config.vision.tokens + config.prompt_tokens


def critic_tokens(networks: PlannedShapes, prompt_tokens: int) -> int:
    """Tokens of the critic's sequence: patches, prompt, proprio, readout."""
    config = networks.critic_config
    return len(config.cameras) * config.vision.tokens + prompt_tokens + 2


def prefix_network(networks: PlannedShapes) -> Network:
    """Pictures and prompt of one observation through SigLIP and the backbone."""
    policy, config = networks.policy, networks.policy_config
    tokens = prefix_tokens(networks)
    return Network(
        stretches=(
            *_pictures(policy.vision, policy.project, config.vision, len(config.cameras)),
            _applied(
                policy.language.layers,
                tokens,
                own=_attention(config.language, tokens, tokens),
                in_stack=True,
                last=policy.language.layers.mlp.down,
            ),
        )
    )


def velocity_network(networks: PlannedShapes) -> Network:
    """One flow step of one chunk through the action expert."""
    policy, config = networks.policy, networks.policy_config
    own = networks.chunk_steps + (0 if policy.state is None else 1)
    return Network(
        stretches=(
            _applied(policy.action_in, networks.chunk_steps),
            _applied(
                policy.expert.layers,
                own,
                own=_attention(config.expert, own, own),
                past=_attention(config.expert, own, prefix_tokens(networks)),
                in_stack=True,
            ),
            _applied(policy.action_out, networks.chunk_steps),
        ),
        condition=2.0 * (weights(products(policy.time)) + weights(conditions(policy.expert))),
    )


def critic_network(networks: PlannedShapes, prompt_tokens: int) -> Network:
    """One observation to z_t."""
    backbone, config = networks.critic.backbone, networks.critic_config
    tokens = critic_tokens(networks, prompt_tokens)
    language = config.language
    attention = 4.0 * language.depth * tokens * tokens * language.heads * language.head_dim
    return Network(
        stretches=(
            *_pictures(backbone.vision, backbone.project, config.vision, len(config.cameras)),
            _applied(backbone.proprio, 1, first=True),
            _applied(backbone.language.layers, tokens, own=attention, in_stack=True),
        )
    )


def value_head(networks: PlannedShapes) -> Network:
    """z_t to the atoms' logits."""
    return Network(stretches=(_applied(networks.critic.value, 1),))


def critic_heads(networks: PlannedShapes) -> Network:
    """z_t and a chunk to the heads' scalars."""
    pool, steps = networks.critic.pool, networks.chunk_steps
    every_step = [pool.first, pool.second, pool.key, pool.value]
    return Network(
        stretches=(
            _applied(every_step, steps, own=4.0 * steps * networks.critic_config.chunk_width),
            _applied([pool.out, networks.critic.heads], 1),
        )
    )


def _pictures(vision: Any, project: Any, config: SiglipConfig, pictures: int) -> tuple[Pass, ...]:
    """The tower over every picture, and the projection to the backbone's width."""
    tokens = config.tokens * pictures
    attention = 4.0 * config.depth * tokens * config.tokens * config.width
    return (
        _applied(vision.patches, tokens, first=True),
        _applied(vision.layers, tokens, own=attention, in_stack=True, last=vision.layers.down),
        _applied(project, tokens),
    )


def _applied(
    tree: Any,
    tokens: int,
    *,
    own: float = 0.0,
    past: float = 0.0,
    in_stack: bool = False,
    last: Any = None,
    first: bool = False,
) -> Pass:
    """Every matrix of a tree applied to so many vectors, and the attention among them."""
    numbers = weights(products(tree))
    return Pass(
        dense=2.0 * tokens * numbers,
        own=own,
        past=past,
        weights=numbers,
        in_stack=in_stack,
        spared=2.0 * tokens * weights(products(last)),
        first=first,
    )


def _attention(config: GemmaConfig, queries: int, keys: int) -> float:
    """Logits and weighted values of every layer."""
    return 4.0 * config.depth * queries * keys * config.heads * config.head_dim
