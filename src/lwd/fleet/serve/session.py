"""One client's connection to a policy server: its episode, and the snapshot that drives it. No JAX."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from lwd.fleet.serve.held import HeldSnapshots, Hold, Row, SnapshotGoneError
from lwd.fleet.serve.observation import Control, ObservationKeys, control, seen
from lwd.spec import RobotSpec


class Session:
    """Gives an episode one snapshot from its first chunk to its last.

    An episode begins with the connection, with `lwd/reset` or `lwd/begin`, or where `lwd/episode` changes. Clients that send
    no seed get one of their own per episode.

    Args:
        client: who it is.
        held: the loaded snapshots.
        spec, keys: how to read an observation.
    """

    def __init__(self, client: str, held: HeldSnapshots, spec: RobotSpec, keys: ObservationKeys) -> None:
        self.client = client
        self._held, self._spec, self._keys = held, spec, keys
        self._hold: Hold | None = None
        self._episode: str | None = None
        self._seed, self._chunk = 0, 0

    @property
    def snapshot(self) -> int | None:
        """What drives the running episode, None before the first."""
        return None if self._hold is None else self._hold.snapshot

    def read(self, message: Mapping[str, Any]) -> Row | None:
        """The row to compute for a request, None if it only begins an episode.

        Raises:
            ObservationError: it cannot be answered as it is; the running episode is as before.
            NoSnapshotError, SnapshotGoneError: see `HeldSnapshots.begin` and `HeldSnapshots.ask`.
        """
        said = control(message)
        observed = None if said.begin else seen(message, self._spec, self._keys)
        snapshot = self._driven_by(said)
        if observed is None:
            return None
        seed = self._seed if said.seed is None else said.seed
        index = self._chunk if said.chunk is None else said.chunk
        self._chunk = index + 1
        return Row(snapshot, observed, seed, index)

    def close(self) -> None:
        """Let go of the snapshot."""
        if self._hold is not None:
            self._held.end(self._hold)
            self._hold = None

    def _driven_by(self, said: Control) -> int:
        """The snapshot of this request's episode, which begins if it must."""
        other = said.episode is not None and said.episode != self._episode
        if self._hold is None or said.begin or said.reset or other:
            hold = self._held.begin(self.client, said.episode, said.snapshot, fresh=said.reset)
            self.close()
            self._hold, self._episode = hold, said.episode
            self._seed, self._chunk = secrets.randbits(31), 0
            return hold.snapshot
        if said.snapshot is not None and said.snapshot != self._hold.snapshot:
            raise SnapshotGoneError(
                f"this episode runs under snapshot {self._hold.snapshot}, not {said.snapshot}. "
                "Begin a new episode for another one."
            )
        self._held.ask(self._hold)
        return self._hold.snapshot
