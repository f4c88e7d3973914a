"""The commands of a learner of several processes, for the watchdog that starts them on this host. No JAX."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lwd.errors import ConfigError
from lwd.fleet.watchdog import Member, beat_file


@dataclass(frozen=True, kw_only=True)
class LearnerJob:
    """One learner, however many hosts it runs on.

    Attributes:
        arguments: of the command `lwd` that asked for it; its processes get the same and a place of their own.
        processes: on all hosts.
        process_id: the one that runs here, None for all of them.
        coordinator_address: of process 0; None where all run here, which take a free port at each start.
        beats: folder of the heartbeats, shared by all hosts.

    Raises:
        ConfigError: one process of several, and no address at which they would meet.
    """

    arguments: Sequence[str]
    processes: int
    process_id: int | None
    coordinator_address: str | None
    beats: Path

    def __post_init__(self) -> None:
        if self.process_id is not None and self.coordinator_address is None:
            raise ConfigError(
                f"process {self.process_id} of {self.processes} needs --coordinator-address HOST:PORT to find the others."
            )
        if self.process_id is not None and not 0 <= self.process_id < self.processes:
            raise ConfigError(
                f"process {self.process_id} of {self.processes} does not exist; they count from 0."
            )

    def members(self) -> list[Member]:
        """What runs on this host, for one start."""
        here = range(self.processes) if self.process_id is None else [self.process_id]
        address = self.coordinator_address or f"127.0.0.1:{free_port()}"
        return [Member(process_id=i, command=self._command(i, address)) for i in here]

    def _command(self, process_id: int, address: str) -> list[str]:
        place = ["--heartbeat", str(beat_file(self.beats, process_id))]
        if self.process_id is None:
            place += ["--process-id", str(process_id)]
        if self.coordinator_address is None:
            place += ["--coordinator-address", address]
        return [sys.executable, "-m", "lwd.cli", *self.arguments, *place]


def free_port() -> int:
    """A TCP port of this machine that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
