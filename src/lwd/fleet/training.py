"""Running a stage of Algorithm 1 on a replay: draw ahead, update in blocks, log, checkpoint, resume."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from lwd.errors import ConfigError
from lwd.fleet.folder import RunFolder
from lwd.fleet.hosts import Team
from lwd.fleet.metrics_log import MetricsLog
from lwd.learner.checkpoint import Checkpoints
from lwd.learner.divl import Metrics
from lwd.learner.stages import LoopConfig, Stepped, Update
from lwd.replay.prefetch import Prefetcher
from lwd.replay.sampler import Sampler
from lwd.transition import Transition

State = TypeVar("State", bound=Stepped)


def _never() -> bool:
    return False


def _to_nobody(learner_step: int) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What a service adds to a stage; by default nothing: it runs to its end.

    Attributes:
        should_stop: asked after every block; a stage that is told to stop saves and ends early.
        tell: called after every block with the learner steps done.
        steps_before: learner steps of earlier stages that belong to the same count.
    """

    should_stop: Callable[[], bool] = _never
    tell: Callable[[int], None] = _to_nobody
    steps_before: int = 0


class StageRun:
    """One stage of one run: its name, its seed, where its metrics and checkpoints go, on which devices and hosts it runs."""

    def __init__(
        self,
        stage: str,
        *,
        seed: int,
        loop: LoopConfig,
        metrics: MetricsLog | None,
        checkpoints: Checkpoints | None = None,
        progress: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
        team: Team | None = None,
        hooks: Hooks | None = None,
    ) -> None:
        self.stage, self.seed, self.loop, self.metrics = stage, seed, loop, metrics
        self.checkpoints, self.progress = checkpoints, progress
        self.team, self.hooks = team or Team(), hooks or Hooks()
        self.stopped = False
        self.key = self.team.layout.place(stage_key(stage, seed))
        self._began = time.monotonic()

    def restore(self, state: State) -> State:
        """The newest checkpoint of this stage, or `state` where there is none; on the mesh."""
        state = self.team.layout.place(state)
        if self.checkpoints is None:
            return state
        newest = self.checkpoints.latest_step()
        self.team.agreement.same(-1 if newest is None else newest, "the newest checkpoint")
        if newest is None:
            return state
        restored, position = self.checkpoints.restore(state)
        if position["stage"] != self.stage or position["seed"] != self.seed:
            raise ConfigError(
                f"checkpoint of stage {position['stage']!r} with seed {position['seed']} cannot resume stage "
                f"{self.stage!r} with seed {self.seed}; use another run directory."
            )
        return self.team.layout.place(restored)

    def train(
        self, one_update: Update[State], state: State, sampler: Sampler, *, batch: int, until_step: int
    ) -> State:
        """Learner steps up to `until_step`, in blocks; the last block may be cut short by it.

        Once a process of the team was told to stop, `stopped` is set and no further block begins, in this call or the next.
        """
        step, block = int(state.step), self.loop.block_steps
        layout, pending = self.team.layout, None
        one_update, rows = layout.place(one_update), layout.rows(batch)
        self._beat(step)
        with Prefetcher(sampler, step=step, count=block, batch=batch, rows=rows) as prefetch:
            while step < until_step and not self.stopped:
                batches = prefetch.next().batch
                if until_step - step < block:
                    batches = first_steps(batches, until_step - step)
                state, metrics = layout.run_block(one_update, state, batches, self.key)
                if pending:
                    self.report(*pending, prefetch)
                step = min(step + block, until_step)
                pending = (step, metrics)
                self._beat(step)
                self.stopped = self.team.agreement.any(self.hooks.should_stop())
                if self.saves_at(step, until_step) or self.stopped:
                    self.save(step, state, sampler.manifest)
            if pending:
                self.report(*pending, prefetch)
        return state

    def _beat(self, step: int) -> None:
        done = self.hooks.steps_before + step
        self.team.beat(done)
        self.hooks.tell(done)

    def keep(self, state: Stepped, manifest: int) -> None:
        """See that there is a checkpoint of this state, even of a stage without a single learner step."""
        if self.checkpoints is not None and self.checkpoints.latest_step() is None:
            self.save(int(state.step), state, manifest)

    def saves_at(self, step: int, until_step: int) -> bool:
        """Whether a checkpoint belongs after the block that ends here."""
        blocks = step // self.loop.block_steps
        return blocks % self.loop.checkpoint_every_blocks == 0 or step >= until_step

    def report(self, step: int, metrics: Metrics, prefetch: Prefetcher) -> None:
        """Log a block; called one block late, so that reading the numbers does not stop the dispatch of the next."""
        numbers = {name: float(value) for name, value in metrics.items()}
        if self.metrics is None or not self.team.leads:  # another process speaks for all
            return
        numbers["replay/wait_fraction"] = prefetch.wait_fraction
        prefetch.reset_wait()
        elapsed = time.monotonic() - self._began
        self.metrics.write(stage=self.stage, learner_step=step, time_s=elapsed, **numbers)
        self.progress(step, numbers)

    def save(self, step: int, state: Any, manifest: int) -> None:
        """Write a checkpoint, where there is a place for them."""
        if self.checkpoints is not None:
            position = {"stage": self.stage, "seed": self.seed, "manifest": manifest}
            self.checkpoints.save(step, state, position)


def open_metrics(
    folder: RunFolder, stage: str, team: Team
) -> AbstractContextManager[MetricsLog] | AbstractContextManager[None]:
    """Of the process that leads; the others would write the same."""
    return MetricsLog(folder.metrics(stage)) if team.leads else nullcontext()


@contextmanager
def open_checkpoints(folder: RunFolder, stage: str, team: Team) -> Generator[Checkpoints]:
    """Closed at the end; after an error only where that does not mean to wait for the other processes."""
    checkpoints = Checkpoints(folder.checkpoints(stage))
    try:
        yield checkpoints
    except BaseException:
        if team.alone:
            checkpoints.close()
        raise
    checkpoints.close()


def first_steps(batches: Transition, count: int) -> Transition:
    """The first learner steps of a block."""
    return jax.tree.map(lambda x: x[:count], batches)


def stage_key(stage: str, seed: int) -> PRNGKeyArray:
    """The base key of a stage; learner steps start at 0 in each, so two stages must not share one."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(stage.encode()))


def draws_of(stage: str) -> int:
    """A sampler's stream in a stage, for the same reason: turn 2 would draw turn 1's rows again.

    SFT and offline learning, whose data differ, have shared stream 0 since before there were others.
    """
    return 0 if stage in ("sft", "offline") else zlib.crc32(stage.encode())


def own(state: State) -> State:
    """A copy whose buffers nothing else holds, because training donates them."""
    return jax.tree.map(lambda x: jnp.array(x, copy=True) if isinstance(x, jax.Array) else x, state)
