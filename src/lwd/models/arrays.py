"""Modules as named arrays: what a snapshot holds, and how it is read back with every mismatch named."""

from __future__ import annotations

from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from lwd.errors import SnapshotError

Module = TypeVar("Module")


def to_arrays(module: object) -> dict[str, np.ndarray]:
    """Every array leaf by its path, e.g. "hidden.0.weight". Order follows the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(module, eqx.is_array))
    return {_name(path): np.asarray(leaf) for path, leaf in leaves}


def from_arrays(template: Module, arrays: dict[str, np.ndarray], where: str) -> Module:
    """A module like `template` with these arrays.

    Args:
        template: gives structure, shapes and dtypes.
        arrays: by path, as `to_arrays` names them.
        where: what is being read, for the error.

    Raises:
        SnapshotError: lists missing, extra and misshapen leaves by name.
    """
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(template, eqx.is_array))
    expected = {_name(path): leaf for path, leaf in leaves}
    problems = [f"missing {name} {leaf.shape}" for name, leaf in expected.items() if name not in arrays]
    problems += [f"unknown {name} {a.shape}" for name, a in arrays.items() if name not in expected]
    problems += [
        f"{name}: found {arrays[name].dtype} {arrays[name].shape}, expected {leaf.dtype} {leaf.shape}"
        for name, leaf in expected.items()
        if name in arrays and (arrays[name].shape != leaf.shape or arrays[name].dtype != leaf.dtype)
    ]
    if problems:
        raise SnapshotError(f"{where} does not fit this model: {'; '.join(problems)}.")
    dynamic, static = eqx.partition(template, eqx.is_array)
    filled = jax.tree_util.tree_map_with_path(lambda path, _: jnp.asarray(arrays[_name(path)]), dynamic)
    return eqx.combine(filled, static)


def _name(path: tuple[object, ...]) -> str:
    return ".".join(
        str(getattr(part, "name", getattr(part, "idx", getattr(part, "key", part)))) for part in path
    )
