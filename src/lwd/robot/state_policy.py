"""The MLP flow policy in NumPy: a robot computer drives itself from a snapshot, without JAX.

The same function as `lwd.models.mlp.MlpPolicy` (a test compares them); only the noise comes from another generator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwd.errors import SnapshotError
from lwd.spec import RobotSpec

Array = NDArray[np.float32]

_NOISE_STREAM = 13
_CLIP = 10.0


class StatePolicy:
    """A snapshot's flow policy for robots with state observations.

    Args:
        arrays: parameters by name, as the snapshot holds them.
        meta: the snapshot's metadata.
        spec: this robot.
        encoder_version: of this robot's instruction encoder.
        where: the snapshot, for errors.

    Raises:
        SnapshotError: the snapshot is for another robot, model or encoder, or an array is missing or misshapen.
    """

    def __init__(
        self,
        arrays: Mapping[str, NDArray[Any]],
        meta: Mapping[str, Any],
        spec: RobotSpec,
        encoder_version: str,
        where: str,
    ) -> None:
        expected = {
            "robot_spec": spec.name,
            "model": "mlp",
            "acting": "MlpPolicy",
            "chunk_steps": spec.chunk_steps,
            "instruction_encoder": encoder_version,
        }
        for name, value in expected.items():
            if meta.get(name) != value:
                raise SnapshotError(
                    f"{where} has {name} {meta.get(name)!r:.80}, this robot needs {value!r}; it was not loaded."
                )
        depth = meta.get("depth")
        if type(depth) is not int or not 2 <= depth <= 64:
            raise SnapshotError(f"{where} has depth {depth!r:.40}, expected a whole number from 2 to 64.")
        steps = meta.get("flow_steps")
        if type(steps) is not int or not 1 <= steps <= 1000:
            raise SnapshotError(f"{where} has flow_steps {steps!r:.40}, expected 1 to 1000.")
        self._steps, self._shape = steps, (spec.chunk_steps, spec.action_dim)
        read = _Reader(arrays, where)
        flat = spec.chunk_steps * spec.action_dim
        width = read.array("observe.bias", None).shape[0]
        self._mean = read.array("normalizer.mean", (spec.proprio_dim,))
        self._scale = read.array("normalizer.scale", (spec.proprio_dim,))
        self._observe = read.linear("observe", None, width)
        self._act = read.linear("act", flat + 1, width)
        self._hidden = [read.linear(f"hidden.{i}", width, width) for i in range(depth - 1)]
        self._out = read.linear("out", width, flat)

    def velocity(self, proprio: Array, instruction: Array) -> Callable[[Array, float], Array]:
        """The flow's velocity for one observation: a function of (a^w [H, A], w) to [H, A]."""
        sensed = np.clip((proprio - self._mean) / self._scale, -_CLIP, _CLIP)
        context = _apply(self._observe, np.concatenate([sensed, instruction]).astype(np.float32))

        def at(a: Array, w: float) -> Array:
            x = _gelu(context + _apply(self._act, np.append(a.ravel(), np.float32(w))))
            for layer in self._hidden:
                x = _gelu(_apply(layer, x))
            return _apply(self._out, x).reshape(self._shape)

        return at

    def chunk(self, proprio: Array, instruction: Array, seed: int, chunk_index: int) -> Array:
        """An action chunk [H, A] in [-1, 1]; its noise follows from the episode's seed and the chunk's index."""
        rng = np.random.default_rng([seed, chunk_index, _NOISE_STREAM])
        a = rng.standard_normal(self._shape).astype(np.float32)
        velocity, h = self.velocity(proprio, instruction), np.float32(1.0 / self._steps)
        for i in range(self._steps):
            a = (a + h * velocity(a, i / self._steps)).astype(np.float32)
        return np.clip(a, -1.0, 1.0)


class _Reader:
    """Arrays by name, each checked before it is used."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]], where: str) -> None:
        self._arrays, self._where = arrays, where

    def array(self, name: str, shape: tuple[int, ...] | None) -> Array:
        found = self._arrays.get(name)
        if found is None:
            raise SnapshotError(f"{self._where}: array {name!r} is missing; it was not loaded.")
        if shape is not None and found.shape != shape:
            raise SnapshotError(
                f"{self._where}: array {name!r} has shape {found.shape}, expected {shape}; it was not loaded."
            )
        return np.asarray(found, np.float32)

    def linear(self, name: str, inputs: int | None, outputs: int) -> tuple[Array, Array]:
        weight = self.array(f"{name}.weight", None)
        inputs = weight.shape[0] if inputs is None and weight.ndim == 2 else inputs
        return self.array(f"{name}.weight", (inputs or 0, outputs)), self.array(f"{name}.bias", (outputs,))


def _apply(layer: tuple[Array, Array], x: Array) -> Array:
    weight, bias = layer
    return x @ weight + bias


def _gelu(x: Array) -> Array:
    """The tanh form, which is JAX's default."""
    inner = np.float32(0.7978845608028654) * (x + np.float32(0.044715) * x * x * x)
    return np.float32(0.5) * x * (np.float32(1.0) + np.tanh(inner))
