"""The policy as robots use it: snapshots in, action chunks out, one batched call for many robots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from lwd.config import Experiment
from lwd.errors import RobotError
from lwd.fleet.policies import prompts_of
from lwd.fleet.services import encoder, fleet_description
from lwd.image import Pixels, prepare_all
from lwd.learner.method import Acting, act
from lwd.models.networks import MakePrompts
from lwd.robot.sim.run import ActBatch
from lwd.spec import CameraSpec
from lwd.transition import Observation


@eqx.filter_jit
def _chunks(
    policy: Acting,
    proprio: jax.Array,
    instruction: jax.Array,
    images: dict[str, jax.Array],
    prompts: dict[str, jax.Array] | None,
    seeds: jax.Array,
    chunk_index: jax.Array,
    shape: tuple[int, int],
    flow_steps: int,
) -> jax.Array:
    def one(seen: Observation, seed: jax.Array, index: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(seed), index)
        return act(policy, seen, key, shape, flow_steps)

    return jax.vmap(one)(Observation(proprio, instruction, images, prompts), seeds, chunk_index)


class PolicyDriver:
    """Acts for robots that may each run another snapshot.

    The noise of a chunk depends on the episode's seed and the chunk's index only, and rows are always padded to the same
    batch size, so an episode's actions do not depend on which robots happen to be asked together.
    """

    def __init__(
        self,
        embed: Callable[[str], NDArray[np.float32]],
        chunk_shape: tuple[int, int],
        flow_steps: int,
        pad_to: int,
        cameras: Sequence[CameraSpec] = (),
        image_side: int | None = None,
        prompts: Callable[[Acting], MakePrompts | None] = lambda acting: None,
    ) -> None:
        self._cameras, self._side = tuple(cameras), image_side
        self._make_prompts = prompts
        self._prompts: dict[int, MakePrompts | None] = {}
        self._embed, self._shape, self._flow_steps, self._pad = embed, chunk_shape, flow_steps, pad_to
        self._policies: dict[int, Acting] = {}

    def load(self, snapshot: int, policy: Acting) -> None:
        """Make a snapshot available to episodes that begin from now on."""
        self._policies[snapshot] = policy
        self._prompts[snapshot] = self._make_prompts(policy)

    def keep_only(self, snapshots: Sequence[int]) -> None:
        """Forget snapshots that no running episode uses any more."""
        self._policies = {n: p for n, p in self._policies.items() if n in set(snapshots)}
        self._prompts = {n: p for n, p in self._prompts.items() if n in set(snapshots)}

    def act_batch(self, batch: ActBatch) -> NDArray[np.float32]:
        """Chunks [B, H, A] for the robots of a fleet that need one now.

        Raises:
            RobotError: an episode is driven by a snapshot that was never loaded.
        """
        snapshots = [-1 if number is None else number for number in batch.snapshots]
        unknown = sorted(set(snapshots) - set(self._policies))
        if unknown:
            raise RobotError(f"snapshots {unknown} drive robots {batch.robots} but were never loaded here.")
        return self.act(
            batch.proprio, batch.instructions, snapshots, batch.seeds, batch.chunk_index, batch.images
        )

    def act(
        self,
        proprio: NDArray[np.float32],
        instructions: Sequence[str],
        snapshots: Sequence[int],
        seeds: NDArray[np.int64],
        chunk_index: NDArray[np.int64],
        images: Mapping[str, Sequence[bytes | Pixels]] | None = None,
    ) -> NDArray[np.float32]:
        """Chunks [B, H, A] for B robots, each under its own snapshot; images: per camera a picture of each robot."""
        seen = self._see(images or {})
        result = np.empty((len(proprio), *self._shape), np.float32)
        embedded = np.stack([self._embed(text) for text in instructions])
        for snapshot in sorted(set(snapshots)):
            rows = np.flatnonzero(np.asarray(snapshots) == snapshot)
            for part in np.array_split(rows, -(-len(rows) // self._pad)):
                padded = np.resize(part, self._pad)
                prompts = self._prompts[snapshot]
                ids = (
                    None
                    if prompts is None
                    else prompts([instructions[int(i)] for i in padded], proprio[padded])
                )
                chunks = _chunks(
                    self._policies[snapshot],
                    jnp.asarray(proprio[padded]),
                    jnp.asarray(embedded[padded]),
                    {camera: jnp.asarray(pixels[padded]) for camera, pixels in seen.items()},
                    jax.tree.map(jnp.asarray, ids),
                    jnp.asarray(seeds[padded] & 0x7FFFFFFF, jnp.uint32),
                    jnp.asarray(chunk_index[padded], jnp.uint32),
                    self._shape,
                    self._flow_steps,
                )
                result[part] = np.asarray(chunks)[: len(part)]
        return result

    def _see(self, images: Mapping[str, Sequence[bytes | Pixels]]) -> dict[str, NDArray[np.uint8]]:
        """The pictures [B, h, w, 3] exactly as the replay makes them."""
        return {camera.name: prepare_all(images[camera.name], camera, self._side) for camera in self._cameras}


def fleet_driver(experiment: Experiment, pad_to: int | None = None) -> PolicyDriver:
    """A driver for this experiment's robots; `pad_to` is by default a worker's share of the fleet, the usual batch."""
    spec, _ = fleet_description(experiment)
    fleet = experiment.fleet
    return PolicyDriver(
        encoder(experiment),
        (spec.chunk_steps, spec.action_dim),
        experiment.model.flow_steps,
        pad_to=pad_to or -(-fleet.robots // fleet.workers),
        cameras=spec.cameras,
        image_side=experiment.model.image_side,
        prompts=partial(prompts_of, experiment),
    )
