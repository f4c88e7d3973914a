from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from lwd.errors import ConfigError, LwdError
from lwd.replay import Replay, offline_rl
from lwd.replay.prefetch import Prefetcher
from lwd.transition import Observation, Transition
from tests.unit.replay.replay_cases import make_episode


class Slow:
    """A sampler that names its draws and takes its time."""

    def __init__(self, manifest: int, seconds: float = 0.0, fail_at: int | None = None) -> None:
        self.manifest, self.seconds, self.fail_at, self.calls = manifest, seconds, fail_at, 0

    def draw(self, step: int, count: int, batch: int, rows: slice = slice(None)) -> Transition:
        self.calls += 1
        time.sleep(self.seconds)
        if self.fail_at is not None and step >= self.fail_at:
            raise ZeroDivisionError(f"at {step}")
        value = np.full((count, batch), step + 1000 * self.manifest)[:, rows]
        seen = Observation(value, value, {})
        return Transition(seen, value, value, value, value, seen, value, value, value)


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_the_groups_come_in_order_from_the_step_to_resume_from() -> None:
    with Prefetcher(Slow(1), step=30, count=5, batch=4, rows=slice(1, 3)) as prefetcher:
        for step in range(30, 100, 5):
            assert prefetcher.step == step
            group = prefetcher.next()
            assert (group.step, group.manifest) == (step, 1)
            assert group.batch.reward.shape == (5, 2)
            assert (group.batch.reward == 1000 + step).all()
    assert "lwd-prefetch" not in threads()


def test_it_keeps_no_more_ready_than_asked() -> None:
    sampler = Slow(1)
    with Prefetcher(sampler, step=0, count=1, batch=1, depth=3) as prefetcher:
        for ready in (3, 4):
            while sampler.calls < ready:
                time.sleep(0.001)
            time.sleep(0.02)
            assert sampler.calls == ready
            prefetcher.next()


def test_an_error_reaches_the_consumer_after_what_was_drawn_before_it() -> None:
    with Prefetcher(Slow(1, fail_at=2), step=0, count=1, batch=1, depth=5) as prefetcher:
        time.sleep(0.05)
        assert [prefetcher.next().step, prefetcher.next().step] == [0, 1]
        for _ in range(2):  # again and again, never a hang
            with pytest.raises(ZeroDivisionError, match="at 2"):
                prefetcher.next()


def test_the_share_of_waiting() -> None:
    with Prefetcher(Slow(1, seconds=0.03), step=0, count=1, batch=1) as prefetcher:
        for _ in range(5):
            prefetcher.next()
        assert prefetcher.wait_fraction > 0.5
    with Prefetcher(Slow(1), step=0, count=1, batch=1) as prefetcher:
        prefetcher.next()
        prefetcher.reset_wait()
        for _ in range(5):
            time.sleep(0.02)
            prefetcher.next()
        assert prefetcher.wait_fraction < 0.5


def test_closing_frees_a_waiting_consumer_and_is_final() -> None:
    prefetcher = Prefetcher(Slow(1, seconds=0.2), step=0, count=1, batch=1)
    caught: list[BaseException] = []

    def consume() -> None:
        try:
            prefetcher.next()
        except LwdError as error:
            caught.append(error)

    consumer = threading.Thread(target=consume)
    consumer.start()
    time.sleep(0.02)
    prefetcher.close()
    consumer.join(timeout=5)
    assert not consumer.is_alive()
    assert len(caught) == 1
    prefetcher.close()
    with pytest.raises(LwdError, match="is closed"):
        prefetcher.next()


def test_settings_are_checked() -> None:
    for bad in ({"count": 0, "batch": 1}, {"count": 1, "batch": 0}, {"count": 1, "batch": 1, "depth": 0}):
        with pytest.raises(ConfigError, match="must be at least 1"):
            Prefetcher(Slow(1), step=0, **bad)


def test_the_batches_are_those_of_the_sampler_while_the_replay_grows(
    new_replay: Callable[..., Replay],
) -> None:
    replay = new_replay()
    replay.add(make_episode(30))
    stop = threading.Event()

    def grow() -> None:
        while not stop.is_set():
            replay.add(make_episode(20, task="tea"))

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        for seed in range(5):
            view = replay.view()
            sampler = replay.sampler(view, offline_rl(), seed)
            with Prefetcher(sampler, step=3, count=4, batch=16) as prefetcher:
                for _ in range(3):
                    group = prefetcher.next()
                    again = replay.sampler(replay.view(view.manifest), offline_rl(), seed).draw(
                        group.step, 4, 16
                    )
                    assert group.manifest == view.manifest
                    np.testing.assert_array_equal(group.batch.chunk, again.chunk)
                    np.testing.assert_array_equal(group.batch.discount, again.discount)
    finally:
        stop.set()
        writer.join()
