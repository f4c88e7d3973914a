"""What the commands of a learner share: devices, processes, hosts, and the watchdog around several processes."""

from __future__ import annotations

import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lwd.cli.options import log_to_stderr

if TYPE_CHECKING:
    from lwd.fleet.hosts import Team


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """One learner on any number of devices and hosts.

    Attributes:
        fsdp: devices that share one copy of parameters and optimiser; what is left is used for data parallelism.
        processes: of the learner, on all hosts. More than one are watched: one that dies or hangs restarts all.
        process_id: which of them this host runs, from 0; without it all of them run here.
        coordinator_address: host:port that process 0 opens for the others, inside a closed network.
        silent_s: seconds without a sign of life after which a process that learns is taken for hung; more than a block takes.
        starting_s: the same before the first learner step, which compiles.
        heartbeat: file that the watchdog reads; set by the watchdog itself, not by you.
    """

    fsdp: int = 1
    processes: int = 1
    process_id: int | None = None
    coordinator_address: str | None = None
    silent_s: float = 300.0
    starting_s: float = 1800.0
    heartbeat: Path | None = None

    @property
    def is_watched(self) -> bool:
        """Whether this process is to watch over those that do the work."""
        return self.processes > 1 and self.heartbeat is None


def watch(options: JobOptions, out: Path) -> int:
    """Run this host's processes of a job of several, until they have ended or it is told to stop.

    Returns:
        0 if all ended well; otherwise it was told to stop: the exit code of a program that ended by that signal.

    Raises:
        WatchdogError: the job keeps failing before it gets anywhere.
    """
    from lwd.fleet.learner_job import LearnerJob
    from lwd.fleet.service import ServiceContext
    from lwd.fleet.supervisor import stop_with_parent
    from lwd.fleet.watchdog import Watchdog, WatchdogConfig

    log_to_stderr()
    job = LearnerJob(
        arguments=sys.argv[1:],
        processes=options.processes,
        process_id=options.process_id,
        coordinator_address=options.coordinator_address,
        beats=out.absolute() / "heartbeats",
    )
    config = WatchdogConfig(silent_s=options.silent_s, starting_s=options.starting_s)
    watchdog = Watchdog(job.members, options.processes, job.beats, out.absolute() / "logs", config)
    context = ServiceContext("learner", "watchdog")
    stop_with_parent(context.stopping)
    with context.signals():
        done = watchdog.run(context.stopping)
    return 0 if done else 128 + (context.signal or signal.SIGTERM)


@contextmanager
def joined(options: JobOptions) -> Generator[Team]:
    """Take this process's place among the learner's. Must come before JAX computes anything."""
    from lwd.fleet import hosts
    from lwd.learner.sharding import MeshConfig

    place = hosts.HostsConfig(
        processes=options.processes,
        process_id=options.process_id or 0,
        coordinator_address=options.coordinator_address,
    )
    with hosts.joined(place, MeshConfig(fsdp=options.fsdp), options.heartbeat) as team:
        yield team
