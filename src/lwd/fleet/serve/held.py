"""Which snapshots a policy server has loaded, who holds which, and which one a new episode gets. No JAX, thread-safe."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lwd.errors import LwdError
from lwd.fleet.serve.observation import Seen

REMEMBERED = 4096
"""Episodes whose snapshot is remembered for a robot that connects again."""


class NoSnapshotError(LwdError):
    """No policy is loaded yet."""


class SnapshotGoneError(LwdError):
    """The snapshot of an episode, or one that was asked for, is not loaded here."""


@dataclass(frozen=True, eq=False)
class Row:
    """One chunk to compute.

    Attributes:
        snapshot: which policy computes all of it.
        seen: the observation.
        seed, chunk: of the noise.
    """

    snapshot: int
    seen: Seen
    seed: int
    chunk: int


@runtime_checkable
class Runner(Protocol):
    """Computes chunks. One kind of model, one implementation; `chunks` is called by one thread at a time."""

    def load(self, number: int, policy: Any) -> None:
        """Take a policy and make ready for it: compile, move to the accelerator. Called while others are computed."""
        ...

    def drop(self, number: int) -> None:
        """Free a policy that nobody holds any more."""
        ...

    def chunks(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Chunks [B, H, A]; each row wholly by the policy of its snapshot, whatever rows come with it."""
        ...


class HeldSnapshots:
    """The loaded snapshots. What new episodes get, what is to be kept, and what an episode holds or has just let go of stays;
    others are dropped.

    Args:
        runner: has the policies.
        room: most snapshots that are loaded at once.
        linger_s: for how long a snapshot stays after its last episode, for robots that lost their connection.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        runner: Runner,
        room: int = 4,
        linger_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runner, self._room, self._linger_s, self._clock = runner, room, linger_s, clock
        self._guard = threading.Lock()
        self._holds: dict[int, int] = {}
        self._let_go: dict[int, float] = {}
        self._newest: int | None = None
        self._kept: frozenset[int] = frozenset()
        self._episodes: OrderedDict[tuple[str, str], int] = OrderedDict()

    @property
    def newest(self) -> int | None:
        """What episodes that begin now get; None before the first."""
        return self._newest

    def loaded(self) -> list[int]:
        """Numbers of all loaded snapshots."""
        with self._guard:
            return sorted(self._holds)

    def make_room(self) -> bool:
        """Drop what nobody needs; whether one more snapshot fits."""
        with self._guard:
            dropped = [number for number in self._holds if self._unused(number)]
            for number in dropped:
                del self._holds[number]
                self._let_go.pop(number, None)
            fits = len(self._holds) < self._room
        for number in dropped:
            self._runner.drop(number)
        return fits

    def add(self, number: int, policy: Any, *, serve: bool = True) -> None:
        """Load a snapshot; when it is ready, episodes that begin get it, or else those that ask for it."""
        self._runner.load(number, policy)
        with self._guard:
            self._holds.setdefault(number, 0)
        if serve:
            self.serve(number)

    def serve(self, number: int) -> None:
        """Episodes that begin and ask for none in particular get this one, which is loaded."""
        with self._guard:
            before, self._newest = self._newest, number
            if before is not None and before != number:
                self._let_go.setdefault(before, self._clock())

    def keep(self, numbers: Collection[int]) -> None:
        """These stay once they are loaded, in place of those that were named before."""
        with self._guard:
            self._kept = frozenset(numbers)

    def begin(self, client: str, episode: str | None, pinned: int | None, *, fresh: bool = False) -> int:
        """Hold a snapshot for an episode: the pinned one, the one that this episode had before, or the newest.

        Args:
            client: whose episode.
            episode: its name, None where it has none.
            pinned: the only snapshot that will do, None for any.
            fresh: whatever it had before, the newest.

        Raises:
            NoSnapshotError: none is loaded yet.
            SnapshotGoneError: the pinned or former one is not loaded.
        """
        with self._guard:
            if self._newest is None:
                raise NoSnapshotError("no snapshot is loaded yet; ask again in a moment.")
            known = (client, episode or "")
            wanted = pinned
            if pinned is None and episode is not None and not fresh:
                wanted = self._episodes.get(known)
            number = self._newest if wanted is None else wanted
            if number not in self._holds:
                raise SnapshotGoneError(
                    f"snapshot {number} is not loaded here (it has {sorted(self._holds)}). End the episode and begin a new one."
                )
            if episode is not None:
                self._episodes[known] = number
                self._episodes.move_to_end(known)
                while len(self._episodes) > REMEMBERED:
                    self._episodes.popitem(last=False)
            self._holds[number] += 1
            return number

    def end(self, number: int) -> None:
        """Let go of what `begin` returned."""
        with self._guard:
            self._holds[number] -= 1
            self._let_go[number] = self._clock()

    def _unused(self, number: int) -> bool:
        if number == self._newest or number in self._kept or self._holds[number]:
            return False
        return self._clock() - self._let_go.get(number, -float("inf")) >= self._linger_s
