"""`lwd plan`: what a learner step of the VLA needs, before anybody rents a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table

from lwd.cli.options import print_json


@dataclass(frozen=True, kw_only=True)
class PlanCommand:
    """Say whether a stage of the VLA's training fits these GPUs, and what a learner step costs.

    Attributes:
        model: sizes of policy and critic.
        stage: what trains: sft and offline everything, online the action expert; value and critic in both of the latter.
        batch: transitions per learner step, over all GPUs.
        policy_batch: how many of them QAM's paths start from; all if not given.
        gpus: how many, with parameters and optimisers divided among them (FSDP).
        gpu: rtx4090, a100-40, a100-80, h100, h200 or b200.
        lora_rank: train adapters of this rank in place of the policy's weights; 0 for none.
        remat: recompute activations in the backward pass.
        flow_steps: T, of QAM's paths.
        chunk_steps: H, actions in a chunk of the robot's.
        action_dim: coordinates of one of its actions.
        proprio_dim: length of its state vector.
        utilisation: share of the GPU's peak at which matrix products are taken to run.
        json: print JSON instead of tables.
    """

    model: Literal["pi05", "dummy"] = "pi05"
    stage: Literal["sft", "offline", "online"] = "offline"
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
    utilisation: float = 0.4
    json: bool = False

    def run(self) -> None:
        """Run it."""
        from lwd.learner.plan.plan import PlanRequest, plan
        from lwd.learner.plan.report import as_json, memory_rows, speed, verdict, work_rows

        request = PlanRequest(
            model=self.model,
            stage=self.stage,
            batch=self.batch,
            policy_batch=self.policy_batch,
            gpus=self.gpus,
            gpu=self.gpu,
            lora_rank=self.lora_rank,
            remat=self.remat,
            flow_steps=self.flow_steps,
            chunk_steps=self.chunk_steps,
            action_dim=self.action_dim,
            proprio_dim=self.proprio_dim,
            utilisation=self.utilisation,
        )
        found = plan(request)
        if self.json:
            print_json(as_json(found))
            return
        console = Console()
        title = f"{self.model}, {self.stage}, batch {self.batch} on {self.gpus} x {found.device.title}"
        for name, unit, rows in (
            (title, "GiB per GPU", memory_rows(found)),
            ("one learner step", "TFLOP", work_rows(found)),
        ):
            table = Table(title=name, title_justify="left")
            table.add_column("what")
            table.add_column(unit, justify="right")
            for row in rows:
                table.add_row(*row, style="bold" if row is rows[-1] else None)
            console.print(table)
        console.print(verdict(found), highlight=False)
        console.print(speed(found), highlight=False)
