"""The next batches, drawn by a background thread while the learner computes."""

from __future__ import annotations

import threading
import time
from collections import deque
from types import TracebackType
from typing import NamedTuple, Protocol, runtime_checkable

from lwd.errors import ConfigError, LwdError
from lwd.transition import Transition


@runtime_checkable  # the tests check types at run time
class Draws(Protocol):
    """What is prefetched from: `lwd.replay.sampler.Sampler`, or anything that draws like it."""

    manifest: int

    def draw(self, step: int, count: int, batch: int, rows: slice = ...) -> Transition:
        """The stacked batches of learner steps step .. step + count - 1."""
        ...


class Prefetched(NamedTuple):
    """Stacked batches and where they come from.

    Attributes:
        step: the first learner step of the group.
        manifest: what it was drawn from.
        batch: a Transition with axes [count, B, ...] in front.
    """

    step: int
    manifest: int
    batch: Transition


class Prefetcher:
    """Draws groups of `count` learner steps ahead of their use. Use it from one thread; close it, or use
    `with`.

    The batches are exactly those of `sampler.draw`; only the time at which they are drawn differs.

    Args:
        sampler: where to draw from.
        step: first learner step, the one to resume from.
        count: learner steps per group.
        batch: B, samples per learner step.
        depth: groups kept ready; each costs its own memory.
        rows: which of the B samples this host reads.
    """

    def __init__(
        self, sampler: Draws, *, step: int, count: int, batch: int, depth: int = 2, rows: slice = slice(None)
    ) -> None:
        if count < 1 or batch < 1 or depth < 1:
            raise ConfigError(
                f"Prefetcher: count, batch and depth must be at least 1, got {count}, {batch}, {depth}."
            )
        self._count, self._batch, self._depth, self._rows = count, batch, depth, rows
        self._changed = threading.Condition()
        self._ready: deque[Prefetched] = deque()
        self._sampler, self._wanted, self._drawing = sampler, step, step
        self._error: BaseException | None = None
        self._closed = False
        self._waited_s, self._since = 0.0, time.monotonic()
        self._thread = threading.Thread(target=self._run, name="lwd-prefetch", daemon=True)
        self._thread.start()

    @property
    def step(self) -> int:
        """The learner step that `next` returns first."""
        return self._wanted

    @property
    def wait_fraction(self) -> float:
        """Share of the time since the last `reset_wait` that the learner waited in `next`, in [0, 1]."""
        return min(self._waited_s / max(time.monotonic() - self._since, 1e-9), 1.0)

    def reset_wait(self) -> None:
        """Begin to measure anew."""
        self._waited_s, self._since = 0.0, time.monotonic()

    def next(self) -> Prefetched:
        """The next group in order; waits for it if it is not ready.

        Raises:
            LwdError: the prefetcher was closed.
            Exception: whatever the sampler raised, once everything drawn before it was used up.
        """
        began = time.monotonic()
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._error is not None or self._closed)
            self._waited_s += time.monotonic() - began
            if self._closed:
                raise LwdError("The prefetcher is closed; make a new one from the step to go on with.")
            if not self._ready:
                assert self._error is not None
                raise self._error
            group = self._ready.popleft()
            self._wanted = group.step + self._count
            self._changed.notify_all()
        return group

    def close(self) -> None:
        """Stop the thread and drop what is ready; harmless when called twice."""
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()
        self._thread.join()

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        """Draw whenever there is room, until closed or an error, which is kept for the consumer."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or len(self._ready) < self._depth)
                if self._closed:
                    return
            try:
                drawn = self._sampler.draw(self._drawing, self._count, self._batch, self._rows)
            except BaseException as error:  # it belongs to the consumer, whatever it is
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
            with self._changed:
                self._ready.append(Prefetched(self._drawing, self._sampler.manifest, drawn))
                self._drawing += self._count
                self._changed.notify_all()
