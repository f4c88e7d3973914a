"""Published weights into our networks, and trained policies back into published layouts, so that stock servers run them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import equinox as eqx
import jax
import numpy as np
from numpy.typing import NDArray

from lwd.errors import ConfigError, WeightsError
from lwd.models.arrays import from_arrays, is_array_or_shape, named_leaves, to_arrays
from lwd.models.mlp import Normalizer
from lwd.models.vla.config import PiConfig
from lwd.models.vla.critic import VlaCritic
from lwd.models.vla.pi05 import PiPolicy
from lwd.models.weights import torch_layouts
from lwd.models.weights.openpi_layout import openpi
from lwd.models.weights.rules import Layout, read_into, write_from
from lwd.models.weights.sources import Orbax, Safetensors, open_source
from lwd.models.weights.statistics import (
    has_statistics,
    write_lerobot_statistics,
    write_openpi_statistics,
)

Network = TypeVar("Network", bound=eqx.Module)
PolicyLayout = Literal["openpi", "lerobot"]


def policy_layout(name: PolicyLayout, config: PiConfig) -> Layout:
    """The layout of a whole policy by its name."""
    return openpi(config) if name == "openpi" else torch_layouts.lerobot(config)


def import_policy(path: Path, config: PiConfig, normalizer: Normalizer) -> PiPolicy:
    """A pi0 or pi0.5 policy from an openpi checkpoint (orbax) or a LeRobot folder (safetensors), told apart by what lies there.

    Until it is trained here it acts a little worse than on its own server: it was trained on noise in all of the published
    action vector, and `PiPolicy.velocity` gives it zeros in the coordinates that the robot does not have.

    Args:
        path: the checkpoint's folder, its `params`, or a .safetensors file.
        config: sizes and variant of the checkpoint; `parameters` decides the type that is kept.
        normalizer: the robot's statistics; published weights have none for it.

    Raises:
        WeightsError: the weights are not those of this configuration; every leaf that does not fit is listed.
    """
    source = open_source(path)
    layout = policy_layout("openpi" if isinstance(source, Orbax) else "lerobot", config)
    return read_into(blank_policy(config, normalizer), layout, source)


def import_critic(gemma3: Path, siglip: Path, critic: VlaCritic) -> VlaCritic:
    """The critic with token table and stack of Gemma 3 and tower of SigLIP, both of Hugging Face; all else stays."""
    config = critic.backbone.config
    critic = read_into(critic, torch_layouts.gemma3_of(config), Safetensors(gemma3))
    return read_into(critic, torch_layouts.siglip(config.vision), Safetensors(siglip))


def blank_policy(config: PiConfig, normalizer: Normalizer) -> PiPolicy:
    """A policy of shapes without numbers, but for its statistics: what weights are read into. No random ones are made."""
    shapes = eqx.filter_eval_shape(PiPolicy.init, jax.random.key(0), config, normalizer)
    return eqx.tree_at(lambda p: p.normalizer, shapes, normalizer)


def deaf_to_padding(policy: PiPolicy, action_dim: int) -> PiPolicy:
    """The policy whose action tokens do not depend on the coordinates from `action_dim` on.

    Here these are always 0, so that their weights were never trained; stock servers draw noise in them.

    Raises:
        ConfigError: the policy's vector has fewer coordinates.
    """
    width = policy.config.action_dim
    if not 1 <= action_dim <= width:
        raise ConfigError(f"action_dim is {action_dim}, the policy's vector has {width}: give 1 to {width}.")
    silenced = policy.action_in.weight.at[action_dim:].set(0)
    return eqx.tree_at(lambda p: p.action_in.weight, policy, silenced)


def export_lerobot(
    policy: PiPolicy, folder: Path, like: Path | None = None, action_dim: int | None = None
) -> list[Path]:
    """Write model.safetensors as LeRobot's pi0 or pi05 policy saves it.

    Args:
        policy: what was trained.
        folder: made if it is missing; a model.safetensors in it is refused.
        like: a LeRobot policy folder whose configuration and processor files (*.json, the processors' *.safetensors) are
            copied beside the weights; LeRobot needs them to load the folder. The statistics in them become the policy's,
            unless it has none.
        action_dim: A of the robot that the policy was trained on here; see `deaf_to_padding`. None: it was trained elsewhere.

    Returns:
        The files written.

    Raises:
        WeightsError: there are weights already, or `like` has no configuration or no place for the policy's statistics.
    """
    target = folder / "model.safetensors"
    _refuse_existing(target)
    policy = policy if action_dim is None else deaf_to_padding(policy, action_dim)
    arrays = write_from(policy, torch_layouts.lerobot(policy.config))
    # LeRobot's modules own two output heads: one is the token table, the other is never used and only has to exist.
    table = arrays["paligemma.language_model.embed_tokens.weight"]
    arrays["paligemma.lm_head.weight"] = table
    unused = (policy.config.vocabulary, policy.config.expert.width)
    arrays["gemma_expert.lm_head.weight"] = np.zeros(unused, table.dtype)
    folder.mkdir(parents=True, exist_ok=True)
    copied = [] if like is None else _copy_settings(like, folder)
    if copied and has_statistics(policy.normalizer):
        write_lerobot_statistics(folder, policy.normalizer, action_dim or policy.config.action_dim)
    names = Layout(name="export", rules=(), renames=torch_layouts.LEROBOT_EXPORT)
    _save_safetensors({names.canonical(name): array for name, array in arrays.items()}, target)
    return [target, *copied]


def export_openpi(
    policy: PiPolicy, folder: Path, like: Path | None = None, action_dim: int | None = None
) -> list[Path]:
    """Write `folder`/params as openpi's checkpoints have it, and `folder`/assets with the policy's statistics.

    Args:
        policy: what was trained.
        folder: made if it is missing; a `params` in it is refused.
        like: an openpi checkpoint whose `assets` name the norm_stats.json that openpi's server will look for; without it
            the name is `lwd`. A policy without statistics keeps those of `like`.
        action_dim: A of the robot that the policy was trained on here; see `deaf_to_padding`. None: it was trained elsewhere.

    Returns:
        The folders written.

    Raises:
        WeightsError: there are weights already.
    """
    import orbax.checkpoint as ocp

    target = folder.resolve() / "params"
    _refuse_existing(target)
    policy = policy if action_dim is None else deaf_to_padding(policy, action_dim)
    folder.mkdir(parents=True, exist_ok=True)
    tree = _nested(write_from(policy, openpi(policy.config)))
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(target, {"params": tree})
    assets = folder / "assets"
    if like is not None and (like / "assets").is_dir():
        shutil.copytree(like / "assets", assets)
    if has_statistics(policy.normalizer):
        write_openpi_statistics(assets, policy.normalizer, action_dim or policy.config.action_dim)
    return [target, *([assets] if assets.is_dir() else [])]


def save_network(network: eqx.Module, path: Path) -> None:
    """A network as one safetensors file under our own names: what a run starts from."""
    _refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _save_safetensors(to_arrays(network), path)


def load_network(template: Network, path: Path) -> Network:
    """A network like `template` (arrays, or shapes in their place) from a file of `save_network`.

    Raises:
        SnapshotError: lists missing, unknown and misshapen leaves.
        WeightsError: there is no such file.
    """
    source = Safetensors(path)
    return from_arrays(template, {name: source.read(name) for name in source.shapes()}, str(path))


def parameters(network: object) -> int:
    """How many numbers a network (or its shapes) holds."""
    return sum(int(np.prod(leaf.shape)) for leaf in named_leaves(network).values() if is_array_or_shape(leaf))


EXPORTS: dict[PolicyLayout, Callable[[PiPolicy, Path, Path | None, int | None], list[Path]]] = {
    "openpi": export_openpi,
    "lerobot": export_lerobot,
}


def _save_safetensors(arrays: dict[str, NDArray[Any]], path: Path) -> None:
    from safetensors.numpy import save_file

    # Written beside and renamed: a cut never leaves half a file under the name. PyTorch's readers ask for the format.
    part = path.with_name(f"{path.name}.part")
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, part, {"format": "pt"})
    part.replace(path)


def _copy_settings(like: Path, folder: Path) -> list[Path]:
    files = [*like.glob("*.json"), *(f for f in like.glob("*.safetensors") if not f.name.startswith("model"))]
    files = [file for file in files if not file.name.endswith(".index.json")]
    if not files:
        raise WeightsError(str(like), ["no LeRobot configuration here"], "Give a LeRobot policy folder.")
    return [Path(shutil.copy2(file, folder / file.name)) for file in sorted(files)]


def _nested(flat: dict[str, NDArray[Any]]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, array in flat.items():
        *above, last = name.split("/")
        node = tree
        for part in above:
            node = node.setdefault(part, {})
        node[last] = array
    return tree


def _refuse_existing(target: Path) -> None:
    if target.exists():
        raise WeightsError(str(target), ["already exists"], "Give another folder, or remove it first.")
