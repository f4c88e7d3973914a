"""`lwd plan`: whether a configuration fits its GPUs, what its learner step costs, and what to change where it does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from lwd.errors import ConfigError
from lwd.learner.plan.devices import DEVICES, Device, device_named
from lwd.learner.plan.memory import (
    MOMENTS,
    Item,
    items,
    policy_size,
    share,
    trained_by_critic,
    trained_by_policy,
    trained_by_value,
)
from lwd.learner.plan.networks import STAGES, PlannedShapes, Stage, count, shapes_of, sizes_named
from lwd.learner.plan.work import Job, Term, terms

UTILISATION = 0.4
"""Share of the peak at which matrix products run. Assumed; `python -m benchmarks vla_step` measures it where there is a GPU."""


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """What is asked.

    Attributes:
        model: "pi05" or "dummy".
        stage: "sft", "offline" or "online".
        batch: transitions per learner step, over all GPUs.
        policy_batch: how many of them QAM's paths start from; all if None.
        gpus, gpu: how many, and which.
        lora_rank: 0 trains the policy's weights, otherwise adapters of this rank.
        remat: activation checkpointing, in every network.
        flow_steps: T.
        chunk_steps, action_dim, proprio_dim: of the robot.
        critic_prompt_tokens: length of the critic's prompt.
        utilisation: share of the peak at which matrix products run.
    """

    model: str = "pi05"
    stage: Stage = "offline"
    batch: int = 32
    policy_batch: int | None = None
    gpus: int = 1
    gpu: str = "h200"
    lora_rank: int = 0
    remat: bool = False
    flow_steps: int = 10
    chunk_steps: int = 30
    action_dim: int = 14
    proprio_dim: int = 14
    critic_prompt_tokens: int = 48
    utilisation: float = UTILISATION

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ConfigError(f"PlanRequest.stage must be one of {', '.join(STAGES)}, got {self.stage!r}.")
        for name in ("batch", "gpus", "critic_prompt_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"PlanRequest.{name} must be at least 1, got {getattr(self, name)}.")
        if self.flow_steps < 2 or self.lora_rank < 0:
            raise ConfigError("PlanRequest needs flow_steps of at least 2 and a lora_rank of at least 0.")
        if self.policy_batch is not None and not 1 <= self.policy_batch <= self.batch:
            raise ConfigError(f"PlanRequest needs 1 <= policy_batch <= batch, got {self.policy_batch}.")
        if not 0.0 < self.utilisation <= 1.0:
            raise ConfigError(f"PlanRequest.utilisation must be in (0, 1], got {self.utilisation}.")

    @property
    def job(self) -> Job:
        """What the account counts."""
        return Job(
            stage=self.stage,
            batch=self.batch,
            policy_batch=self.policy_batch or self.batch,
            remat=self.remat,
            lora_rank=self.lora_rank,
            prompt_tokens=self.critic_prompt_tokens,
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The answer.

    Attributes:
        request, device: what was asked, and the GPU.
        items: memory of one GPU, line by line.
        terms: floating-point operations of one learner step over all GPUs, line by line.
        step_s: estimated seconds of a learner step.
        remedies: what would make it fit, best first; empty where it fits, or where nothing tried would do.
    """

    request: PlanRequest
    device: Device
    items: list[Item]
    terms: list[Term]
    step_s: float
    remedies: list[str]

    @property
    def size(self) -> int:
        """Bytes on one GPU at the peak."""
        return sum(item.size for item in self.items)

    @property
    def fits(self) -> bool:
        """Within the usable memory."""
        return self.size <= self.device.usable

    @property
    def flops(self) -> float:
        """Of one learner step, what checkpointing computes again included."""
        return sum(term.flops for term in self.terms)

    @property
    def idle_gpus(self) -> int:
        """GPUs beyond the batch, which hold parameters and compute nothing of their own."""
        return max(0, self.request.gpus - self.request.batch)


def plan(request: PlanRequest) -> Plan:
    """Count, compare, and look for a way where it does not fit.

    Raises:
        UnknownNameError: no such model or GPU.
        ConfigError: settings that cannot work.
    """
    networks = networks_of(request)
    counted = account(request, networks)
    return counted if counted.fits else replace(counted, remedies=list(_remedies(counted, networks)))


def account(request: PlanRequest, networks: PlannedShapes) -> Plan:
    """The plan of these networks, without looking for remedies."""
    device = device_named(request.gpu)
    found = terms(networks, request.job, request.flow_steps)
    return Plan(
        request=request,
        device=device,
        items=items(networks, request.job, request.flow_steps, request.gpus),
        terms=found,
        step_s=_seconds(request, device, found, networks),
        remedies=[],
    )


def networks_of(request: PlanRequest) -> PlannedShapes:
    """The shapes that a request is about."""
    return _networks(
        request.model, request.chunk_steps, request.action_dim, request.proprio_dim, request.remat
    )


@lru_cache(maxsize=16)
def _networks(model: str, chunk_steps: int, action_dim: int, proprio_dim: int, remat: bool) -> PlannedShapes:
    policy, critic = sizes_named(model, chunk_steps, action_dim, proprio_dim)
    return shapes_of(replace(policy, remat=remat), replace(critic, remat=remat))


def _seconds(request: PlanRequest, device: Device, found: list[Term], networks: PlannedShapes) -> float:
    """Every term at the speed of the matrix units or of the memory, whichever is slower; then the optimisers' traffic.

    The busiest GPU sets the pace. Communication is taken to hide behind the products, and data to be there.
    """
    busiest = share(request.batch, request.gpus) / request.batch
    products = sum(
        max(busiest * term.flops / (device.flops * request.utilisation), term.traffic / device.bandwidth)
        for term in found
    )
    return products + optimizer_traffic(networks, request.job) / request.gpus / device.bandwidth


def optimizer_traffic(networks: PlannedShapes, job: Job) -> int:
    """Bytes that optimisers and averages read and write in one learner step.

    Per trained number: gradient written and read, parameter and both moments read and written. Per averaged number: the average
    read and written, the live one read.
    """
    trained, averaged = trained_by_policy(networks, job.stage, job.lora_rank), policy_size(networks, job)
    if job.stage != "sft":
        trained += trained_by_value(networks) + trained_by_critic(networks)
        averaged += 4 * count(networks.critic)
    return (2 * 4 + 2 * (4 + MOMENTS)) * trained + 3 * averaged


def _remedies(tight: Plan, networks: PlannedShapes) -> Iterator[str]:
    """Single changes that fit, each tried; with checkpointing too where it is off and does not do alone."""
    request, also = tight.request, ""
    if not request.remat:
        request = replace(request, remat=True)
        networks, also = networks_of(request), "--remat "
        if account(request, networks).fits:
            yield "recompute activations: --remat"
            return

    def fits(**changes: object) -> bool:
        return account(replace(request, **changes), networks).fits  # type: ignore[arg-type]

    for what, candidates in _changes(request):
        fitting = (words for words, changes in candidates if fits(**changes))
        found = next(fitting, None)
        if found:
            yield f"{what}: {also}{found}"


def _changes(request: PlanRequest) -> Iterator[tuple[str, list[tuple[str, dict[str, object]]]]]:
    """Ways out: what it is, and its sizes from the mildest on as options and as fields of a request."""
    counts = [gpus for gpus in (2, 4, 8, 16, 32, 64, 128) if gpus > request.gpus]
    yield "divide over more GPUs", [(f"--gpus {n}", {"gpus": n}) for n in counts]
    halves = [request.batch >> i for i in range(1, request.batch.bit_length())]
    yield "a smaller batch", [(f"--batch {n}", {"batch": n, "policy_batch": None}) for n in halves]
    if not request.lora_rank:
        yield (
            "train adapters in place of the policy's weights",
            [("--lora-rank 16", {"lora_rank": 16})],
        )
    larger = [n for n, d in DEVICES.items() if d.memory > device_named(request.gpu).memory]
    by_memory = sorted(larger, key=lambda name: DEVICES[name].memory)
    yield "a larger GPU", [(f"--gpu {name}", {"gpu": name}) for name in by_memory]
