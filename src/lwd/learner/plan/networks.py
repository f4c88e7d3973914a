"""The networks of a plan as shapes: the real modules under `jax.eval_shape`, so that nothing is counted twice or forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import equinox as eqx
import jax

from lwd.errors import ConfigError, UnknownNameError
from lwd.models.arrays import is_array_or_shape
from lwd.models.mlp import Linear, Normalizer
from lwd.models.vla.config import DUMMY, PI05, PiConfig, VlaCriticConfig, critic_270m, critic_dummy
from lwd.models.vla.critic import VlaCritic
from lwd.models.vla.layers import AdaptiveRmsNorm, Dense
from lwd.models.vla.pi05 import PiPolicy

Stage = Literal["sft", "offline", "online"]
STAGES: tuple[Stage, ...] = ("sft", "offline", "online")


@dataclass(frozen=True, kw_only=True)
class PlannedShapes:
    """Policy, critic and what the robot asks of them; the modules hold shapes, not numbers.

    Attributes:
        policy, critic: of `eqx.filter_eval_shape`.
        policy_config, critic_config: their sizes.
        chunk_steps: H of an action chunk.
    """

    policy: PiPolicy
    critic: VlaCritic
    policy_config: PiConfig
    critic_config: VlaCriticConfig
    chunk_steps: int

    @property
    def backbone(self) -> list[Any]:
        """What is frozen online: the vision-language part of the policy."""
        policy = self.policy
        return [policy.vision, policy.project, policy.tokens, policy.language]

    @property
    def head(self) -> list[Any]:
        """What trains online: the action expert with its inputs and outputs."""
        policy = self.policy
        return [policy.expert, policy.action_in, policy.time, policy.state, policy.action_out]


def shapes_of(policy: PiConfig, critic: VlaCriticConfig) -> PlannedShapes:
    """The modules of these sizes, without a single number in memory."""
    normalizer = Normalizer.identity(critic.proprio_dim)
    key = jax.random.key(0)
    return PlannedShapes(
        policy=eqx.filter_eval_shape(PiPolicy.init, key, policy, normalizer),
        critic=eqx.filter_eval_shape(VlaCritic.init, key, critic, normalizer),
        policy_config=policy,
        critic_config=critic,
        chunk_steps=critic.chunk_steps,
    )


def sizes_named(
    name: str, chunk_steps: int, action_dim: int, proprio_dim: int
) -> tuple[PiConfig, VlaCriticConfig]:
    """The configurations of this name for this robot; UnknownNameError where there are none."""
    policies = {"pi05": (PI05, critic_270m), "dummy": (DUMMY, critic_dummy)}
    if name not in policies:
        raise UnknownNameError("model", name, policies)
    policy, critic = policies[name]
    if min(chunk_steps, action_dim, proprio_dim) < 1:
        raise ConfigError("A plan needs chunk_steps, action_dim and proprio_dim of at least 1.")
    if action_dim > policy.action_dim:
        raise ConfigError(
            f"{name} has actions of up to {policy.action_dim} numbers, the robot has {action_dim}: "
            "choose a policy with a wider action vector."
        )
    return policy, critic(chunk_steps, action_dim, proprio_dim)


def leaves(tree: Any) -> list[Any]:
    """Arrays, or shapes of arrays."""
    return [leaf for leaf in jax.tree.leaves(tree) if is_array_or_shape(leaf)]


def count(tree: Any) -> int:
    """Number of parameters."""
    return sum(leaf.size for leaf in leaves(tree))


def size(tree: Any) -> int:
    """Bytes of the parameters in their types."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves(tree))


def products(tree: Any) -> list[tuple[int, int, int]]:
    """Every weight matrix of a tree as (how many of them, inputs, outputs); the gates of adaptive norms are left out.

    Those do not act on tokens; `conditions` has them.
    """
    return [_matrix(layer) for layer in _layers(tree, Dense | Linear) if isinstance(layer, Dense | Linear)]


def conditions(tree: Any) -> list[tuple[int, int, int]]:
    """The matrices of adaptive norms, which act on the flow time alone."""
    return [_matrix(n.modulate) for n in _layers(tree, AdaptiveRmsNorm) if isinstance(n, AdaptiveRmsNorm)]


def weights(matrices: list[tuple[int, int, int]]) -> int:
    """Numbers in these matrices."""
    return sum(many * inputs * outputs for many, inputs, outputs in matrices)


def adapter_count(tree: Any, rank: int) -> int:
    """Parameters of one LoRA adapter (in x rank and rank x out) beside every matrix of a tree."""
    return sum(
        many * rank * (inputs + outputs) for many, inputs, outputs in products(tree) + conditions(tree)
    )


def parts(networks: PlannedShapes) -> Mapping[str, int]:
    """Parameters of every part of policy and critic."""
    policy, critic = networks.policy, networks.critic
    return {
        "policy: SigLIP": count(policy.vision),
        "policy: token table": count(policy.tokens),
        "policy: Gemma backbone": count([policy.language, policy.project]),
        "policy: action expert": count(networks.head),
        "critic: SigLIP": count(critic.backbone.vision),
        "critic: token table": count(critic.backbone.tokens),
        "critic: Gemma 3 backbone": count(critic.backbone)
        - count([critic.backbone.vision, critic.backbone.tokens]),
        "critic: value and critic heads": count([critic.value, critic.pool, critic.heads]),
    }


def _layers(tree: Any, kind: Any) -> list[Any]:
    """Modules of this kind; inside adaptive norms none is looked for but the norm itself."""
    stop = kind | AdaptiveRmsNorm
    return jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, stop))


def _matrix(layer: Dense | Linear) -> tuple[int, int, int]:
    shape = layer.weight.shape
    many = 1
    for length in shape[:-2]:
        many *= length
    return many, shape[-2], shape[-1]
