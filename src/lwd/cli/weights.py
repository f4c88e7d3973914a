"""Commands that bring published weights in, look at them, and take trained ones out to stock servers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

Source = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SOURCE")]
Out = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
Sizes = Literal["pi05", "pi0", "dummy"]


@dataclass(frozen=True, kw_only=True)
class WeightsImport:
    """Read a policy from an openpi or LeRobot checkpoint and write it as one safetensors file.

    Attributes:
        source: openpi's checkpoint folder, LeRobot's policy folder, or a .safetensors file.
        out: the file to write.
        proprio_dim: length of the robot's state vector.
        sizes: which policy the checkpoint is.
    """

    source: Source
    out: Out
    proprio_dim: int
    sizes: Sizes = "pi05"

    def run(self) -> None:
        """Run it."""
        from lwd.models.weights.commands import import_policy_file

        _print(import_policy_file(self.source, self.out, proprio_dim=self.proprio_dim, sizes=self.sizes))


@dataclass(frozen=True, kw_only=True)
class WeightsImportCritic:
    """Read Gemma 3 270M and SigLIP So400m and write a value and critic on them, whose heads are new.

    Attributes:
        out: the file to write.
        gemma3: folder of Gemma 3 270M in Hugging Face's layout.
        siglip: folder of SigLIP So400m in Hugging Face's layout.
        chunk_steps: H, actions in a chunk of the robot's.
        action_dim: coordinates of one of its actions.
        proprio_dim: length of its state vector.
        seed: seed of the new heads.
    """

    out: Out
    gemma3: Path
    siglip: Path
    chunk_steps: int
    action_dim: int
    proprio_dim: int
    seed: int = 0

    def run(self) -> None:
        """Run it."""
        from lwd.models.weights.commands import import_critic_file

        lines = import_critic_file(
            self.gemma3,
            self.siglip,
            self.out,
            chunk_steps=self.chunk_steps,
            action_dim=self.action_dim,
            proprio_dim=self.proprio_dim,
            seed=self.seed,
        )
        _print(lines)


@dataclass(frozen=True, kw_only=True)
class WeightsInspect:
    """Say what a checkpoint holds and which layout it fits.

    Attributes:
        source: folder or file.
        names: list every array.
        sizes: compare with these sizes; missing, extra and misshapen arrays are listed by name.
    """

    source: Source
    names: bool = False
    sizes: Sizes | None = None

    def run(self) -> None:
        """Run it."""
        from lwd.models.weights.commands import inspect_weights

        _print(inspect_weights(self.source, names=self.names, sizes=self.sizes))


@dataclass(frozen=True, kw_only=True)
class WeightsExport:
    """Write a trained policy as a checkpoint that stock servers load.

    Attributes:
        source: a file of `lwd weights import`, or a published snapshot of a policy.
        out: the folder to write.
        layout: whose servers.
        sizes: which policy the file is.
        like: the checkpoint that training started from; its settings are copied beside the weights, with the policy's
            statistics in place of its own.
        action_dim: how many coordinates the robot's actions have; a snapshot says it itself. Without it a file of
            `lwd weights import` keeps all of them.
    """

    source: Source
    out: Out
    layout: Literal["openpi", "lerobot"]
    sizes: Sizes = "pi05"
    like: Path | None = None
    action_dim: int | None = None

    def run(self) -> None:
        """Run it."""
        from lwd.models.weights.commands import export_policy_file

        lines = export_policy_file(
            self.source,
            self.out,
            layout=self.layout,
            sizes=self.sizes,
            like=self.like,
            action_dim=self.action_dim,
        )
        _print(lines)


def _print(lines: Sequence[str]) -> None:
    print("\n".join(lines))
