"""Bytes that a learner step needs on one GPU: what stays between steps, and the largest of its gradient computations.

FSDP divides parameters, moments, averages and gradients by the number of GPUs; every GPU gathers one layer ahead of the one it
works on. Activations and batches belong to a GPU's own examples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lwd.learner.plan.activations import Phase, critic_phase, policy_phase
from lwd.learner.plan.networks import PlannedShapes, Stage, adapter_count, count, products, size, weights
from lwd.learner.plan.work import Job

MOMENTS = 2 * 4
"""AdamW keeps two float32 numbers per trained parameter."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One line of the table.

    Attributes:
        what: in words.
        size: bytes on one GPU.
        stays: between learner steps; the others exist during the largest gradient computation.
    """

    what: str
    size: int
    stays: bool


@dataclass(frozen=True, kw_only=True)
class Gradient:
    """One gradient computation: what is learned, and its activations per example."""

    what: str
    trained: int
    activations: Phase
    examples: int


def trained_by_policy(networks: PlannedShapes, stage: Stage, lora_rank: int) -> int:
    """Numbers of the policy that train: everything, or online the expert; with LoRA, adapters in place of their matrices.

    Outside the stacks (projections, flow time) matrices are small and train themselves.
    """
    policy = networks.policy
    parts = networks.head if stage == "online" else [*networks.head, *networks.backbone]
    if not lora_rank:
        return count(parts)
    stacks: list[Any] = [policy.expert]
    outside: list[Any] = [policy.action_in, policy.time, policy.state, policy.action_out]
    if stage != "online":
        stacks += [policy.vision.layers, policy.language]
        outside += [policy.vision.patches, policy.project]
    return adapter_count(stacks, lora_rank) + count(outside)


def trained_by_value(networks: PlannedShapes) -> int:
    """Backbone and value head."""
    return count([networks.critic.backbone, networks.critic.value])


def trained_by_critic(networks: PlannedShapes) -> int:
    """Backbone, chunk pooling and critic heads."""
    return count([networks.critic.backbone, networks.critic.pool, networks.critic.heads])


def state_items(networks: PlannedShapes, job: Job, gpus: int) -> list[Item]:
    """What stays between learner steps, divided over the GPUs."""
    trained = trained_by_policy(networks, job.stage, job.lora_rank)
    policy, whole = policy_size(networks, job), count(networks.policy)
    items = [
        ("policy, parameters", policy),
        ("policy, AdamW moments", MOMENTS * trained),
        ("policy, published average", policy),
    ]
    if job.stage != "sft":
        critic = size(networks.critic)
        moments = MOMENTS * (trained_by_value(networks) + trained_by_critic(networks))
        reference = 2 if networks.policy_config.compute == "bfloat16" else 4
        items += [
            ("reference, frozen", reference * whole),
            ("value and critic, parameters", critic),
            ("value and critic, AdamW moments", moments),
            ("target critic", critic),
        ]
    return [Item(what=what, size=math.ceil(total / gpus), stays=True) for what, total in items]


def policy_size(networks: PlannedShapes, job: Job) -> int:
    """Bytes of one policy: float32, or with LoRA a bfloat16 base beside float32 adapters."""
    if not job.lora_rank:
        return size(networks.policy)
    return 2 * count(networks.policy) + 4 * trained_by_policy(networks, job.stage, job.lora_rank)


def gradients(networks: PlannedShapes, job: Job, flow_steps: int) -> list[Gradient]:
    """The gradient computations of one learner step, one after the other."""
    trained = trained_by_policy(networks, job.stage, job.lora_rank)
    learns, qam = job.stage != "online", job.stage != "sft"
    policy = Gradient(
        what="policy",
        trained=trained,
        activations=policy_phase(
            networks, evaluations=flow_steps if qam else 1, backbone_trains=learns, qam=qam
        ),
        examples=job.policy_batch if qam else job.batch,
    )
    if not qam:
        return [policy]
    critic = critic_phase(networks, job.prompt_tokens)
    value, q = trained_by_value(networks), trained_by_critic(networks)
    return [
        Gradient(what="value", trained=value, activations=critic, examples=job.batch),
        Gradient(what="critic", trained=q, activations=critic, examples=job.batch),
        policy,
    ]


def gradient_items(networks: PlannedShapes, gradient: Gradient, gpus: int) -> list[Item]:
    """What one gradient computation adds on one GPU while it runs."""
    here = share(gradient.examples, gpus)
    what, phase = gradient.what, gradient.activations
    return _passing(
        what,
        ("gradients", math.ceil(4 * gradient.trained / gpus)),
        ("activations kept for the backward pass", here * phase.kept + phase.shared),
        ("activations of the layer at work", here * phase.working),
        ("weights of the layer at work", layer_at_work(networks, what, gpus)),
    )


def update_items(gradient: Gradient, gpus: int) -> list[Item]:
    """What the optimiser's step adds after it: the activations are gone, the clipped update is a second copy."""
    copy = math.ceil(4 * gradient.trained / gpus)
    return _passing(gradient.what, ("gradients", copy), ("update of the optimiser", copy))


def _passing(what: str, *rows: tuple[str, int]) -> list[Item]:
    return [Item(what=f"{what}: {name}", size=total, stays=False) for name, total in rows]


def batch_item(networks: PlannedShapes, job: Job, gpus: int) -> Item:
    """Two batches (one at work, one arriving), and one observation's pictures as floats."""
    config = networks.policy_config
    pixels = len(config.cameras) * config.vision.image**2 * 3
    prompts = 4 * (config.prompt_tokens + (0 if job.stage == "sft" else job.prompt_tokens))
    vectors = 4 * (
        networks.critic_config.proprio_dim + networks.critic_config.action_dim * networks.chunk_steps
    )
    observations = 1 if job.stage == "sft" else 2
    each = 2 * (observations * (pixels + prompts) + vectors) + 4 * pixels
    return Item(what="batches", size=share(job.batch, gpus) * each, stays=True)


def items(networks: PlannedShapes, job: Job, flow_steps: int, gpus: int) -> list[Item]:
    """The table for one GPU: what stays, and the largest gradient computation or optimiser step."""
    found = gradients(networks, job, flow_steps)
    candidates = [gradient_items(networks, g, gpus) for g in found] + [update_items(g, gpus) for g in found]
    largest = max(candidates, key=lambda rows: sum(row.size for row in rows))
    return [*state_items(networks, job, gpus), batch_item(networks, job, gpus), *largest]


def layer_at_work(networks: PlannedShapes, what: str, gpus: int) -> int:
    """The largest layer in the type of the activations; under FSDP gathered, with the next one, and the token table whole."""
    policy, backbone = networks.policy, networks.critic.backbone
    owner, config = (policy, networks.policy_config) if what == "policy" else (backbone, backbone.config)
    stacks = [owner.vision, owner.language] + ([policy.expert] if what == "policy" else [])
    layer = max(weights(products(stack.layers)) // stack.config.depth for stack in stacks)
    rounded = layer * (2 if config.compute == "bfloat16" else 0)
    if gpus == 1:
        return rounded
    return rounded + 2 * 4 * layer + 4 * count(owner.tokens)


def share(examples: int, gpus: int) -> int:
    """Examples on the busiest GPU."""
    return math.ceil(examples / gpus)
