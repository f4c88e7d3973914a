"""Several seeds of a row as one computation: their offline stages train side by side under `vmap`, which fills a GPU.

Every seed keeps its own folder, batches, random numbers, metrics and checkpoints, as if its own process had trained it and then
been cut before it published: `lwd results run` goes on from there. Numbers differ from those of one seed by itself only in the
rounding of sums.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from lwd.errors import ConfigError
from lwd.fleet.folder import RunFolder, open_services
from lwd.fleet.hosts import Team
from lwd.fleet.offline import Part, Prepared, first_state, prepared
from lwd.fleet.phases import finished_phases
from lwd.fleet.policies import load_reference
from lwd.fleet.training import first_steps
from lwd.learner.stages import run_block
from lwd.replay.prefetch import Prefetcher
from lwd.results.plan import Cell, Places
from lwd.results.state import folder_is_complete, hold, to_run
from lwd.results.worker import begin


def train_rows_together(
    planned: Sequence[Cell], wanted: Sequence[Cell], places: Places, console: Console
) -> Iterator[str]:
    """Row by row, the wanted cells that learn offline and are not done; names of the rows as they are trained.

    Raises:
        ConfigError: what they go on from has not been run, or as `train_together`.
    """
    by_id = {cell.id: cell for cell in planned}
    rows: dict[str, list[Cell]] = {}
    for cell in to_run(planned, wanted, places):
        if cell.stages == ("offline",) and "train offline" not in finished_phases(places.folder(cell.id)):
            rows.setdefault(cell.method, []).append(cell)
    for row, cells in rows.items():
        for cell in cells:
            if cell.parent is not None and not folder_is_complete(by_id[cell.parent], places):
                raise ConfigError(f"{cell.id} goes on from {cell.parent}. Run that first: `lwd results run`.")
        train_together(cells, places, console)
        yield row


def train_together(cells: Sequence[Cell], places: Places, console: Console) -> None:
    """Train the offline stage of several seeds of one row, or what is left of it. Their last checkpoints are the result.

    Raises:
        ConfigError: they are not seeds of one row that learns offline, are not equally far, or another process runs one.
    """
    if len({cell.method for cell in cells}) != 1 or any(cell.stages != ("offline",) for cell in cells):
        raise ConfigError(
            f"only seeds of one row that learns offline can train together, not {', '.join(c.id for c in cells)}."
        )
    with ExitStack() as stack:
        ready = [stack.enter_context(_ready(cell, places, console)) for cell in cells]
        far = {cell.id: int(one.state.step) for cell, one in zip(cells, ready, strict=True)}
        if len(set(far.values())) != 1:
            raise ConfigError(
                f"seeds that train together must be equally far, these are at learner steps {far}. "
                "Let `lwd results run` end them one by one."
            )
        states, batch = _stacked([one.state for one in ready]), cells[0].experiment.offline.learner.batch
        for which in range(len(ready[0].parts)):
            states = _train(ready, [one.parts[which] for one in ready], states, batch)


@contextmanager
def _ready(cell: Cell, places: Places, console: Console) -> Generator[Prepared]:
    """A cell's folder, begun if it has not been, and its offline stage."""
    x, folder = cell.experiment, RunFolder(places.folder(cell.id).absolute())
    with hold(places.lock(cell.id)):
        begin(cell, places)
        with open_services(folder) as services:
            state = first_state(x, x.offline.learner, load_reference(x, services))
            with prepared(x, services, console, x.offline, state, "offline", Team()) as ready:
                yield ready


def _train(ready: Sequence[Prepared], parts: Sequence[Part], states: Any, batch: int) -> Any:
    """Learner steps of one kind, all seeds at once; see `StageRun.train`."""
    loop, until = ready[0].run.loop, parts[0].until_step
    step = int(states.step[0])
    updates, keys = _stacked([part.update for part in parts]), jnp.stack([one.run.key for one in ready])
    with ExitStack() as stack:
        draws = [
            stack.enter_context(Prefetcher(part.sampler, step=step, count=loop.block_steps, batch=batch))
            for part in parts
        ]
        while step < until:
            count = min(loop.block_steps, until - step)
            batches = _stacked([first_steps(draw.next().batch, count) for draw in draws])
            states, metrics = _blocks((updates, keys), states, batches)
            step += count
            for i, (one, draw) in enumerate(zip(ready, draws, strict=True)):
                one.run.report(step, {name: values[i] for name, values in metrics.items()}, draw)
                if one.run.saves_at(step, until):
                    one.run.save(step, _seed(states, i), one.manifest)
    return states


@eqx.filter_jit(donate="all-except-first")
def _blocks(fixed: tuple[Any, Any], states: Any, batches: Any) -> tuple[Any, Any]:
    """`run_block` of every seed; the seeds are the first axis of everything."""
    updates, keys = fixed
    return eqx.filter_vmap(run_block)(updates, states, batches, keys)


def _stacked(trees: Sequence[Any]) -> Any:
    """One tree whose arrays have the seeds as their first axis; what is no array is the same for all of them."""
    arrays, static = zip(*(eqx.partition(tree, _is_array) for tree in trees), strict=True)
    return eqx.combine(jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrays), static[0])


def _is_array(leaf: Any) -> bool:
    """Batches are NumPy's, states JAX's."""
    return isinstance(leaf, (jax.Array, np.ndarray))


def _seed(states: Any, i: int) -> Any:
    """One seed's part of a stacked tree."""
    return jax.tree.map(lambda leaf: leaf[i] if eqx.is_array(leaf) else leaf, states)
