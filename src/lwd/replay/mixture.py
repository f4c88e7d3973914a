"""Which transitions the learner draws, how often, and over how many chunks their return looks ahead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from lwd.episode import Outcome, Source
from lwd.errors import ConfigError

OFFLINE_SOURCES = (Source.DEMO, Source.ROLLOUT, Source.PLAY)
ALL_OUTCOMES = (Outcome.SUCCESS, Outcome.FAILURE, Outcome.UNJUDGED)


@dataclass(frozen=True, kw_only=True)
class Pool:
    """One half of a mixture: which transitions, and how often each.

    Attributes:
        sources: episodes of these sources only.
        outcomes: episodes of these outcomes only.
        corrections: also the chunks that a human commanded from their first step to their last, in episodes
            of `sources` with any other outcome (HG-DAgger).
        balance: "steps": every transition alike; "tasks": every task alike, whatever amount of data it has,
            and every
            transition of a task alike.
        task_weights: task name -> how much more often; 1 where not named, 0 leaves the task out.
        source_weights: source -> how much more often its transitions; 1 where not named, 0 leaves the source
            out.
        n_short: n, chunks per return window, in tasks of the short horizon.
        n_long: n in tasks of the long horizon.
    """

    sources: tuple[Source, ...] = OFFLINE_SOURCES
    outcomes: tuple[Outcome, ...] = ALL_OUTCOMES
    corrections: bool = False
    balance: Literal["steps", "tasks"] = "steps"
    task_weights: Mapping[str, float] = field(default_factory=dict[str, float])
    source_weights: Mapping[Source, float] = field(default_factory=dict[Source, float])
    n_short: int = 1
    n_long: int = 1

    def __post_init__(self) -> None:
        if not self.sources or not self.outcomes:
            raise ConfigError(
                "Pool: name at least one source and one outcome; nothing could be drawn otherwise."
            )
        if self.balance not in ("steps", "tasks"):
            raise ConfigError(f'Pool: balance must be "steps" or "tasks", got {self.balance!r}.')
        for name, weight in [*self.task_weights.items(), *self.source_weights.items()]:
            if not 0 <= weight < float("inf"):
                raise ConfigError(
                    f"Pool: the weight of {str(name)!r} must be zero or positive and finite, got {weight}."
                )
        if all(self.source_weights.get(source, 1.0) == 0 for source in self.sources):
            raise ConfigError("Pool: every source has weight 0; nothing could be drawn.")
        unused = set(self.source_weights) - set(self.sources)
        if unused:
            names = ", ".join(sorted(map(str, unused)))
            raise ConfigError(
                f"Pool: source_weights names {names}, which sources leaves out. "
                "Add it there or drop the weight."
            )
        if min(self.n_short, self.n_long) < 1:
            raise ConfigError(
                f"Pool: n must be at least 1 chunk, got n_short {self.n_short} and n_long {self.n_long}."
            )


def _online_pool() -> Pool:
    return Pool(sources=(Source.ONLINE,))


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """What a batch is made of: an offline and an online half, each drawn from its own pool.

    Attributes:
        offline: B_off.
        online: B_on.
        online_share: share of every batch that comes from the online pool, exact up to rounding; 0 = offline
            only.
        without_online: what to do while the online pool is still empty: "offline" fills the batch from the
            offline pool (the
            sampler's metric `replay/online_share` then says 0), "error" refuses.
    """

    offline: Pool = field(default_factory=Pool)
    online: Pool = field(default_factory=_online_pool)
    online_share: float = 0.0
    without_online: Literal["offline", "error"] = "offline"

    def __post_init__(self) -> None:
        if not 0 <= self.online_share <= 1:
            raise ConfigError(f"Mixture: online_share must lie in [0, 1], got {self.online_share}.")
        if self.without_online not in ("offline", "error"):
            raise ConfigError(
                f'Mixture: without_online must be "offline" or "error", got {self.without_online!r}.'
            )


def demonstrations() -> Mixture:
    """Behaviour cloning of the reference: successful demonstrations only (Algorithm 1, step 1)."""
    return Mixture(offline=Pool(sources=(Source.DEMO,), outcomes=(Outcome.SUCCESS,)))


def offline_rl(n_long: int = 10) -> Mixture:
    """Offline RL on B_off: n = 10 for tasks of the long horizon, 1 for short ones (Algorithm 1, step 2)."""
    return Mixture(offline=Pool(n_long=n_long))


def online_rl(online_share: float = 0.5) -> Mixture:
    """Online RL on B_off and B_on at 1:1, n = 1 for all (Algorithm 1, step 3)."""
    return Mixture(online_share=online_share)
