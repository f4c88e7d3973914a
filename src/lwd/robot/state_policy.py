"""The MLP flow policy in NumPy: a robot computer drives itself from a snapshot, without JAX.

The same functions as in `lwd.models.mlp` and `lwd.learner.best_of_n` (tests compare them); only the noise comes from another
generator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwd.errors import SnapshotError
from lwd.robot.state_layers import Array, Reader, apply, gelu, layer_norm
from lwd.spec import RobotSpec

_NOISE_STREAM = 13
_DRAWS, _CHOOSES = "MlpPolicy", "BestOfNPolicy"
"""What a snapshot acts with: a flow policy alone, or one whose chunks a critic chooses from."""


class StatePolicy:
    """A snapshot's policy for robots with state observations: a flow policy, with a critic that chooses among its chunks if
    the snapshot holds one.

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
        chooses = meta.get("acting") == _CHOOSES
        expected = {
            "robot_spec": spec.name,
            "model": "mlp",
            "acting": _CHOOSES if chooses else _DRAWS,
            "chunk_steps": spec.chunk_steps,
            "instruction_encoder": encoder_version,
        }
        for name, value in expected.items():
            if meta.get(name) != value:
                raise SnapshotError(
                    f"{where} has {name} {meta.get(name)!r:.80}, this robot needs {value!r}; it was not loaded."
                )
        depth = _whole(meta, "depth", 2, 64, where)
        self._steps = _whole(meta, "flow_steps", 1, 1000, where)
        self._flow = _Flow(Reader(arrays, where, "policy." if chooses else ""), spec, depth)
        self._shape = spec.chunk_steps, spec.action_dim
        self._choices = _whole(meta, "chunks", 1, 1000, where) if chooses else 1
        self._critic = (
            _Critic(Reader(arrays, where, "critic."), spec, depth, self._flow.inputs) if chooses else None
        )

    def velocity(self, proprio: Array, instruction: Array) -> Callable[[Array, float], Array]:
        """The flow's velocity for one observation: a function of (a^w [N, H, A], w) to [N, H, A]."""
        return self._flow.at(proprio, instruction)

    def values(self, proprio: Array, instruction: Array, chunks: Array) -> Array:
        """What the critic says of each chunk [N, H, A]: the minimum over its heads [N]."""
        assert self._critic is not None
        return self._critic.values(proprio, instruction, chunks)

    def chunk(self, proprio: Array, instruction: Array, seed: int, chunk_index: int) -> Array:
        """An action chunk [H, A] in [-1, 1]; its noise follows from the episode's seed and the chunk's index."""
        rng = np.random.default_rng([seed, chunk_index, _NOISE_STREAM])
        a = rng.standard_normal((self._choices, *self._shape)).astype(np.float32)
        velocity, h = self.velocity(proprio, instruction), np.float32(1.0 / self._steps)
        for i in range(self._steps):
            a = (a + h * velocity(a, i / self._steps)).astype(np.float32)
        a = np.clip(a, -1.0, 1.0)
        return a[0] if self._critic is None else a[np.argmax(self.values(proprio, instruction, a))]


class _Flow:
    """`lwd.models.mlp.MlpPolicy`."""

    def __init__(self, read: Reader, spec: RobotSpec, depth: int) -> None:
        flat = spec.chunk_steps * spec.action_dim
        width = read.array("observe.bias", None).shape[0]
        self._senses = read.senses(spec.proprio_dim)
        self._observe = read.linear("observe", None, width)
        self.inputs = self._observe[0].shape[0]
        self._act = read.linear("act", flat + 1, width)
        self._hidden = [read.linear(f"hidden.{i}", width, width) for i in range(depth - 1)]
        self._out = read.linear("out", width, flat)

    def at(self, proprio: Array, instruction: Array) -> Callable[[Array, float], Array]:
        context = apply(self._observe, self._senses(proprio, instruction)[None])

        def velocity(a: Array, w: float) -> Array:
            rows = np.concatenate([_flat(a), np.full((len(a), 1), w, np.float32)], axis=1)
            x = gelu(context + apply(self._act, rows))
            for layer in self._hidden:
                x = gelu(apply(layer, x))
            return apply(self._out, x).reshape(a.shape)

        return velocity


class _Critic:
    """The heads of `lwd.models.mlp.MlpCritic`."""

    def __init__(self, read: Reader, spec: RobotSpec, depth: int, sensed: int) -> None:
        bias = read.array("heads.layers.0.bias", None)
        heads, width = bias.shape if bias.ndim == 2 else (0, 0)
        self._senses = read.senses(spec.proprio_dim)
        sizes = [sensed + spec.chunk_steps * spec.action_dim] + [width] * (depth - 1)
        self._layers = [read.linear(f"heads.layers.{i}", n, width, (heads,)) for i, n in enumerate(sizes)]
        self._out = read.linear("heads.out", width, 1, (heads,))

    def values(self, proprio: Array, instruction: Array, chunks: Array) -> Array:
        z = self._senses(proprio, instruction)
        x = np.concatenate([np.tile(z, (len(chunks), 1)), _flat(chunks)], axis=1)
        for layer in self._layers:
            x = layer_norm(gelu(apply(layer, x)))
        return apply(self._out, x)[..., 0].min(axis=0)


def _flat(chunks: Array) -> Array:
    return chunks.reshape(len(chunks), -1)


def _whole(meta: Mapping[str, Any], name: str, low: int, high: int, where: str) -> int:
    value = meta.get(name)
    if type(value) is not int or not low <= value <= high:
        raise SnapshotError(
            f"{where} has {name} {value!r:.40}, expected a whole number from {low} to {high}; it was not loaded."
        )
    return value
