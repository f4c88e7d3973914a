"""A plan in words and numbers: rows of the table, the verdict, JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from lwd.learner.plan.networks import PlannedShapes, parts
from lwd.learner.plan.plan import Plan

Row = tuple[str, str]


def gib(size: int) -> str:
    """Bytes as GiB with two digits."""
    return f"{size / 2**30:.2f}"


def memory_rows(plan: Plan) -> list[Row]:
    """What, and GiB on one GPU; the sum last."""
    return [*((item.what, gib(item.size)) for item in plan.items), ("sum at the peak", gib(plan.size))]


def work_rows(plan: Plan) -> list[Row]:
    """What, and TFLOP of the whole learner step; the sum last."""
    rows = [(term.what, f"{term.flops / 1e12:.2f}") for term in plan.terms]
    return [*rows, ("sum", f"{plan.flops / 1e12:.2f}")]


def verdict(plan: Plan) -> str:
    """Whether it fits, by how much, and what to change."""
    left = plan.device.usable - plan.size
    where = f"{gib(plan.size)} of {gib(plan.device.usable)} usable GiB on each {plan.device.title}"
    if plan.fits:
        return f"fits: {where}, {gib(left)} to spare"
    change = "; ".join(plan.remedies) or "no single change that was tried is enough"
    return f"does not fit: {where}, {gib(-left)} too much. {change[0].upper()}{change[1:]}"


def speed(plan: Plan) -> str:
    """The estimate, with what it assumes."""
    text = (
        f"{plan.flops / 1e12:.1f} TFLOP per learner step, about {plan.step_s:.2f} s "
        f"at {plan.request.utilisation:.0%} of {plan.device.flops / 1e12:.0f} TFLOP/s (assumed, not measured; "
        "communication and data taken to be hidden)"
    )
    if plan.idle_gpus:
        text += f"; {plan.idle_gpus} of {plan.request.gpus} GPUs have no example of a batch of {plan.request.batch}"
    return text


def as_json(plan: Plan) -> dict[str, Any]:
    """Everything, bytes and FLOP unrounded."""
    return {
        "request": asdict(plan.request),
        "device": asdict(plan.device),
        "memory": [asdict(item) for item in plan.items],
        "flops": [asdict(term) for term in plan.terms],
        "bytes_per_gpu": plan.size,
        "usable_bytes_per_gpu": plan.device.usable,
        "fits": plan.fits,
        "flops_per_step": plan.flops,
        "estimated_step_s": plan.step_s,
        "idle_gpus": plan.idle_gpus,
        "remedies": plan.remedies,
    }


def part_rows(networks: PlannedShapes) -> list[Row]:
    """Parameters of every part of policy and critic, in millions."""
    found = parts(networks)
    rows = [(what, f"{number / 1e6:.1f}") for what, number in found.items()]
    return [*rows, ("sum", f"{sum(found.values()) / 1e6:.1f}")]
