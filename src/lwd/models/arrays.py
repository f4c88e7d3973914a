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
    return {name: np.asarray(leaf) for name, leaf in named_leaves(module).items() if eqx.is_array(leaf)}


def named_leaves(module: object) -> dict[str, Any]:
    """Every leaf that is an array, or a shape in place of one (`eqx.filter_eval_shape`), by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(module, is_array_or_shape))
    return {_name(path): leaf for path, leaf in leaves}


def with_leaves(module: Module, leaves: Mapping[str, Any]) -> Module:
    """The module with these leaves in place of its own, by path; the others stay. Unknown paths are not noticed."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: leaves.get(_name(path), leaf), module)


def is_array_or_shape(leaf: object) -> bool:
    """Whether a leaf holds numbers, or will."""
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def from_arrays(template: Module, arrays: dict[str, np.ndarray], where: str) -> Module:
    """A module like `template` with these arrays.

    Args:
        template: gives structure, shapes and dtypes; shapes may stand in place of its arrays.
        arrays: by path, as `to_arrays` names them.
        where: what is being read, for the error.

    Raises:
        SnapshotError: lists missing, extra and misshapen leaves by name.
    """
    expected = named_leaves(template)
    problems = mismatches(expected, arrays)
    if problems:
        raise SnapshotError(f"{where} does not fit this model: {'; '.join(problems)}.")
    return with_leaves(template, {name: jnp.asarray(arrays[name]) for name in expected})


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
