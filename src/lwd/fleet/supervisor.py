"""Runs the processes of a fleet on one machine: starts them in order, restarts what ends, stops them in order.

Each process is a command of its own, the same that a unit file or a container runs. No JAX.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

log = logging.getLogger(__name__)

BACKOFF_S = (0.5, 30.0)
"""Pause before the first and the longest pause before a further restart; doubles from one to the other."""
STEADY_S = 30.0
"""Who ran so long starts again with the shortest pause."""
STOP_S = 60.0
"""How long a process may take to stop before it is killed."""
SUPERVISED = "LWD_SUPERVISED"
"""Set for every child, to its supervisor's pid: it stops when that is gone."""
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}
"""Robots and learner share the machine's cores: one thread each is faster than two that fight."""


@dataclass(frozen=True, kw_only=True)
class Managed:
    """One process to keep running.

    Attributes:
        name: in logs; its output goes to `<logs>/<name>.log`.
        command: program and arguments.
        environment: variables on top of ours.
        stage: stopped from the highest stage to the lowest, and started from the lowest: broker 0, coordinator 1, learner
            and evaluator 2, robots 3.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    stage: int = 2


@dataclass
class _Running:
    managed: Managed
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    starts: int = 0
    pause_s: float = field(default_factory=lambda: BACKOFF_S[0])
    due: float = 0.0


class Supervisor:
    """Keeps processes running until it is told to stop. One thread; children are ended by pid, and only children.

    Args:
        managed: what to run.
        logs: folder of the logs; made if missing.
    """

    def __init__(self, managed: Sequence[Managed], logs: Path) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self._logs = logs
        self._all = [_Running(item) for item in sorted(managed, key=lambda item: item.stage)]

    @property
    def pids(self) -> dict[str, int]:
        """Pids of what runs now, by name."""
        return {
            item.managed.name: item.process.pid
            for item in self._all
            if item.process is not None and item.process.poll() is None
        }

    @property
    def restarts(self) -> int:
        """How often something was started again."""
        return sum(max(item.starts - 1, 0) for item in self._all)

    def run(self, stop: threading.Event, poll_s: float = 0.2) -> None:
        """Start all, restart what ends, until `stop` is set; then stop all in order."""
        try:
            while not stop.is_set():
                self.poll()
                stop.wait(poll_s)
        finally:
            self.stop()

    def poll(self) -> None:
        """Start what is due, note what ended."""
        now = time.monotonic()
        for item in self._all:
            if item.process is None:
                if now >= item.due:
                    self._start(item)
            elif item.process.poll() is not None:
                self._ended(item, now)

    def stop(self) -> None:
        """Stop all, the highest stage first; robots deliver before the coordinator goes."""
        for stage in sorted({item.managed.stage for item in self._all}, reverse=True):
            running = [item for item in self._all if item.managed.stage == stage and item.process is not None]
            for item in running:
                _signal(item, signal.SIGTERM)
            deadline = time.monotonic() + STOP_S
            for item in running:
                self._wait(item, deadline)

    def _start(self, item: _Running) -> None:
        name = item.managed.name
        item.began, item.starts = time.monotonic(), item.starts + 1
        environment = {**os.environ, **item.managed.environment, SUPERVISED: str(os.getpid())}
        try:
            with (self._logs / f"{name}.log").open("ab") as out:
                item.process = subprocess.Popen(
                    list(item.managed.command),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    env=environment,
                    start_new_session=True,  # Ctrl-C reaches us alone; we stop them in order
                )
        except OSError as error:
            log.error("process_not_started name=%s cause=%r", name, str(error))
            self._pause(item, time.monotonic())
            return
        log.info("process_started name=%s pid=%d start=%d", name, item.process.pid, item.starts)

    def _ended(self, item: _Running, now: float) -> None:
        assert item.process is not None
        code, pid, lived = item.process.returncode, item.process.pid, now - item.began
        item.process = None
        if lived >= STEADY_S:
            item.pause_s = BACKOFF_S[0]
        pause = item.pause_s
        self._pause(item, now)
        log.warning(
            "process_ended name=%s pid=%d code=%s after_s=%.1f restarts_in_s=%.2f said=%r",
            *(item.managed.name, pid, code, lived, pause, last_line(self._logs / f"{item.managed.name}.log")),
        )

    def _pause(self, item: _Running, now: float) -> None:
        item.due = now + item.pause_s
        item.pause_s = min(2 * item.pause_s, BACKOFF_S[1])

    def _wait(self, item: _Running, deadline: float) -> None:
        assert item.process is not None
        try:
            code = item.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            item.process.kill()
            code = item.process.wait()
            log.warning(
                "process_killed name=%s pid=%d cause='it did not stop'", item.managed.name, item.process.pid
            )
        log.info("process_stopped name=%s pid=%d code=%s", item.managed.name, item.process.pid, code)
        item.process = None


def last_line(path: Path) -> str:
    """The last line of a log file, cut to 300 characters; nothing where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 2000))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][:300] if lines else ""


def _signal(item: _Running, number: int) -> None:
    assert item.process is not None
    if item.process.poll() is None:
        item.process.send_signal(number)


_STARTED_BY = '[ "$PPID" = "$0" ] && exec "$@"'
"""Shell: become the command, unless the parent named first is gone already; the kernel signals only deaths to come."""


def ends_with_parent(command: Sequence[str]) -> list[str]:
    """The command of a program that is not ours, such that a killed supervisor, this process, does not leave it behind (Linux).

    Our own processes look themselves, see `stop_with_parent`.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return [*command]
    return [setpriv, "--pdeathsig", "TERM", "sh", "-c", _STARTED_BY, str(os.getpid()), *command]


def stop_with_parent(stop: threading.Event, poll_s: float = 1.0) -> None:
    """In a supervised child: set `stop` once the parent is gone, so that a killed supervisor leaves nothing behind."""
    _once_the_parent_is_gone(stop.set, poll_s)


def end_with_parent(poll_s: float = 1.0) -> None:
    """In a supervised child that looks at no event: end it at once, with code 1, when the parent is gone."""
    _once_the_parent_is_gone(lambda: os._exit(1), poll_s)


def _once_the_parent_is_gone(do: Callable[[], None], poll_s: float) -> None:
    # Taken out, since it is not true of what this process starts itself.
    told = os.environ.pop(SUPERVISED, "")
    if not told.isdecimal():
        return
    # Not the parent of now: a supervisor that was killed while this process imported has been replaced by init.
    supervisor = int(told)

    def watch() -> None:
        while os.getppid() == supervisor:
            time.sleep(poll_s)
        log.warning("stopping cause='the supervisor is gone'")
        do()

    threading.Thread(target=watch, name="lwd-parent", daemon=True).start()
