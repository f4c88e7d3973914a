"""Requests of many robots, one policy call. asyncio on the outside, one computing thread inside. No JAX."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lwd.errors import ConfigError, LwdError
from lwd.fleet.serve.held import Row
from lwd.fleet.telemetry import Telemetry

log = logging.getLogger(__name__)


class BusyError(LwdError):
    """More requests wait than the policy can answer in time."""


class PolicyFailedError(LwdError):
    """The policy's call failed, or gave numbers that no robot may execute."""


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """How requests are collected.

    Attributes:
        max_batch: most rows of one call.
        collect_s: longest time that the first request of a batch waits for others.
        max_waiting: requests that may wait; further ones are answered "busy" at once.
        patience_s: a request that has waited longer is answered "busy".
    """

    max_batch: int = 16
    collect_s: float = 0.003
    max_waiting: int = 256
    patience_s: float = 10.0

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise ConfigError(
                f"a policy call takes at least 1 request, got {self.max_batch}. Give --max-batch 1 or more."
            )
        if not 0 <= self.collect_s < math.inf:
            raise ConfigError(
                f"a request waits 0 s or longer for others, got {self.collect_s} s. Give --collect-ms 0 or more."
            )


@dataclass(frozen=True, eq=False)
class Answer:
    """One chunk. Seconds it waited for its batch, and seconds of the batch's call; rows of that batch."""

    chunk: NDArray[np.float32]
    wait_s: float
    compute_s: float
    rows: int


@dataclass(eq=False)
class _Waiting:
    row: Row
    answer: asyncio.Future[Answer]
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Collects rows into batches. `ask` and `run` belong to one event loop; the loop never computes.

    While a batch is computed the next one gathers, so that under load batches grow by themselves; `collect_s` only matters
    while the policy is idle, and not where everybody who is connected waits already.

    Args:
        chunks: the policy's call; runs in the batcher's own thread.
        expected: how many clients could ask now.
        settings, telemetry: counts go there as `serve_*`.
    """

    def __init__(
        self,
        chunks: Callable[[Sequence[Row]], NDArray[np.float32]],
        expected: Callable[[], int],
        settings: BatchSettings,
        telemetry: Telemetry,
    ) -> None:
        self._chunks, self._expected, self._settings = chunks, expected, settings
        self._telemetry = telemetry
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._batches: dict[int, int] = {}

    @property
    def waiting(self) -> int:
        """Requests that no batch has taken yet."""
        return len(self._waiting)

    async def ask(self, row: Row) -> Answer:
        """The chunk of a row. Cancelling it takes the row out of the queue.

        Raises:
            BusyError: too many wait, or it waited too long.
            PolicyFailedError: the call failed.
        """
        self._forget_cancelled()
        if len(self._waiting) >= self._settings.max_waiting:
            self._telemetry.count("serve_busy_total")
            raise BusyError(f"{len(self._waiting)} requests wait already; ask again in a moment.")
        mine = _Waiting(row, asyncio.get_running_loop().create_future())
        self._waiting.append(mine)
        self._arrived.set()
        return await mine.answer

    async def run(self) -> None:
        """Answer until cancelled."""
        thread = ThreadPoolExecutor(1, "lwd-policy-call")
        batch: list[_Waiting] = []
        try:
            while True:
                await self._collect()
                batch = self._take()
                if batch:
                    await self._compute(thread, batch)
        finally:
            for one in (*batch, *self._waiting):
                one.answer.cancel()
            thread.shutdown(wait=False)  # a call that hangs must not keep the loop from closing connections

    async def _collect(self) -> None:
        """Wait for the first request, then for others as long as it is worth while."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        deadline = self._waiting[0].since + self._settings.collect_s
        while len(self._waiting) < min(self._settings.max_batch, self._expected()):
            left = deadline - time.monotonic()
            if left <= 0:
                return
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), left)

    def _take(self) -> list[_Waiting]:
        """The oldest requests of clients that are still there."""
        batch: list[_Waiting] = []
        now = time.monotonic()
        while self._waiting and len(batch) < self._settings.max_batch:
            one = self._waiting.popleft()
            if one.answer.done():
                self._telemetry.count("serve_dropped_total")
            elif now - one.since > self._settings.patience_s:
                self._telemetry.count("serve_busy_total")
                one.answer.set_exception(
                    BusyError(f"the request waited {now - one.since:.1f} s; ask again in a moment.")
                )
            else:
                batch.append(one)
        return batch

    async def _compute(self, thread: ThreadPoolExecutor, batch: Sequence[_Waiting]) -> None:
        began = time.monotonic()
        rows = [one.row for one in batch]
        try:
            chunks = await asyncio.get_running_loop().run_in_executor(thread, self._chunks, rows)
            seconds = time.monotonic() - began
            self._note(len(rows), seconds)
            for one, chunk in zip(batch, chunks, strict=True):
                self._answer(one, chunk, began, seconds, len(rows))
        except Exception as error:  # whatever a policy raises, the next batch is computed
            log.exception("policy_call_failed rows=%d", len(batch))
            self._telemetry.count("serve_failed_total", float(len(batch)))
            text = f"the policy's call failed: {type(error).__name__}: {error!s:.300}"
            for one in batch:
                if not one.answer.done():
                    one.answer.set_exception(PolicyFailedError(text))

    def _answer(
        self, one: _Waiting, chunk: NDArray[np.float32], began: float, seconds: float, rows: int
    ) -> None:
        if one.answer.done():
            self._telemetry.count("serve_dropped_total")
        elif np.isfinite(chunk).all():
            one.answer.set_result(Answer(chunk, began - one.since, seconds, rows))
        else:
            self._telemetry.count("serve_failed_total")
            one.answer.set_exception(
                PolicyFailedError(f"snapshot {one.row.snapshot} gave a chunk that is not finite; not sent.")
            )

    def _note(self, rows: int, seconds: float) -> None:
        self._telemetry.observe("serve_compute_seconds", [seconds])
        self._telemetry.count("serve_batches_total")
        self._telemetry.count("serve_rows_total", float(rows))
        self._batches[rows] = self._batches.get(rows, 0) + 1
        self._telemetry.gauge("serve_batches_of_size", float(self._batches[rows]), rows=str(rows))

    def _forget_cancelled(self) -> None:
        if any(one.answer.done() for one in self._waiting):
            left = [one for one in self._waiting if not one.answer.done()]
            self._telemetry.count("serve_dropped_total", float(len(self._waiting) - len(left)))
            self._waiting = deque(left)
