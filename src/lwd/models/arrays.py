"""Modules as named arrays: what a snapshot holds, and how it is read back with every mismatch named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

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
    problems = mismatches(expected, arrays)
    if problems:
        raise SnapshotError(f"{where} does not fit this model: {'; '.join(problems)}.")
    dynamic, static = eqx.partition(template, eqx.is_array)
    filled = jax.tree_util.tree_map_with_path(lambda path, _: jnp.asarray(arrays[_name(path)]), dynamic)
    return eqx.combine(filled, static)


def mismatches(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """What does not fit, leaf by leaf: missing, unknown, of another shape or type. Leaves need only shape and dtype."""
    problems = [f"missing {name} {leaf.shape}" for name, leaf in expected.items() if name not in found]
    problems += [f"unknown {name} {leaf.shape}" for name, leaf in found.items() if name not in expected]
    problems += [
        f"{name}: found {found[name].dtype} {found[name].shape}, expected {leaf.dtype} {leaf.shape}"
        for name, leaf in expected.items()
        if name in found and (found[name].shape != leaf.shape or found[name].dtype != leaf.dtype)
    ]
    return problems


def _name(path: tuple[object, ...]) -> str:
    return ".".join(
        str(getattr(part, "name", getattr(part, "idx", getattr(part, "key", part)))) for part in path
    )
