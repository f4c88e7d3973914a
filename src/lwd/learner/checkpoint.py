"""Checkpoints: the learner's own full state, written by orbax in the background, for an exact resume.

A checkpoint holds the state's arrays and a small JSON of everything else that the next draw depends on: the stage, the
seed, the manifest that batches were drawn from. The position in the replay is the learner step itself. What it holds does not
depend on the mesh that wrote it: it is read into whatever shardings the template has. With several processes all of them save
and restore, in one folder that they share.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from lwd.errors import CheckpointError
from lwd.models.arrays import mismatches, named_leaves, with_leaves

State = TypeVar("State")


class Checkpoints:
    """The checkpoints of one stage of one run, newest last."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder.absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        handlers = {"state": ocp.StandardCheckpointHandler(), "position": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    def save(self, step: int, state: object, position: dict[str, Any]) -> None:
        """Write state and position; returns once the arrays are copied, the disk is written in the background."""
        arrays = {name: _held(leaf) for name, leaf in named_leaves(state).items()}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(arrays), position=ocp.args.JsonSave(position)
            ),
        )

    def latest_step(self) -> int | None:
        """Learner step of the newest complete checkpoint, None without one."""
        return self._manager.latest_step()

    def restore(self, template: State, step: int | None = None) -> tuple[State, dict[str, Any]]:
        """The newest checkpoint (or that of `step`) under the template's shardings, and its position.

        Raises:
            CheckpointError: there is none, or it belongs to another model.
        """
        step = self.latest_step() if step is None else step
        if step is None:
            raise CheckpointError(f"{self.folder} holds no checkpoint. Run the stage that writes it first.")
        self._manager.wait_until_finished()  # the newest may still be on its way to disk
        expected = named_leaves(template)
        problems = mismatches(expected, self._manager.item_metadata(step)["state"].tree)
        if problems:
            raise CheckpointError(
                f"checkpoint {step} in {self.folder} does not fit this run: {'; '.join(problems)}. "
                "Resume with the settings it was made with, or start a new run directory."
            )
        shapes = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for name, leaf in expected.items()
        }
        saved = self._manager.restore(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(shapes), position=ocp.args.JsonRestore()),
        )
        return with_leaves(template, saved["state"]), dict(saved["position"])

    def close(self) -> None:
        """Wait for the background write and release the folder."""
        self._manager.wait_until_finished()
        self._manager.close()


def _held(leaf: jax.Array) -> jax.Array | np.ndarray:
    """A copy that training, which donates the state, cannot reach while it is on its way to disk."""
    if leaf.is_fully_addressable:
        return np.array(leaf)
    # Orbax copies from a device before it returns; on a CPU that copy may be the buffer itself.
    on_cpu = next(iter(leaf.sharding.device_set)).platform == "cpu"
    return jnp.copy(leaf) if on_cpu else leaf
