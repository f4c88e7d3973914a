"""docs/reference/vla_plan.md: the parameters, the grid of batches and GPUs for every stage, and how it is counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from lwd.learner.plan.devices import DEVICES, USABLE
from lwd.learner.plan.networks import STAGES, Stage
from lwd.learner.plan.plan import UTILISATION, Plan, PlanRequest, account, networks_of
from lwd.learner.plan.report import gib, part_rows

BATCHES, GPUS = (8, 32, 256), (1, 8, 64)
TITLES = {"sft": "SFT", "offline": "offline", "online": "online"}
TRAINS = {
    "sft": "The whole policy trains, by flow matching.",
    "offline": "The whole policy, value and critic train.",
    "online": "The policy's vision-language backbone is frozen: its action expert, value and critic train.",
}

_HEAD = """# What the VLA needs

Memory and floating-point operations of one learner step of pi0.5 with the 270M critic, counted by `lwd plan`, not
measured. This page is written by `python -m tools.vla_plan`; a test checks that it is up to date. Any other
configuration:

```bash
lwd plan --stage offline --batch 32 --gpus 8 --gpu h200 --remat
```

"""

_HOW = """## How it is counted

- Parameters are those of the real modules, read off their shapes. Parameters, gradients, AdamW's two moments and
  averages are float32; the frozen reference is bfloat16, and with LoRA so is the policy's base.
- Value and critic have an optimiser each, and both train the backbone. The published average is a whole copy of the
  policy.
- FSDP divides all of that by the number of GPUs. Every GPU gathers the layer at work, the next one and the token
  table.
- The three gradient computations of a learner step, and the three optimiser steps behind them, run one after the
  other; the table shows the largest. An optimiser step holds gradient and update, and no activations any more.
- Activations: `lwd.learner.plan.activations` writes the formulae out. With checkpointing a layer keeps its input
  alone.
- The prefix (pictures and prompt) runs once per observation for the policy and once for the reference; {steps} flow
  steps reuse it. A learner step evaluates the policy's velocity {steps} times with gradient, the reference's {more}
  times without, and goes {steps} times back through the reference for the adjoint.
- Only matrix products count as floating-point operations; a multiply-add is two. What checkpointing computes again is
  in the sum.
- A plan fits where it fills at most {usable:.0%} of a GPU's memory: an assumption about CUDA's context, XLA's
  workspace and fragmentation.
- Seconds assume {utilisation:.0%} of the dense bfloat16 peak, or the memory's bandwidth where that is slower.
  Communication and data are taken to be hidden. A GPU without an example of its own waits for the others.
- Tests compare the operations with the program's matrix products (within 1 %) and with XLA's own count (XLA adds what
  is no matrix product, at dummy size up to 15 %), the kept activations with JAX's residuals (10 %), and the memory of
  one gradient with XLA's buffers (a factor of 1.35), all at dummy size.
- Once, by hand, the full size was compiled for a CPU (batch 4, float32, checkpointing), without running it: state to
  the byte but for counters, and state with temporary buffers equal to the account for SFT and 7 % above it offline:
  XLA does not keep strictly to one gradient computation after the other.

"""


def page() -> str:
    """The page."""
    networks = networks_of(PlanRequest(remat=True))
    how = _HOW.format(steps=10, more=11, usable=USABLE, utilisation=UTILISATION)
    sections = [_HEAD, "## Parameters\n\n", _table(("part", "millions"), part_rows(networks))]
    sections += [_stage(stage) for stage in STAGES]
    return "".join([*sections, _lora(), _devices(), how]).rstrip("\n") + "\n"


def _stage(stage: Stage) -> str:
    """The grid of one stage on H200 with checkpointing, and where its memory goes at batch 32 on 8 GPUs."""
    rows = list(_grid(PlanRequest(stage=stage, remat=True)))
    example = _counted(PlanRequest(stage=stage, batch=32, gpus=8, remat=True))
    parts = [(item.what, gib(item.size)) for item in example.items]
    head = ("batch", *(f"{gpus} GPU" + "s" * (gpus > 1) for gpus in GPUS))
    return (
        f"## Stage: {TITLES[stage]}\n\n{TRAINS[stage]} H200, checkpointing: GiB per GPU, seconds per learner step.\n\n"
        + _table(head, rows)
        + "Batch 32 on 8 GPUs, GiB per GPU:\n\n"
        + _table(("what", "GiB"), [*parts, ("sum", gib(example.size))])
    )


def _lora() -> str:
    """One GPU of each kind with adapters."""
    rows: list[tuple[str, ...]] = []
    for name, device in DEVICES.items():
        cells = [
            _cell(_counted(PlanRequest(stage=stage, batch=8, gpu=name, lora_rank=rank, remat=True)))
            for rank in (0, 16)
            for stage in STAGES
        ]
        rows.append((device.title, *cells))
    head = ("GPU", *TITLES.values(), *(f"{title}, LoRA 16" for title in TITLES.values()))
    return "## One GPU, batch 8\n\n" + _table(head, rows)


def _devices() -> str:
    rows = [
        (
            device.title,
            str(device.memory // 2**30),
            f"{device.flops / 1e12:g}",
            f"{device.bandwidth / 1e9:g}",
            device.source,
        )
        for device in DEVICES.values()
    ]
    return "## GPUs\n\n" + _table(("GPU", "GiB", "bfloat16 TFLOP/s, dense", "GB/s", "source"), rows)


def _grid(request: PlanRequest) -> Iterator[tuple[str, ...]]:
    for batch in BATCHES:
        yield (str(batch), *(_cell(_counted(replace(request, batch=batch, gpus=gpus))) for gpus in GPUS))


def _cell(plan: Plan) -> str:
    """GiB and seconds, or how much is missing."""
    if not plan.fits:
        return f"**no**: {gib(plan.size)}"
    idle = f", {plan.idle_gpus} idle" if plan.idle_gpus else ""
    return f"{gib(plan.size)}, {plan.step_s:.2f} s{idle}"


def _counted(request: PlanRequest) -> Plan:
    return account(request, networks_of(request))


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Markdown; numbers to the right."""
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n\n"
