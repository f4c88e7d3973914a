"""Where the learner's arrays live: data parallel and FSDP over one mesh, from one CPU device to many hosts.

The learner step is written once, for one device (`lwd.learner.update`). Here its state, its batch and its result get shardings,
and XLA adds the communication. Numbers do not depend on the mesh beyond the rounding of sums: random numbers are functions of
key and position (`jax_threefry_partitionable`), and every loss is a mean over the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PRNGKeyArray

from lwd.errors import ConfigError
from lwd.learner.divl import Metrics
from lwd.learner.placement import Rule
from lwd.learner.stages import Stepped, Update, run_block
from lwd.transition import Transition

Tree = TypeVar("Tree")
State = TypeVar("State", bound=Stepped)

DATA, FSDP = "data", "fsdp"
BATCHES = PartitionSpec(None, (DATA, FSDP))
"""Stacked batches [count, B, ...]: every device computes its own part of B, along both axes of the mesh."""


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How the devices of all hosts are used. It belongs to a machine, not to an experiment: results do not depend on it.

    Attributes:
        data: groups of devices that hold a copy of the state each; None for as many as there are devices.
        fsdp: devices that share one copy of the state. Neighbours in process order, so a host's own devices come first.
        smallest: leaves with fewer elements are copied to every device in place of being split.
    """

    data: int | None = None
    fsdp: int = 1
    smallest: int = 2**14

    def __post_init__(self) -> None:
        if min(self.fsdp, self.smallest, 1 if self.data is None else self.data) < 1:
            raise ConfigError(f"MeshConfig: data, fsdp and smallest must be at least 1, got {self}.")


class Layout:
    """The mesh and the shardings on it. One CPU device makes a mesh of 1 x 1 and takes the same path as many hosts.

    Args:
        config: the sizes of the mesh.
        devices: JAX devices, all of the mesh, of all processes; by default all there are.

    Raises:
        ConfigError: the sizes do not make up the devices.
    """

    def __init__(self, config: MeshConfig | None = None, devices: Sequence[Any] | None = None) -> None:
        config = config or MeshConfig()
        found = list(jax.devices() if devices is None else devices)
        data = len(found) // config.fsdp if config.data is None else config.data
        if data * config.fsdp != len(found):
            raise ConfigError(
                f"a mesh of data {data} x fsdp {config.fsdp} does not make up the {len(found)} devices of this "
                "learner. Change --fsdp, or show it fewer devices (CUDA_VISIBLE_DEVICES)."
            )
        # In the order of processes, which `rows` depends on; jax.make_mesh may choose another.
        self.mesh = Mesh(np.array(found).reshape(data, config.fsdp), (DATA, FSDP))
        self.rule = Rule(config.fsdp, config.smallest)
        self.replicated = NamedSharding(self.mesh, PartitionSpec())
        self._processes = sorted({device.process_index for device in found})
        # Several devices of one CPU starve each other where more than one program is in flight, and hang.
        self._one_at_a_time = self.mesh.size > 1 and found[0].platform == "cpu"

    def rows(self, batch: int) -> slice:
        """Which samples of a batch of B this process reads.

        Raises:
            ConfigError: B cannot be divided among the devices.
        """
        if batch % self.mesh.size:
            raise ConfigError(
                f"a batch of {batch} cannot be divided among {self.mesh.size} devices. Use a multiple of that."
            )
        per_process = batch // len(self._processes)
        first = self._processes.index(jax.process_index()) * per_process
        return slice(first, first + per_process)

    def sharding(self, shape: tuple[int, ...]) -> NamedSharding:
        """Of a leaf of the state with this shape: parameters, their averages and the optimiser's memory of them alike."""
        axis = self.rule.axis(shape)
        return NamedSharding(
            self.mesh, PartitionSpec(*(FSDP if i == axis else None for i in range(len(shape))))
        )

    def place(self, tree: Tree) -> Tree:
        """The tree on the mesh by the rule, in buffers that nothing else holds, because training donates them.

        Every process must hold the same tree. Keys and what is no array are allowed.
        """
        return jax.tree.map(lambda leaf: self._place(leaf) if eqx.is_array(leaf) else leaf, tree)

    def place_batches(self, batches: Transition) -> Transition:
        """Stacked batches [count, rows, ...] of this process as part of the global batches [count, B, ...]."""
        sharding, processes = NamedSharding(self.mesh, BATCHES), len(self._processes)

        def put(leaf: Any) -> jax.Array:
            shape = (leaf.shape[0], leaf.shape[1] * processes, *leaf.shape[2:])
            return jax.make_array_from_process_local_data(sharding, np.asarray(leaf), shape)

        return jax.tree.map(put, batches)

    def whole(self, tree: Tree) -> Tree:
        """The tree with every array readable here. All processes must call it; each gets all of it."""
        return jax.tree.map(lambda leaf: self._whole(leaf) if eqx.is_array(leaf) else leaf, tree)

    def run_block(
        self, one_update: Update[State], state: State, batches: Transition, key: PRNGKeyArray
    ) -> tuple[State, Metrics]:
        """`stages.run_block` on the mesh. `state`, `one_update` and `key` come from `place`; batches [count, rows, ...].

        `state` is donated and comes back under the shardings that it went in with; metrics are whole on every process.
        """
        state, metrics = _run((self, one_update, key), state, self.place_batches(batches))
        if self._one_at_a_time:
            jax.block_until_ready((state, metrics))
        return state, metrics

    def pinned(self, state: Tree) -> Tree:
        """Inside jit: the state with its shardings fixed, so that XLA may not choose others."""
        return jax.tree.map(
            lambda leaf: (
                jax.lax.with_sharding_constraint(leaf, self.sharding(leaf.shape))
                if eqx.is_array(leaf)
                else leaf
            ),
            state,
        )

    def _place(self, leaf: Any) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = self._place(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        sharding = self.sharding(leaf.shape)
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:  # restored into place
            return jax.device_put(leaf, sharding)
        host = np.asarray(leaf)
        return jax.make_array_from_callback(
            host.shape,
            sharding,
            lambda index: np.array(host[index]),  # pyright: ignore
        )

    def _whole(self, leaf: jax.Array) -> jax.Array:
        if leaf.is_fully_addressable:
            return leaf
        replicate = jax.jit(_same, out_shardings=self.replicated)
        return jax.block_until_ready(replicate(leaf)).addressable_data(0)


def _same(leaf: jax.Array) -> jax.Array:
    return leaf


def _pinned_update(
    layout: Layout, one_update: Update[Any], state: Any, batch: Transition, key: PRNGKeyArray
) -> tuple[Any, Metrics]:
    state, metrics = one_update(layout.pinned(state), batch, key)
    return layout.pinned(state), metrics


@eqx.filter_jit(donate="all-except-first")
def _run(
    fixed: tuple[Layout, Update[Any], PRNGKeyArray], state: Any, batches: Transition
) -> tuple[Any, Metrics]:
    layout, one_update, key = fixed
    one_update = eqx.Partial(_pinned_update, layout, one_update)  # pyright: ignore
    state, metrics = run_block(one_update, state, batches, key)
    return layout.pinned(state), jax.lax.with_sharding_constraint(metrics, layout.replicated)
