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
SILENT_S = 120.0
"""Longer than a chunk, and than most takeovers, in which a robot asks nothing."""


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


@dataclass(frozen=True, eq=False)
class Hold:
    """What an episode has of a snapshot, by its number; each is its own."""

    snapshot: int


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
    others are dropped. Where room is needed, episodes that have asked nothing for long hold theirs no longer.

    Args:
        runner: has the policies.
        room: most snapshots that are loaded at once.
        linger_s: for how long a snapshot stays after its last episode, for robots that lost their connection.
        silent_s: for how long an episode holds its snapshot after its last request, where room is needed.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        runner: Runner,
        room: int = 4,
        linger_s: float = 30.0,
        silent_s: float = SILENT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runner, self._room, self._clock = runner, room, clock
        self._linger_s, self._silent_s = linger_s, silent_s
        self._guard = threading.Lock()
        # Of each loaded snapshot, when the episodes that hold it asked last.
        self._asked: dict[int, dict[Hold, float]] = {}
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
            return sorted(self._asked)

    def make_room(self, *, needed: bool = False) -> bool:
        """Drop what nobody needs; whether one more snapshot fits.

        Args:
            needed: if none fits, drop the one whose episodes have been silent for longest, if it is for longer than `silent_s`.
        """
        with self._guard:
            dropped = [number for number in self._asked if self._unused(number)]
            if needed and len(self._asked) - len(dropped) >= self._room:
                dropped += self._longest_silent()
            for number in dropped:
                del self._asked[number]
                self._let_go.pop(number, None)
            fits = len(self._asked) < self._room
        for number in dropped:
            self._runner.drop(number)
        return fits

    def add(self, number: int, policy: Any, *, serve: bool = True) -> None:
        """Load a snapshot; when it is ready, episodes that begin get it, or else those that ask for it."""
        self._runner.load(number, policy)
        with self._guard:
            self._asked.setdefault(number, {})
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

    def begin(self, client: str, episode: str | None, pinned: int | None, *, fresh: bool = False) -> Hold:
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
            if number not in self._asked:
                raise SnapshotGoneError(
                    f"snapshot {number} is not loaded here (it has {sorted(self._asked)}). End the episode and begin a new one."
                )
            if episode is not None:
                self._episodes[known] = number
                self._episodes.move_to_end(known)
                while len(self._episodes) > REMEMBERED:
                    self._episodes.popitem(last=False)
            hold = Hold(number)
            self._asked[number][hold] = self._clock()
            return hold

    def ask(self, hold: Hold) -> None:
        """The episode that has this hold makes a request, and so keeps it.

        Raises:
            SnapshotGoneError: it was silent for so long that its snapshot was dropped.
        """
        with self._guard:
            if hold.snapshot not in self._asked:
                raise SnapshotGoneError(
                    f"snapshot {hold.snapshot} is not loaded here any more (it has {sorted(self._asked)}): this episode asked "
                    f"nothing for more than {self._silent_s:g} s, and room was needed. Begin a new episode."
                )
            self._asked[hold.snapshot][hold] = self._clock()

    def end(self, hold: Hold) -> None:
        """Let go of what `begin` returned."""
        with self._guard:
            if self._asked.get(hold.snapshot, {}).pop(hold, None) is not None:
                self._let_go[hold.snapshot] = self._clock()

    def _unused(self, number: int) -> bool:
        if self._stays(number) or self._asked[number]:
            return False
        return self._clock() - self._let_go.get(number, -float("inf")) >= self._linger_s

    def _longest_silent(self) -> list[int]:
        """At most one snapshot: of those whose episodes are all silent, the one that was asked least lately."""
        last = {n: max(asked.values()) for n, asked in self._asked.items() if asked and not self._stays(n)}
        silent = [number for number in last if self._clock() - last[number] > self._silent_s]
        return sorted(silent, key=last.__getitem__)[:1]

    def _stays(self, number: int) -> bool:
        return number == self._newest or number in self._kept
