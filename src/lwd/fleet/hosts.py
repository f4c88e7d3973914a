"""The processes of one learner: how they join, agree and end. A single one is the ordinary case and joins nothing."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import jax

from lwd.errors import ConfigError, StoreError
from lwd.fleet.heartbeat import Heartbeat
from lwd.learner.sharding import Layout, MeshConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class HostsConfig:
    """One process's place among a learner's processes.

    Attributes:
        processes: of the learner on all hosts.
        process_id: this one's, from 0.
        coordinator_address: host:port that process 0 opens and the others can reach. It asks for no password: keep it inside a
            closed network.
        joining_s: how long to wait for the others at the start.
        silence_s: after how long without a sign of another process JAX ends this one.
    """

    processes: int = 1
    process_id: int = 0
    coordinator_address: str | None = None
    joining_s: int = 300
    silence_s: int = 100

    def __post_init__(self) -> None:
        if not 0 <= self.process_id < self.processes:
            raise ConfigError(
                f"process {self.process_id} of {self.processes} does not exist; they count from 0."
            )
        if self.processes > 1 and (self.coordinator_address or "").count(":") < 1:
            raise ConfigError(
                f"a learner of {self.processes} processes needs --coordinator-address HOST:PORT, an address of the "
                f"host of process 0; got {self.coordinator_address!r}."
            )


@runtime_checkable  # the tests check types at run time
class Board(Protocol):
    """Where processes leave short texts for each other: JAX's coordination service."""

    def key_value_set(self, key: str, value: str) -> None:
        """Leave a text."""
        ...

    def blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str:
        """Wait for a text."""
        ...

    def key_value_delete(self, key: str) -> None:
        """Take a text away."""
        ...


class Agreement:
    """Numbers on which all processes agree, between blocks of learner steps.

    Over the coordination service and not by an all-reduce: that would queue behind the block that is being computed, and a
    collective has no patience for a host that still downloads. All processes must ask for the same numbers in the same order.

    Args:
        processes, process_id: as in `HostsConfig`.
        board: None where there is one process.
        patience_s: how long to wait for the slowest.
    """

    def __init__(
        self, processes: int = 1, process_id: int = 0, board: Board | None = None, patience_s: float = 1800.0
    ) -> None:
        self._processes, self._me, self._board, self._patience_s = processes, process_id, board, patience_s
        self._round = 0

    @property
    def alone(self) -> bool:
        """Whether there is nobody to agree with."""
        return self._board is None

    def all(self, value: int) -> list[int]:
        """The number that each process gave, by process id.

        Raises:
            StoreError: a process did not answer in time.
        """
        if self._board is None:
            return [value]
        self._board.key_value_set(self._key(self._round, self._me), str(value))
        found = [self._ask(i) for i in range(self._processes)]
        if self._round:  # everybody is in this round, so nobody still reads the one before
            self._board.key_value_delete(self._key(self._round - 1, self._me))
        self._round += 1
        return found

    def least(self, value: int) -> int:
        """The smallest of all processes' numbers, such as the newest manifest that every host holds."""
        return min(self.all(value))

    def any(self, flag: bool) -> bool:
        """Whether any process says so, such as that it was told to stop."""
        return max(self.all(int(flag))) > 0

    def same(self, value: int, what: str) -> None:
        """See that all processes have the same number.

        Raises:
            StoreError: they do not.
        """
        found = self.all(value)
        if len(set(found)) > 1:
            raise StoreError(
                f"the learner's processes differ in {what}: {', '.join(map(str, found))} by process id. They need one "
                "shared folder of checkpoints and the same catalogue."
            )

    def _ask(self, process_id: int) -> int:
        assert self._board is not None
        try:
            key = self._key(self._round, process_id)
            return int(self._board.blocking_key_value_get(key, int(self._patience_s * 1000)))
        except Exception as error:  # jaxlib's own type, which has no public name
            raise StoreError(
                f"process {process_id} of the learner did not answer within {self._patience_s:.0f} s: {error}"
            ) from error

    @staticmethod
    def _key(number: int, process_id: int) -> str:
        return f"lwd/agreement/{number}/{process_id}"


@dataclass(frozen=True)
class Team:
    """What a learner's loop needs to be one of several processes; by default it is the only one.

    Attributes:
        layout: where arrays live.
        agreement: with the other processes.
        process_id: this one's; process 0 publishes snapshots and writes metrics.
        heartbeat: for the watchdog, None without one.
    """

    layout: Layout = field(default_factory=Layout)
    agreement: Agreement = field(default_factory=Agreement)
    process_id: int = 0
    heartbeat: Heartbeat | None = None

    @property
    def alone(self) -> bool:
        """Whether there is no other process to wait for."""
        return self.agreement.alone

    @property
    def leads(self) -> bool:
        """Whether this process speaks for the learner."""
        return self.process_id == 0

    def replay_name(self, name: str) -> str:
        """Of this process's own replay folder: several may share a run folder."""
        return name if self.leads else f"{name}-{self.process_id}"

    def beat(self, learner_step: int) -> None:
        """Tell the watchdog that the loop goes round."""
        if self.heartbeat is not None:
            self.heartbeat.beat(learner_step)

    def rest(self, learner_step: int) -> None:
        """Tell the watchdog that the loop waits, and that what comes next may have to be compiled first."""
        if self.heartbeat is not None:
            self.heartbeat.rest(learner_step)


@contextmanager
def joined(
    hosts: HostsConfig, mesh: MeshConfig | None = None, heartbeat: Path | None = None
) -> Generator[Team]:
    """Be one of the learner's processes. Must come before JAX computes anything in this process.

    With several processes an error ends this process at once, with code 1: to leave in good order it would have to wait for the
    others, and they wait for it.
    """
    pulse = None if heartbeat is None else Heartbeat(heartbeat)
    if hosts.processes > 1:
        _join(hosts)
    try:
        board = _board() if hosts.processes > 1 else None
        agreement = Agreement(hosts.processes, hosts.process_id, board)
        yield Team(Layout(mesh), agreement, hosts.process_id, pulse)
        if pulse is not None:
            pulse.end()
    except BaseException as error:
        if hosts.processes == 1:
            raise
        log.exception("learner_process_failed process_id=%d", hosts.process_id, exc_info=error)
        logging.shutdown()
        os._exit(1)
    if hosts.processes > 1:
        jax.distributed.shutdown()


def _join(hosts: HostsConfig) -> None:
    assert hosts.coordinator_address is not None
    # JAX would take SIGTERM for itself and not stop; stopping is ours (lwd.fleet.service).
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    local = hosts.coordinator_address.rsplit(":", 1)[0] in ("127.0.0.1", "localhost")
    jax.distributed.initialize(
        coordinator_address=hosts.coordinator_address,
        num_processes=hosts.processes,
        process_id=hosts.process_id,
        initialization_timeout=hosts.joining_s,
        heartbeat_timeout_seconds=hosts.silence_s,
        coordinator_bind_address=hosts.coordinator_address if local else None,
        cluster_detection_method="deactivate",
    )


def _board() -> Board:
    """JAX's coordination service, which has no public name; orbax takes its barriers from the same place."""
    from jax._src import distributed

    state: Any = distributed.global_state
    return cast(Board, state.client)
