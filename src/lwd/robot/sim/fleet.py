"""N simulated robots in W worker processes: the processes. `lwd.robot.sim.run` runs episodes on them."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from lwd.errors import ConfigError, RobotError
from lwd.robot.control import Round
from lwd.robot.sim.fleet_spec import FleetSpec
from lwd.robot.sim.worker import Command
from lwd.spec import RobotSpec, TaskSpec

_START_TIMEOUT_S = 180.0


class SimFleet:
    """The worker processes and the pipes to them; use it as a context manager, so that no process stays behind.

    Args:
        make: what every robot is.
        robots: N, how many; robot i belongs to worker i % W.
        workers: W, how many processes (one core each).
        answer_timeout_s: a worker that gives no answer to a round for so long is an error, not a silent wait.

    Raises:
        RobotError: a worker could not start.
    """

    def __init__(
        self, make: FleetSpec, robots: int = 16, workers: int = 2, answer_timeout_s: float = 120.0
    ) -> None:
        if not 1 <= workers <= robots:
            raise ConfigError(f"SimFleet: needs at least one robot per worker, got {robots} and {workers}.")
        self.make, self.robots = make, robots
        self._timeout_s = answer_timeout_s
        self._workers: list[_Worker] = []
        try:
            self._workers = [_Worker(w, list(range(w, robots, workers))) for w in range(workers)]
            for worker in self._workers:
                worker.send((make, worker.robots), _START_TIMEOUT_S)
            self.spec: RobotSpec
            self.tasks: Mapping[str, TaskSpec]
            for worker in self._workers:
                self.spec, tasks = worker.receive()
                self.tasks = make.chosen(tasks)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> SimFleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def groups(self) -> Sequence[Sequence[int]]:
        """The robots of each worker."""
        return [worker.robots for worker in self._workers]

    @property
    def pids(self) -> Sequence[int]:
        """Process ids of the workers."""
        return [worker.pid for worker in self._workers]

    def send(self, group: int, commands: Mapping[int, Command]) -> None:
        """Start one round of a group: what each of its robots is to do. Answered by `receive`."""
        self._workers[group].send(dict(commands), self._timeout_s)

    def receive(self) -> tuple[int, dict[int, Round]]:
        """Wait for the next group to answer: its number and its robots' rounds.

        Raises:
            RobotError: a worker raised, died, or did not answer in time.
        """
        waiting = [worker for worker in self._workers if worker.due is not None]
        if not waiting:
            raise RobotError("SimFleet.receive: no round is under way.")
        due = min(worker.due or 0.0 for worker in waiting)
        multiprocessing.connection.wait([w.connection for w in waiting], max(0.0, due - time.monotonic()))
        for worker in waiting:
            if worker.connection.poll() or worker.late:
                return worker.number, worker.receive()
        return self.receive()

    def drain(self) -> None:
        """Wait for rounds under way and forget them, after an error in the caller's own code; errors of workers too."""
        while any(worker.due is not None for worker in self._workers):
            with suppress(RobotError):
                self.receive()

    def close(self) -> None:
        """End the worker processes; returns when they are gone."""
        for worker in self._workers:
            worker.connection.close()
        for worker in self._workers:
            worker.end()
        self._workers = []


class _Worker:
    """One process and the pipe to it."""

    def __init__(self, number: int, robots: list[int]) -> None:
        self.number, self.robots = number, robots
        self.due: float | None = None
        self.connection, theirs = multiprocessing.Pipe()
        assert isinstance(theirs, Connection)
        # One thread per process: BLAS threads on 6 x 6 systems only get in each other's way.
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lwd.robot.sim.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches the main process alone, which then ends the workers
        )
        theirs.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def late(self) -> bool:
        return self.due is not None and time.monotonic() >= self.due

    def send(self, message: object, timeout_s: float) -> None:
        try:
            self.connection.send(message)
        except OSError as error:
            raise self._gone() from error
        self.due = time.monotonic() + timeout_s

    def receive(self) -> Any:
        """The next answer's content."""
        try:
            if not self.connection.poll(max(0.0, (self.due or 0.0) - time.monotonic())):
                self.connection.close()  # an answer that comes late must not be taken for the next round's
                self.end()
                raise RobotError(
                    f"worker {self.number} (process {self.pid}, robots {self.robots}) did not answer in time and was "
                    "ended; raise answer_timeout_s if the machine is merely slow."
                )
            kind, content = self.connection.recv()
        except (EOFError, OSError) as error:
            raise self._gone() from error
        finally:
            self.due = None
        if kind == "error":
            raise RobotError(f"worker {self.number} (robots {self.robots}) raised an exception:\n{content}")
        return content

    def end(self) -> None:
        """Its pipe is closed, so it ends by itself; if it does not, kill it."""
        try:
            self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _gone(self) -> RobotError:
        try:
            code: object = self._process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            code = "unknown"
        return RobotError(
            f"worker {self.number} (process {self.pid}, robots {self.robots}) died with exit code {code}; "
            "-9 usually means that the machine ran out of memory."
        )
