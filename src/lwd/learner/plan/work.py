"""Floating-point operations of one learner step, term by term, in the order of Algorithm 2."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

from lwd.learner.plan.flops import (
    Network,
    critic_heads,
    critic_network,
    prefix_network,
    value_head,
    velocity_network,
)
from lwd.learner.plan.networks import PlannedShapes, Stage

CAST, PLAIN = 8, 2
"""Bytes moved per weight and pass: float32 is read, written as bfloat16 and read again; bfloat16 is read."""

Kind = Literal["forward", "to_input", "trained", "adapted"]


class _Times(NamedTuple):
    """How often a pass of one kind, without checkpointing, reads the weights and makes the product of the condition."""

    reads: int
    conditions: int


_TIMES: dict[Kind, _Times] = {
    "forward": _Times(1, 1),
    "to_input": _Times(2, 1),  # the flow time is a constant
    "trained": _Times(3, 3),  # forwards, and backwards for input and weights
    "adapted": _Times(3, 2),  # the weights themselves are frozen
}


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

    @property
    def learns(self) -> Kind:
        """How the policy is passed through where it trains."""
        return "adapted" if self.lora_rank else "trained"


@dataclass(frozen=True, kw_only=True)
class Passes:
    """So many passes of one kind through one network.

    Attributes:
        network: what is passed through.
        examples: how many passes.
        remat: the network recomputes its activations in the backward pass.
        kind: forwards; and back to the input; and back with the gradient of the weights, or of adapters beside them.
        conditions: flow times among the passes.
        loops: how many parts run one after the other.
        moved: bytes moved per weight whenever the weights are read.
    """

    network: Network
    examples: int
    remat: bool
    kind: Kind = "forward"
    conditions: int = 0
    loops: int = 1
    moved: int = CAST

    def flops(self, remat: bool) -> float:
        """Of all passes, with or without what checkpointing computes again."""
        shared = self.conditions * self.network.condition
        again = shared if remat and self.kind != "forward" else 0.0  # checkpointing repeats it with its layer
        return self.examples * self._one(remat) + _TIMES[self.kind].conditions * shared + again

    @property
    def traffic(self) -> int:
        """Bytes of weights moved."""
        again = 1 if self.remat and self.kind != "forward" else 0
        return (_TIMES[self.kind].reads + again) * self.loops * self.network.weights * self.moved

    def term(self, what: str, phase: str) -> Term:
        """As a line of the account."""
        return Term(
            what=what,
            phase=phase,
            flops=self.flops(self.remat),
            model_flops=self.flops(remat=False),
            traffic=self.traffic,
        )

    def _one(self, remat: bool) -> float:
        if self.kind == "forward":
            return self.network.forward
        if self.kind == "to_input":
            return self.network.to_input(remat)
        return self.network.trained(remat, adapters=self.kind == "adapted")


def sft_terms(networks: PlannedShapes, job: Job) -> list[Term]:
    """Flow matching: prefix and one velocity, forwards and backwards. Every example has a flow time of its own."""
    prefix, velocity = prefix_network(networks), velocity_network(networks)
    passes = partial(Passes, examples=job.batch, remat=job.remat, kind=job.learns)
    return [
        passes(network=prefix).term("prefix, forwards and backwards", "policy"),
        passes(network=velocity, conditions=job.batch).term("velocity, forwards and backwards", "policy"),
    ]


def rl_terms(networks: PlannedShapes, job: Job, evaluations: Evaluations) -> list[Term]:
    """DIVL for value and critic, QAM for the policy; offline and online differ in what the policy trains."""
    return [*_divl_terms(networks, job), *_qam_terms(networks, job, evaluations)]


def terms(networks: PlannedShapes, job: Job, flow_steps: int) -> list[Term]:
    """The account of one learner step of this stage."""
    if job.stage == "sft":
        return sft_terms(networks, job)
    return rl_terms(networks, job, Evaluations.of(flow_steps))


def _divl_terms(networks: PlannedShapes, job: Job) -> list[Term]:
    backbone = critic_network(networks, job.prompt_tokens)
    state_and_q = Network(stretches=(*backbone.stretches, *critic_heads(networks).stretches))
    state_and_value = Network(stretches=(*backbone.stretches, *value_head(networks).stretches))
    passes = partial(Passes, examples=job.batch, remat=job.remat)
    return [
        passes(network=state_and_q).term("target critic of the batch's actions (labels)", "value"),
        passes(network=state_and_value, kind="trained").term("value, forwards and backwards", "value"),
        passes(network=state_and_value).term("value of the next states (targets)", "critic"),
        passes(network=state_and_q, kind="trained").term("critic, forwards and backwards", "critic"),
    ]


def _qam_terms(networks: PlannedShapes, job: Job, evaluations: Evaluations) -> list[Term]:
    prefix, velocity = prefix_network(networks), velocity_network(networks)
    heads, state = critic_heads(networks), critic_network(networks, job.prompt_tokens)
    batch, on_path = job.policy_batch, evaluations.reference + evaluations.last
    passes = partial(Passes, remat=job.remat)
    backbone_learns = job.stage != "online"
    return [
        passes(network=prefix, examples=batch, kind=job.learns if backbone_learns else "forward").term(
            "policy's prefix" + (", forwards and backwards" if backbone_learns else ""), "policy"
        ),
        passes(network=prefix, examples=batch, moved=PLAIN).term("reference's prefix", "policy"),
        passes(
            network=velocity,
            examples=batch * evaluations.path,
            kind=job.learns,
            conditions=evaluations.path,
            loops=evaluations.path,
        ).term("policy along the path, forwards and backwards", "policy"),
        passes(network=velocity, examples=batch * on_path, conditions=on_path, loops=2, moved=PLAIN).term(
            "reference on the path", "policy"
        ),
        passes(network=state, examples=batch).term(
            "target critic's state for the terminal adjoint", "policy"
        ),
        Passes(network=heads, examples=batch, remat=False, kind="to_input").term(
            "gradient of Q in the chunk", "policy"
        ),
        passes(
            network=velocity,
            examples=batch * evaluations.adjoint,
            kind="to_input",
            conditions=evaluations.adjoint,
            loops=evaluations.adjoint,
            moved=PLAIN,
        ).term("lean adjoint through the reference", "policy"),
    ]
