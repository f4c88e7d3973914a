"""What `lwd weights import / inspect / export` do. Each returns lines for people; nothing is printed here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import jax

from lwd.errors import ConfigError
from lwd.models.arrays import named_leaves
from lwd.models.mlp import Normalizer
from lwd.models.vla.config import DUMMY, PI0, PI05, PiConfig, critic_270m
from lwd.models.vla.critic import VlaCritic
from lwd.models.weights.inspect import inspect
from lwd.models.weights.sources import Safetensors
from lwd.models.weights.statistics import has_statistics
from lwd.models.weights.transfer import (
    EXPORTS,
    PolicyLayout,
    blank_policy,
    import_critic,
    import_policy,
    load_network,
    parameters,
    save_network,
)

PolicySizes = Literal["pi05", "pi0", "dummy"]
SIZES: dict[PolicySizes, PiConfig] = {"pi05": PI05, "pi0": PI0, "dummy": DUMMY}
_SNAPSHOT = "lwd"
"""Key of the metadata that a snapshot's file has; see `lwd.snapshot.file`."""


def import_policy_file(
    source: Path, out: Path, *, proprio_dim: int, sizes: PolicySizes = "pi05"
) -> list[str]:
    """Read an openpi or LeRobot checkpoint and write it as our own safetensors file.

    Args:
        source: openpi's checkpoint folder, LeRobot's policy folder or a .safetensors file.
        out: the file to write; an existing one is refused.
        proprio_dim: P of the robot. Its statistics start as mean 0 and scale 1 and are set from data.
        sizes: which policy the checkpoint is.

    Raises:
        WeightsError: every array that does not fit, by name.
    """
    policy = import_policy(source, SIZES[sizes], Normalizer.identity(proprio_dim))
    save_network(policy, out)
    return [f"{out}: {sizes}, {parameters(policy):,} parameters, from {source}"]


def import_critic_file(
    gemma3: Path,
    siglip: Path,
    out: Path,
    *,
    chunk_steps: int,
    action_dim: int,
    proprio_dim: int,
    seed: int = 0,
) -> list[str]:
    """Read Gemma 3 270M and SigLIP So400m from Hugging Face folders and write a value and critic whose heads are new.

    Raises:
        WeightsError: every array that does not fit, by name.
    """
    config = critic_270m(chunk_steps, action_dim, proprio_dim)
    fresh = VlaCritic.init(jax.random.key(seed), config, Normalizer.identity(proprio_dim))
    critic = import_critic(gemma3, siglip, fresh)
    save_network(critic, out)
    return [f"{out}: critic, {parameters(critic):,} parameters, from {gemma3} and {siglip}"]


def inspect_weights(source: Path, *, names: bool = False, sizes: PolicySizes | None = None) -> list[str]:
    """What a checkpoint holds and which layout it fits; with `names` every array, with `sizes` compared with these too.

    Raises:
        WeightsError: there are no weights, or the file is broken.
    """
    return inspect(source, None if sizes is None else SIZES[sizes]).lines(names)


def export_policy_file(
    source: Path,
    out: Path,
    *,
    layout: PolicyLayout,
    sizes: PolicySizes = "pi05",
    like: Path | None = None,
    action_dim: int | None = None,
) -> list[str]:
    """Write a policy of ours as a checkpoint that stock servers load.

    Args:
        source: a file of `import_policy_file`, or a published snapshot of a policy.
        out: the folder to write.
        layout: "openpi" or "lerobot".
        sizes: which policy the file is.
        like: the checkpoint that training started from; its settings are copied beside the weights, with the statistics of
            the policy in place of its own.
        action_dim: A of the robot; a snapshot says it itself, and an imported policy uses all coordinates.

    Raises:
        SnapshotError: the file is no policy of these sizes.
        WeightsError: `out` has weights already, or `like` has no place for the policy's statistics.
        ConfigError: an older snapshot, which does not say its robot's A, or an A that the policy has no room for.
    """
    file = Safetensors(source)
    statistics = file.shapes().get("normalizer.mean", ((1,), ""))[0]
    blank = blank_policy(SIZES[sizes], Normalizer.identity(statistics[0]))
    policy = load_network(blank, source)
    trained = _action_dim_of(source, file.metadata()) if action_dim is None else action_dim
    written = EXPORTS[layout](policy, out, like, trained)
    return [f"{path}" for path in written] + [
        f"{len(named_leaves(policy))} leaves in {layout}'s layout",
        _about_statistics(policy.normalizer, layout, like),
    ]


def _action_dim_of(source: Path, metadata: Mapping[str, str]) -> int | None:
    """A of the robot that a snapshot was made for; None for a file that is no snapshot."""
    if _SNAPSHOT not in metadata:
        return None
    found = json.loads(metadata[_SNAPSHOT]).get("action_dim")
    if not isinstance(found, int):
        raise ConfigError(
            f"{source} is a snapshot that does not say how many action coordinates its robot has; stock servers must not "
            "feed noise to the others. Give --action-dim."
        )
    return found


def _about_statistics(normalizer: Normalizer, layout: PolicyLayout, like: Path | None) -> str:
    if not has_statistics(normalizer):
        return "statistics: the policy has none" + ("" if like is None else f", those of {like} stay")
    if layout == "lerobot" and like is None:
        return "statistics: not written, LeRobot keeps them in its processors' files. Give --like a LeRobot policy folder"
    return "statistics: those of the policy"
