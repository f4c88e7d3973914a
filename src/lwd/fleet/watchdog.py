"""Keeps a learner of several processes running: if one is dead or hangs, all are ended and start from the newest checkpoint.

A step of such a learner is common work: one process that stops stops them all, and JAX waits for ever (JAX issue 38503).
Each host has a watchdog around its own process; all read the heartbeats of all, so that each ends its own. SIGKILL, because a
process that hangs in a collective hears nothing else. No JAX.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from lwd.errors import ConfigError, LwdError
from lwd.fleet.heartbeat import ENDED, LEARNING, STARTING, Beat, read_beat
from lwd.fleet.supervisor import SUPERVISED, last_line

log = logging.getLogger(__name__)


class WatchdogError(LwdError):
    """The job keeps failing before it gets anywhere."""


@dataclass(frozen=True, kw_only=True)
class WatchdogConfig:
    """How long is too long, in seconds.

    Attributes:
        silent_s: without a beat while it learns; more than the longest block and the longest download of new episodes.
        starting_s: without a beat before its first learner step, which compiles.
        stop_s: from being told to stop, or from the first regular end of a process, to the end of the last.
        pause_s: before a restart; other hosts need to notice too.
        attempts: starts in a row that may fail without a learner step more than the one before.
    """

    silent_s: float = 300.0
    starting_s: float = 1800.0
    stop_s: float = 120.0
    pause_s: float = 2.0
    attempts: int = 5

    def __post_init__(self) -> None:
        if min(self.silent_s, self.starting_s, self.stop_s, self.attempts) <= 0 or self.pause_s < 0:
            raise ConfigError(f"WatchdogConfig: all bounds must be positive, got {self}.")


@dataclass(frozen=True, kw_only=True)
class Member:
    """A process of the job that runs on this host."""

    process_id: int
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


def beat_file(folder: Path, process_id: int) -> Path:
    """Where a process of the job leaves its heartbeat."""
    return folder / f"{process_id}.json"


class _Seen(NamedTuple):
    """A process's newest beat, when it came by our clock, and whether it came since the present start."""

    beat: Beat | None
    since: float
    fresh: bool = False

    @property
    def step(self) -> int:
        return -1 if self.beat is None else self.beat.learner_step


class Watchdog:
    """Runs this host's processes of one job until the job is done.

    Args:
        members: makes this host's processes for a start; called anew for each, since a port may be taken.
        processes: of the job, on all hosts.
        beats: folder of the heartbeats, shared by all hosts.
        logs: folder for the processes' output.
        config: the bounds.
    """

    def __init__(
        self,
        members: Callable[[], Sequence[Member]],
        processes: int,
        beats: Path,
        logs: Path,
        config: WatchdogConfig | None = None,
    ) -> None:
        self._members, self._processes, self._beats, self._logs = members, processes, beats, logs
        self._config = config or WatchdogConfig()
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._seen: dict[int, _Seen] = {}
        self.starts = 0
        self.failures: list[str] = []

    @property
    def pids(self) -> dict[int, int]:
        """Pids of this host's processes that run now, by process id."""
        return {i: process.pid for i, process in self._running.items() if process.poll() is None}

    def run(self, stop: threading.Event, poll_s: float = 0.1) -> bool:
        """Start, watch, restart; returns when all of this host's processes ended well, or were told to stop.

        Returns:
            Whether all ended with code 0; False is a job that was stopped before it was done.

        Raises:
            WatchdogError: too many starts in a row came to nothing.
        """
        fruitless, furthest = 0, -1
        while not stop.is_set():
            self._start()
            try:
                why = self._watch(stop, poll_s)
                done = all(process.poll() == 0 for process in self._running.values())
            finally:
                self._kill()
            if why is None:
                return done
            reached = max(seen.step for seen in self._seen.values())
            fruitless, furthest = (0, reached) if reached > furthest else (fruitless + 1, furthest)
            self.failures.append(why)
            log.warning("learner_restarts cause=%r learner_step=%d start=%d", why, reached, self.starts)
            if fruitless >= self._config.attempts:
                raise WatchdogError(
                    f"the learner was started {self.starts} times and did not get past learner step {furthest} in the "
                    f"last {fruitless}. Last cause: {why}. Its output is in {self._logs}."
                )
            stop.wait(self._config.pause_s)
        return False

    def _start(self) -> None:
        for folder in (self._beats, self._logs):
            folder.mkdir(parents=True, exist_ok=True)
        members = self._members()
        for member in members:
            beat_file(self._beats, member.process_id).unlink(missing_ok=True)
        now, self.starts = time.monotonic(), self.starts + 1
        # What other hosts left behind from before counts as nothing until it changes.
        self._seen = {i: _Seen(read_beat(beat_file(self._beats, i)), now) for i in range(self._processes)}
        for member in members:
            with (self._logs / f"learner-{member.process_id}.log").open("ab") as out:
                self._running[member.process_id] = subprocess.Popen(
                    list(member.command),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    env={**os.environ, **member.environment, SUPERVISED: str(os.getpid())},
                    start_new_session=True,  # Ctrl-C reaches us alone
                )
        log.info("learner_started start=%d pids=%s", self.starts, sorted(self.pids.values()))

    def _watch(self, stop: threading.Event, poll_s: float) -> str | None:
        """Until this host's processes have ended well (None) or something is wrong (what)."""
        told, deadline = False, math.inf
        while True:
            now = time.monotonic()
            codes = {i: process.poll() for i, process in self._running.items()}
            left = [i for i, code in codes.items() if code is None]
            if stop.is_set() and not told:
                told, deadline = True, now + self._config.stop_s
                for i in left:
                    self._running[i].send_signal(signal.SIGTERM)
            if not left and (told or not any(codes.values())):
                return None
            if not told:
                why = self._died(codes) or self._silent(now)
                if why is not None:
                    return why
                if len(left) < len(codes):
                    deadline = min(deadline, now + self._config.stop_s)
            if now > deadline:
                why = f"process {', '.join(map(str, left))} did not end with the others"
                log.warning("learner_killed cause=%r", why)
                return None if told else why
            time.sleep(poll_s)

    def _died(self, codes: Mapping[int, int | None]) -> str | None:
        """Which of this host's processes ended as it should not."""
        died = [
            f"process {i} (pid {self._running[i].pid}, code {code}) ended: {last_line(self._logs / f'learner-{i}.log')}"
            for i, code in codes.items()
            if code not in (None, 0)
        ]
        return "; ".join(died) or None

    def _silent(self, now: float) -> str | None:
        """Which process of the job, on whatever host, has been silent for too long; the one that was silent first."""
        late: list[tuple[float, str]] = []
        for i in range(self._processes):
            known = self._seen[i]
            beat = read_beat(beat_file(self._beats, i))
            if beat is not None and beat != known.beat:
                self._seen[i] = _Seen(beat, now, fresh=True)
                continue
            phase = known.beat.phase if known.fresh and known.beat is not None else STARTING
            bound = self._config.silent_s if phase == LEARNING else self._config.starting_s
            silent = now - known.since
            if phase != ENDED and silent > bound:
                why = f"process {i} has been silent for {silent:.1f} s while {phase} (learner step {known.step})"
                late.append((silent, f"{why}; allowed are {bound:.0f} s"))
        return max(late)[1] if late else None

    def _kill(self) -> None:
        """End this host's processes, by pid."""
        for process in self._running.values():
            if process.poll() is None:
                process.kill()
        for process in self._running.values():
            process.wait()
        self._running.clear()
