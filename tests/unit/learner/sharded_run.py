"""The same learner steps on meshes of several shapes, as a program: `python sharded_run.py FOLDER` with eight CPU devices.

Writes one file of arrays per mesh and stage, and a checkpoint of the last state on eight devices.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import resumable_run as toy

from lwd.learner.checkpoint import Checkpoints
from lwd.learner.sharding import Layout, MeshConfig
from lwd.learner.stages import critic_stage, rl_stage
from lwd.models.arrays import named_leaves, to_arrays
from lwd.transition import Observation, Transition

SMALLEST = 16
MESHES = {"one": (1, 1), "data": (8, 1), "fsdp": (1, 8), "both": (2, 4)}
CONFIG = replace(toy.CONFIG, batch=16, policy_batch=8)
STAGES = {
    "critic": lambda reference: critic_stage(CONFIG),
    "rl": lambda reference: rl_stage(CONFIG, reference),
}
RUNS = {"critic": ("one", "data", "both"), "rl": ("one", "fsdp", "both")}
BLOCKS, STEPS = 2, 3


def stacked(seed: int = 0) -> Transition:
    """Batches for one block: [STEPS, 16, ...]."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.normal(size=(STEPS, CONFIG.batch, *shape)).astype(np.float32)

    return Transition(
        observation=Observation(draw(3), draw(8), {}),
        chunk=np.tanh(draw(2, 2)),
        valid=draw(2) > -1,
        reward=0.3 * draw(),
        discount=np.abs(np.tanh(draw())),
        next_observation=Observation(draw(3), draw(8), {}),
        intervention=draw() > 1,
        exemplary=draw() > 0,
        task=np.zeros((STEPS, CONFIG.batch), np.int32),
    )


def layout(data: int, fsdp: int) -> Layout:
    """A mesh of the first devices."""
    return Layout(MeshConfig(data=data, fsdp=fsdp, smallest=SMALLEST), jax.devices()[: data * fsdp])


def learned(on: Layout, stage: str):
    """State and metrics after two blocks."""
    state, reference = toy.start()
    update, key = on.place(STAGES[stage](reference)), on.place(jax.random.key(5))
    state = on.place(state)
    expected = {name: leaf.sharding for name, leaf in named_leaves(state).items()}
    metrics = {}
    for block in range(BLOCKS):
        state, metrics = on.run_block(update, state, stacked(block), key)
    for name, leaf in named_leaves(state).items():
        assert leaf.sharding.is_equivalent_to(expected[name], leaf.ndim), name
    for name, value in metrics.items():
        assert value.sharding.is_fully_replicated, name
    return state, {name: float(value) for name, value in metrics.items()}


def main(folder: Path) -> None:
    jax.config.update("jax_disable_most_optimizations", True)
    state = None
    for stage, meshes in RUNS.items():
        for mesh in meshes:
            state, metrics = learned(layout(*MESHES[mesh]), stage)
            arrays = {f"state/{name}": value for name, value in to_arrays(state).items()}
            np.savez(
                folder / f"{stage}-{mesh}.npz", **arrays, **{f"metrics/{k}": v for k, v in metrics.items()}
            )
            print(stage, mesh, flush=True)
    split = [name for name, leaf in named_leaves(state).items() if not leaf.sharding.is_fully_replicated]
    (folder / "split.txt").write_text("\n".join(split))
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(BLOCKS * STEPS, state, {"stage": "offline", "seed": 3, "manifest": 12})
    checkpoints.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
