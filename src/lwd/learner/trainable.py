"""Which leaves train, as configuration: masks of the trained leaves, adapters, and the type of what is frozen.

Paper, Section 6: offline everything trains; online the policy's vision-language backbone is frozen and only its action
expert trains, value and critic fully.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp

from lwd.errors import ConfigError
from lwd.learner.optimizers import all_leaves
from lwd.models.protocols import LearnedCritic, LearnedPolicy
from lwd.models.vla.config import FloatType
from lwd.models.vla.lora import LoraConfig, adapter_mask, has_adapters, merged, with_adapters

LearnedPolicyT = TypeVar("LearnedPolicyT", bound=LearnedPolicy)
LearnedCriticT = TypeVar("LearnedCriticT", bound=LearnedCritic)


@dataclass(frozen=True, kw_only=True)
class Trainable:
    """What of the policy trains. Value and critic always train fully.

    Attributes:
        policy: "all", or "expert": everything that `encode` reads is frozen, so the action expert and the projections of
            action and flow time train.
        lora: adapters in place of some parts. If one of them belongs to the backbone, the rest of the backbone is frozen.
        shared_prefix: policy and reference encode an observation once, together. Only right where no stage since the
            reference has trained the backbone, so offline must be "expert" as well; a stage refuses to begin otherwise.
        frozen_type: in which the frozen leaves, and the reference's same leaves, are kept. bfloat16 halves them, and
            changes nothing in a network that computes in bfloat16 but the rounding of norms.
    """

    policy: Literal["all", "expert"] = "all"
    lora: LoraConfig | None = None
    shared_prefix: bool = False
    frozen_type: FloatType = "float32"

    def __post_init__(self) -> None:
        parts = () if self.lora is None else self.lora.parts
        adapts_backbone = any(part != "expert" for part in parts)
        if self.policy == "expert" and adapts_backbone:
            raise ConfigError(
                f'Trainable: policy="expert" freezes the backbone, lora.parts {parts} adapts it. '
                'Use policy="all", or adapters on the expert alone.'
            )
        if self.shared_prefix and self.policy != "expert":
            raise ConfigError(
                'Trainable: shared_prefix needs policy="expert"; a backbone that trains differs from the reference\'s.'
            )

    @property
    def backbone(self) -> bool:
        """Whether the policy's backbone trains as a whole."""
        return self.policy == "all" and (self.lora is None or set(self.lora.parts) <= {"expert"})


ALL = Trainable()


def trained_policy(policy: LearnedPolicyT, trainable: Trainable = ALL) -> LearnedPolicyT:
    """Mask of the policy's trained leaves; the normaliser never is one.

    Raises:
        ConfigError: it has no backbone to freeze.
    """
    mask = without(all_leaves(policy), lambda p: (p.normalizer,))
    if not trainable.backbone:
        if not policy.encoder_parts():
            raise ConfigError(
                f"A {type(policy).__name__} has no vision-language backbone to freeze or adapt. "
                "Use Trainable() for it."
            )
        mask = without(mask, lambda p: p.encoder_parts())
    for name in () if trainable.lora is None else trainable.lora.parts:
        mask = eqx.tree_at(lambda p, name=name: getattr(p, name), mask, adapter_mask(getattr(policy, name)))
    return mask


def trained_value(critic: LearnedCriticT) -> LearnedCriticT:
    """Mask of Eq 12's leaves."""
    mask = jax.tree.map(lambda _: False, critic)
    return eqx.tree_at(lambda c: c.value_parts(), mask, tuple(map(all_leaves, critic.value_parts())))


def trained_critic(critic: LearnedCriticT) -> LearnedCriticT:
    """Mask of Eq 15's leaves."""
    mask = jax.tree.map(lambda _: False, critic)
    return eqx.tree_at(lambda c: c.critic_parts(), mask, tuple(map(all_leaves, critic.critic_parts())))


def without(mask: Any, parts: Any) -> Any:
    """The mask with these parts, subtrees chosen by a function of it, set to False."""
    return eqx.tree_at(parts, mask, replace_fn=lambda part: jax.tree.map(lambda _: False, part))


def prepared(policy: LearnedPolicyT, trainable: Trainable) -> LearnedPolicyT:
    """The policy as a stage trains it: with the adapters of this configuration, and every leaf in its type.

    Adapters of an earlier stage with the same settings go on; others are merged first. Trained leaves are in float32: a
    step of AdamW, or of an average, would be rounded away in bfloat16.
    """
    if has_adapters(policy) and not _fits(policy, trainable.lora):
        policy = merged(policy)
    if trainable.lora is not None and not has_adapters(policy):
        policy = with_adapters(policy, trainable.lora)
    return typed(policy, trainable)


def typed(policy: LearnedPolicyT, trainable: Trainable) -> LearnedPolicyT:
    """Trained leaves and the normaliser in float32, frozen ones in `frozen_type`.

    For a reference: the same leaves as in the policy, so that the difference of the two velocities is that of what was
    learned, not of rounding.
    """
    trained = trained_policy(policy, trainable)

    def cast(leaf: Any, trains: bool) -> Any:
        if not eqx.is_inexact_array(leaf):
            return leaf
        return leaf.astype(jnp.float32 if trains else trainable.frozen_type)

    return eqx.tree_at(lambda p: p.normalizer, jax.tree.map(cast, policy, trained), policy.normalizer)


def check_shared_prefix(trainable: Trainable, reference: LearnedPolicy, policy: LearnedPolicy) -> None:
    """Once, where a stage begins: a shared encoding needs equal backbones.

    Raises:
        ConfigError: the configuration promises it, and they differ.
    """
    if not trainable.shared_prefix:
        return
    ours = jax.tree.leaves(policy.encoder_parts())
    theirs = jax.tree.leaves(typed(reference, trainable).encoder_parts())
    if not all(bool(jnp.array_equal(a, b)) for a, b in zip(ours, theirs, strict=True)):
        raise ConfigError(
            "Trainable.shared_prefix: the policy's backbone is not the reference's, an earlier stage trained it. "
            'Set shared_prefix=False, or train offline with policy="expert" too.'
        )


def _fits(policy: LearnedPolicy, lora: LoraConfig | None) -> bool:
    """Whether these are adapters of this configuration, as far as the next steps can tell."""
    if lora is None:
        return False
    made = eqx.filter_eval_shape(lambda p: with_adapters(merged(p), lora), policy)
    return jax.tree.structure(made) == jax.tree.structure(policy) and all(
        a.shape == b.shape for a, b in zip(jax.tree.leaves(made), jax.tree.leaves(policy), strict=True)
    )
