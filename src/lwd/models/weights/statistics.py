"""A policy's statistics in the files that stock servers scale states and actions by, in place of those of another robot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwd.errors import WeightsError
from lwd.models.normalizer import Normalizer

Described = dict[str, NDArray[np.float64]]
"""What servers read of one vector: mean and deviation (pi0), 1st and 99th percentile (pi0.5)."""


def has_statistics(normalizer: Normalizer) -> bool:
    """False for mean 0 and scale 1: a policy that was imported and never trained here."""
    return bool(np.any(np.asarray(normalizer.mean) != 0) or np.any(np.asarray(normalizer.scale) != 1))


def write_openpi_statistics(assets: Path, normalizer: Normalizer, action_dim: int) -> list[Path]:
    """Write norm_stats.json under every name that `assets` has it under, or as assets/lwd; the files written."""
    state, actions = _both(normalizer, action_dim)
    stats = {
        key: {name: values.tolist() for name, values in described.items()}
        for key, described in (("state", state), ("actions", actions))
    }
    files = sorted(assets.rglob("norm_stats.json")) or [assets / "lwd" / "norm_stats.json"]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"norm_stats": stats}, indent=2), encoding="utf-8")
    return files


def write_lerobot_statistics(folder: Path, normalizer: Normalizer, action_dim: int) -> list[Path]:
    """Replace state and action in the state files of the folder's processors; the files written.

    Raises:
        WeightsError: no processor has statistics, so that a server would not scale by these.
    """
    state, actions = _both(normalizer, action_dim)
    ours = {f"observation.state.{name}": values.astype(np.float32) for name, values in state.items()}
    ours |= {f"action.{name}": values.astype(np.float32) for name, values in actions.items()}
    files = [file for file in sorted(folder.glob("*.safetensors")) if not file.name.startswith("model")]
    written = [file for file in files if _replaced(file, ours)]
    if not written:
        raise WeightsError(
            str(folder),
            [
                "no processor file here has statistics of observation.state or action, so the policy's have no place"
            ],
            "Give --like a LeRobot policy folder with policy_preprocessor_*.safetensors (LeRobot 0.4 or newer).",
        )
    return written


def _replaced(file: Path, ours: dict[str, NDArray[np.float32]]) -> bool:
    """Whether a processor's file has statistics of state or action; they are then ours."""
    from safetensors.numpy import load_file, save_file

    kept: dict[str, NDArray[Any]] = load_file(file)
    theirs = [name for name in kept if name.startswith(("observation.state.", "action."))]
    if not theirs:
        return False
    for name in theirs:
        del kept[name]
    save_file(kept | ours, file, {"format": "pt"})
    return True


def _both(normalizer: Normalizer, action_dim: int) -> tuple[Described, Described]:
    """State [P] and actions [A]; actions are in [-1, 1] here, so servers shall leave them as they are."""
    mean, scale = np.asarray(normalizer.mean, np.float64), np.asarray(normalizer.scale, np.float64)
    return _described(mean, scale), _described(np.zeros(action_dim), np.ones(action_dim))


def _described(mean: NDArray[np.float64], scale: NDArray[np.float64]) -> Described:
    # `Normalizer.quantiles` undone: servers add 1e-6 to the distance of the percentiles.
    return {"mean": mean, "std": scale, "q01": mean - scale, "q99": mean + scale - 1e-6}
