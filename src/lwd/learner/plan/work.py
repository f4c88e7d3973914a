"""Floating-point operations of one learner step, term by term, in the order of Algorithm 2."""

from __future__ import annotations

from dataclasses import dataclass

from lwd.learner.plan.flops import (
    Network,
    critic_heads,
    critic_network,
    prefix_network,
    value_head,
    velocity_network,
)
from lwd.learner.plan.networks import Networks, Stage

CAST, PLAIN = 8, 2
"""Bytes moved per weight and pass: float32 is read, written as bfloat16 and read again; bfloat16 is read."""


@dataclass(frozen=True, kw_only=True)
class Term:
    """One line of the account.

    Attributes:
        what: in words.
        phase: "policy", "value", "critic".
        flops: of the whole batch.
        model_flops: without what checkpointing computes again: the numerator of model FLOP utilisation.
        traffic: bytes of weights moved: every pass reads them once, however large its batch is.
    """

    what: str
    phase: str
    flops: float
    model_flops: float
    traffic: int


@dataclass(frozen=True, kw_only=True)
class Evaluations:
    """How often QAM evaluates a velocity, per observation.

    Attributes:
        path: of the policy along its own path, with gradient.
        last: of the reference for the path's noiseless last step.
        reference: of the reference at the path's other points, all at once.
        adjoint: of the reference, forwards and back to the chunk.
    """

    path: int
    last: int
    reference: int
    adjoint: int

    @staticmethod
    def of(flow_steps: int) -> Evaluations:
        """T flow steps: `lwd.learner.qam.adjoint_matching_loss` with paths from the policy."""
        return Evaluations(path=flow_steps, last=1, reference=flow_steps - 1, adjoint=flow_steps)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is counted.

    Attributes:
        stage: which stage of Algorithm 1; decides what trains.
        batch, policy_batch: transitions for value and critic, and how many of them QAM's paths start from.
        remat: activation checkpointing, in every network.
        lora_rank: 0 trains the weights themselves.
        prompt_tokens: of the critic's prompt.
    """

    stage: Stage
    batch: int
    policy_batch: int
    remat: bool
    lora_rank: int
    prompt_tokens: int


def sft_terms(networks: Networks, job: Job) -> list[Term]:
    """Flow matching: prefix and one velocity, forwards and backwards. Every example has a flow time of its own."""
    prefix, velocity = prefix_network(networks), velocity_network(networks)
    lora = job.lora_rank > 0
    return [
        _term("prefix, forwards and backwards", "policy", job.batch, prefix, job.remat, "trained", lora),
        _term(
            "velocity, forwards and backwards", "policy", job.batch, velocity, job.remat, "trained", lora,
            conditions=job.batch,
        ),
    ]  # fmt: skip


def rl_terms(networks: Networks, job: Job, evaluations: Evaluations) -> list[Term]:
    """DIVL for value and critic, QAM for the policy; offline and online differ in what the policy trains."""
    return [*_divl_terms(networks, job), *_qam_terms(networks, job, evaluations)]


def terms(networks: Networks, job: Job, flow_steps: int) -> list[Term]:
    """The account of one learner step of this stage."""
    if job.stage == "sft":
        return sft_terms(networks, job)
    return rl_terms(networks, job, Evaluations.of(flow_steps))


def sampling_flops(networks: Networks, flow_steps: int) -> float:
    """One chunk on a robot: the prefix once, then the flow."""
    velocity = velocity_network(networks)
    return prefix_network(networks).forward + flow_steps * (velocity.forward + velocity.condition)


def _divl_terms(networks: Networks, job: Job) -> list[Term]:
    backbone = critic_network(networks, job.prompt_tokens)
    value, heads, batch = value_head(networks), critic_heads(networks), job.batch
    state_and_q = Network(stretches=(*backbone.stretches, *heads.stretches))
    state_and_value = Network(stretches=(*backbone.stretches, *value.stretches))
    return [
        _term("target critic of the batch's actions (labels)", "value", batch, state_and_q, job.remat),
        _term("value, forwards and backwards", "value", batch, state_and_value, job.remat, "trained"),
        _term("value of the next states (targets)", "critic", batch, state_and_value, job.remat),
        _term("critic, forwards and backwards", "critic", batch, state_and_q, job.remat, "trained"),
    ]


def _qam_terms(networks: Networks, job: Job, evaluations: Evaluations) -> list[Term]:
    prefix, velocity = prefix_network(networks), velocity_network(networks)
    heads, backbone = critic_heads(networks), critic_network(networks, job.prompt_tokens)
    batch, remat, lora = job.policy_batch, job.remat, job.lora_rank > 0
    learns = job.stage != "online"  # the backbone
    return [
        _term(
            "policy's prefix" + (", forwards and backwards" if learns else ""),
            "policy", batch, prefix, remat, "trained" if learns else "forward", lora,
        ),
        _term("reference's prefix", "policy", batch, prefix, remat, moved=PLAIN),
        _term(
            "policy along the path, forwards and backwards",
            "policy", batch * evaluations.path, velocity, remat, "trained", lora,
            conditions=evaluations.path, loops=evaluations.path, past=learns,
        ),
        _term(
            "reference on the path",
            "policy", batch * (evaluations.reference + evaluations.last), velocity, remat,
            conditions=evaluations.reference + evaluations.last, loops=2, moved=PLAIN,
        ),
        _term("target critic's state for the terminal adjoint", "policy", batch, backbone, remat),
        _term("gradient of Q in the chunk", "policy", batch, heads, False, "to_input"),
        _term(
            "lean adjoint through the reference",
            "policy", batch * evaluations.adjoint, velocity, remat, "to_input",
            conditions=evaluations.adjoint, loops=evaluations.adjoint, moved=PLAIN,
        ),
    ]  # fmt: skip


def _term(
    what: str,
    phase: str,
    examples: int,
    network: Network,
    remat: bool,
    kind: str = "forward",
    adapters: bool = False,
    *,
    conditions: int = 0,
    loops: int = 1,
    past: bool = True,
    moved: int = CAST,
) -> Term:
    """So many passes of one kind, `loops` of them one after the other; `conditions` counts the flow times among them."""

    def one(remat: bool) -> float:
        if kind == "trained":
            return network.trained(remat, past=past, adapters=adapters)
        return network.to_input(remat) if kind == "to_input" else network.forward

    # The condition's product: forwards, and where it trains twice backwards; checkpointing repeats it with its layer.
    repeats = (3 if not adapters else 2) if kind == "trained" else 1
    shared = conditions * network.condition
    again = shared if remat and kind != "forward" else 0.0
    passes = {"forward": 1, "to_input": 2, "trained": 3}[kind] + (remat and kind != "forward")
    return Term(
        what=what,
        phase=phase,
        flops=examples * one(remat) + repeats * shared + again,
        model_flops=examples * one(False) + repeats * shared,
        traffic=passes * loops * network.weights * moved,
    )
