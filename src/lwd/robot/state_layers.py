"""Layers of the MLPs in NumPy, as `lwd.models.mlp` has them in JAX, read from a snapshot's arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwd.errors import SnapshotError

Array = NDArray[np.float32]
Layer = tuple[Array, Array]
"""Weight [..., in, out] and bias [..., 1, out]; leading axes are networks side by side."""

_CLIP = 10.0


class Reader:
    """A snapshot's arrays by name, each checked before it is used.

    Args:
        arrays: by path, as the snapshot holds them.
        where: the snapshot, for errors.
        prefix: of the names of one of its networks.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]], where: str, prefix: str = "") -> None:
        self._arrays, self._where, self._prefix = arrays, where, prefix

    def array(self, name: str, shape: tuple[int, ...] | None) -> Array:
        """An array of that shape, None for any.

        Raises:
            SnapshotError: it is missing or misshapen.
        """
        name = self._prefix + name
        found = self._arrays.get(name)
        if found is None:
            raise SnapshotError(f"{self._where}: array {name!r} is missing; it was not loaded.")
        if shape is not None and found.shape != shape:
            raise SnapshotError(
                f"{self._where}: array {name!r} has shape {found.shape}, expected {shape}; it was not loaded."
            )
        return np.asarray(found, np.float32)

    def linear(self, name: str, inputs: int | None, outputs: int, networks: tuple[int, ...] = ()) -> Layer:
        """A linear layer of so many inputs (None for any) and outputs."""
        weight = self.array(f"{name}.weight", None)
        if inputs is None and weight.ndim >= 2:
            inputs = weight.shape[-2]
        weight = self.array(f"{name}.weight", (*networks, inputs or 0, outputs))
        return weight, self.array(f"{name}.bias", (*networks, outputs))[..., None, :]

    def senses(self, proprio_dim: int) -> Senses:
        """The statistics of proprio."""
        return Senses(
            self.array("normalizer.mean", (proprio_dim,)), self.array("normalizer.scale", (proprio_dim,))
        )


class Senses:
    """Standardises proprio, clipped as in `lwd.models.normalizer`, and appends the instruction."""

    def __init__(self, mean: Array, scale: Array) -> None:
        self._mean, self._scale = mean, scale

    def __call__(self, proprio: Array, instruction: Array) -> Array:
        """What every MLP here sees: [P + E]."""
        sensed = np.clip((proprio - self._mean) / self._scale, -_CLIP, _CLIP)
        return np.concatenate([sensed, instruction]).astype(np.float32)


def apply(layer: Layer, x: Array) -> Array:
    """The layer on rows x [..., N, in]."""
    weight, bias = layer
    return x @ weight + bias


def gelu(x: Array) -> Array:
    """The tanh form, which is JAX's default."""
    inner = np.float32(0.7978845608028654) * (x + np.float32(0.044715) * x * x * x)
    return np.float32(0.5) * x * (np.float32(1.0) + np.tanh(inner))


def layer_norm(x: Array) -> Array:
    """Zero mean and unit variance over the last axis, without a gain."""
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(1e-5))
