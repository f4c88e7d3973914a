"""Counter-based sampling: the batch of learner step k is a pure function of (seed, stream, manifest, k).

There is no state to save: resuming is naming the step. The random number of row i of step k comes from a
Philox counter, so it does not matter in which order, in which groups or in which process the steps are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lwd.errors import ConfigError, StoreError, UnknownNameError
from lwd.replay.chunks import gather
from lwd.replay.mixture import Mixture, Pool
from lwd.replay.returns import OUTCOMES
from lwd.replay.table import SOURCES
from lwd.replay.view import View
from lwd.transition import Observation, Transition

_WORDS_PER_COUNTER = 4  # Philox4x64 gives four 64-bit words per counter value
_STREAM = 0x6C7764  # second half of the key, so that other users of the same seed see other numbers
_STREAM_BITS = 24  # of it; `Sampler.stream` is in the bits above


MakePrompts = Callable[[Sequence[str], NDArray[np.float32]], dict[str, NDArray[np.int32]]]
"""Instructions [B] and proprio [B, P] -> `Observation.prompts`, each [B, L]."""


class _Spans(NamedTuple):
    """A pool laid out on a line: span j covers [edges[j], edges[j + 1]), `mass[j]` per start step."""

    episode: NDArray[np.int64]
    first: NDArray[np.int64]
    length: NDArray[np.int64]
    mass: NDArray[np.float64]
    edges: NDArray[np.float64]

    def pick(self, uniform: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Episode and start step for numbers in [0, 1)."""
        at = uniform * self.edges[-1]
        span = np.minimum(np.searchsorted(self.edges, at, "right") - 1, len(self.length) - 1)
        offset = ((at - self.edges[span]) / self.mass[span]).astype(np.int64)
        # Rounding may reach one past a span's end.
        return self.episode[span], self.first[span] + np.minimum(offset, self.length[span] - 1)


class Sampler:
    """Draws batches from one view of the replay.

    Args:
        view: what may be drawn.
        mixture: how it is weighted.
        seed: any non-negative integer below 2^64.
        prompts: fills `Observation.prompts`; None leaves it out.
        stream: any number in [0, 2^32). Samplers of one seed whose learner steps count anew need one each, or they draw the
            same random numbers.

    Attributes:
        manifest: number of the view's manifest; together with seed, stream and learner step it names a batch.
        online_share: share of every batch that really comes from the online pool.

    Raises:
        UnknownNameError: the mixture weighs a task that the fleet does not have.
        StoreError: a pool that the mixture needs is empty.
    """

    def __init__(
        self, view: View, mixture: Mixture, seed: int, prompts: MakePrompts | None = None, stream: int = 0
    ) -> None:
        if not 0 <= seed < 2**64:
            raise ConfigError(f"Sampler: the seed must lie in [0, 2^64), got {seed}.")
        if not 0 <= stream < 2**32:
            raise ConfigError(f"Sampler: the stream must lie in [0, 2^32), got {stream}.")
        self.view, self.mixture, self.manifest = view, mixture, view.manifest
        self.seed, self.stream = seed, stream
        self._prompts = prompts
        online = _lay_out(view, mixture.online) if mixture.online_share > 0 else None
        if mixture.online_share > 0 and online is None and mixture.without_online == "error":
            raise StoreError(
                f"Manifest {view.manifest} has no transition for the online half of the mixture, which asks "
                f'for a share of {mixture.online_share}. Wait for the fleet, or set without_online="offline".'
            )
        self.online_share = mixture.online_share if online is not None else 0.0
        offline = _lay_out(view, mixture.offline) if self.online_share < 1 else None
        if self.online_share < 1 and offline is None:
            raise StoreError(
                f"Manifest {view.manifest} with {len(view.episodes)} episodes has no transition of sources "
                f"{', '.join(mixture.offline.sources)} and outcomes {', '.join(mixture.offline.outcomes)}. "
                "Collect some first."
            )
        self._offline, self._online = offline, online
        self._n_offline, self._n_online = _n_of_task(view, mixture.offline), _n_of_task(view, mixture.online)

    @property
    def metrics(self) -> dict[str, float]:
        """What the learner should log beside its own metrics."""
        spans = {"offline": self._offline, "online": self._online}
        sizes = {
            f"replay/{name}_transitions": float(s.length.sum()) if s else 0.0 for name, s in spans.items()
        }
        return {"replay/manifest": float(self.manifest), "replay/online_share": self.online_share, **sizes}

    def draw(self, step: int, count: int, batch: int, rows: slice = slice(None)) -> Transition:
        """The batches of learner steps step .. step + count - 1, stacked for `lax.scan`.

        Args:
            step: learner step, from 0.
            count: how many steps.
            batch: B, samples per step.
            rows: which of the B samples to read; a host of a multi-host learner reads its own.

        Returns:
            A Transition with axes [count, B, ...] in front. Row [i] is `draw(step + i, 1, batch)[0]`, and
            `rows` picks out of the same batch. Online samples are spread evenly over the batch, so every even
            slice of it has its share of them.
        """
        episode, start, n = self.indices(step, count, batch)
        drawn = gather(self.view, episode[:, rows], start[:, rows], n[:, rows])
        return drawn if self._prompts is None else self._prompted(drawn, episode[:, rows], self._prompts)

    def _prompted(self, drawn: Transition, episode: NDArray[np.int64], prompts: MakePrompts) -> Transition:
        """The same with the prompts of both observations."""
        view = self.view
        said = [view.sentences[int(i)] for i in view.episodes["instruction"][episode].ravel()]

        def filled(seen: Observation) -> Observation:
            made = prompts(said, seen.proprio.reshape(len(said), -1))
            shaped = {key: ids.reshape(*episode.shape, -1) for key, ids in made.items()}
            return seen._replace(prompts=shaped)

        return drawn._replace(
            observation=filled(drawn.observation), next_observation=filled(drawn.next_observation)
        )

    def indices(
        self, step: int, count: int, batch: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """What `draw` reads: episode, start step and n, each int64 [count, B]."""
        if step < 0 or count < 1 or batch < 1:
            raise ConfigError(
                f"Sampler.draw: needs step >= 0, count >= 1, batch >= 1, got {step}, {count}, {batch}."
            )
        uniform = self._uniform(step, count, batch)
        share = round(batch * self.online_share)
        order = np.arange(batch + 1) * share // batch
        online = order[1:] > order[:-1]
        episode, start = np.empty((count, batch), np.int64), np.empty((count, batch), np.int64)
        n = np.empty((count, batch), np.int64)
        halves = ((self._offline, ~online, self._n_offline), (self._online, online, self._n_online))
        for spans, columns, n_of_task in halves:
            if spans is not None and columns.any():
                picked, at = spans.pick(uniform[:, columns])
                episode[:, columns], start[:, columns] = picked, at
                n[:, columns] = n_of_task[self.view.episodes["task"][picked]]
        return episode, start, n

    def _uniform(self, step: int, count: int, batch: int) -> NDArray[np.float64]:
        """Numbers in [0, 1), [count, B]; row i depends on seed, stream, step + i and B only."""
        counters = -(-batch // _WORDS_PER_COUNTER)
        # NumPy increments the counter before the first block; what matters is that step k owns k * counters
        # and on.
        key = self.seed | (self.stream << _STREAM_BITS | _STREAM) << 64
        bits = np.random.Philox(key=key, counter=step * counters)
        words = np.asarray(bits.random_raw(count * counters * _WORDS_PER_COUNTER), np.uint64)
        words = words.reshape(count, counters * _WORDS_PER_COUNTER)[:, :batch]
        return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _lay_out(view: View, pool: Pool) -> _Spans | None:
    """The pool's transitions with their weights; None if there is none."""
    table = view.episodes
    known = [task.name for task in view.tasks]
    for name in pool.task_weights:
        if name not in known:
            raise UnknownNameError("task", name, known)
    task_weight = np.array([pool.task_weights.get(name, 1.0) for name in known])
    source_weight = np.array([pool.source_weights.get(s, 1.0) if s in pool.sources else 0.0 for s in SOURCES])
    weight = task_weight[table["task"]] * source_weight[table["source"]]
    wanted = np.isin(table["outcome"], [OUTCOMES.index(outcome) for outcome in pool.outcomes])
    whole = np.flatnonzero(wanted & (weight > 0))
    episode, first, length = whole, np.zeros_like(whole), table["steps"][whole].astype(np.int64)
    if pool.corrections:
        others = np.flatnonzero(~wanted & (weight > 0) & (table["human_steps"] > 0))
        spans = [(e, *span) for e in others.tolist() for span in _corrections(view, e)]
        extra = np.array(spans, np.int64).reshape(-1, 3).T
        episode, first, length = (
            np.concatenate(both) for both in zip((episode, first, length), extra, strict=True)
        )
    if not len(episode):
        return None
    mass = weight[episode].astype(np.float64)
    if pool.balance == "tasks":
        # A task's total becomes its weight, whatever amount of data it has.
        task = table["task"][episode]
        mass *= (task_weight / np.maximum(np.bincount(task, mass * length, len(known)), 1e-300))[task]
    edges = np.concatenate(([0.0], np.cumsum(mass * length)))
    return _Spans(episode.astype(np.int64), first, length, mass, edges)


def _corrections(view: View, episode: int) -> list[tuple[int, int]]:
    """Where chunks may start that a human commands whole: (first start, how many) of each intervention."""
    steps, reach = int(view.episodes["steps"][episode]), view.spec.chunk_steps - 1
    # A chunk that the episode's end cuts short has no policy in its tail.
    spans = [(at, n if at + n == steps else n - reach) for at, n in view.human_spans(episode)]
    return [(at, n) for at, n in spans if n > 0]


def _n_of_task(view: View, pool: Pool) -> NDArray[np.int64]:
    """Chunks per window, n, by task index."""
    return np.array(
        [pool.n_long if task.horizon == "long" else pool.n_short for task in view.tasks], np.int64
    )
