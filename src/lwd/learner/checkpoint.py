"""Checkpoints: the learner's own full state, written by orbax in the background, for an exact resume.

A checkpoint holds the state's arrays and a small JSON of everything else that the next draw depends on: the stage, the
seed, the manifest that batches were drawn from. The position in the replay is the learner step itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from lwd.errors import CheckpointError, SnapshotError
from lwd.models.arrays import from_arrays, to_arrays

State = TypeVar("State")


class Checkpoints:
    """The checkpoints of one stage of one run, newest last."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder.absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def save(self, step: int, state: object, position: dict[str, Any]) -> None:
        """Write state and position; returns once the arrays are copied, the disk is written in the background."""
        arrays = {name: np.array(leaf) for name, leaf in to_arrays(state).items()}
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
        """The newest checkpoint (or that of `step`) and its position.

        Raises:
            CheckpointError: there is none, or it belongs to another model.
        """
        step = self.latest_step() if step is None else step
        if step is None:
            raise CheckpointError(f"{self.folder} holds no checkpoint. Start the stage without --resume.")
        shapes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in to_arrays(template).items()}
        try:
            saved = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(shapes), position=ocp.args.JsonRestore()
                ),
            )
            arrays = {k: np.asarray(v) for k, v in saved["state"].items()}
            state = from_arrays(template, arrays, f"checkpoint {step} in {self.folder}")
        except (ValueError, KeyError, SnapshotError) as error:
            raise CheckpointError(
                f"checkpoint {step} in {self.folder} does not fit this run: {error} "
                "Resume with the settings it was made with, or start a new run directory."
            ) from error
        return state, dict(saved["position"])

    def close(self) -> None:
        """Wait for the background write and release the folder."""
        self._manager.wait_until_finished()
        self._manager.close()
