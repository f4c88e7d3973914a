"""One worker process of a simulated fleet: several robots, one round per message.

Started as `python -m lwd.robot.sim.worker FD`, with an inherited pipe. A fresh interpreter rather than a fork or a
multiprocessing child: it imports neither the caller's main module nor JAX, and OMP_NUM_THREADS holds before numpy loads.
"""

from __future__ import annotations

import sys
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection

import numpy as np
from numpy.typing import NDArray

from lwd.robot.control import Assignment, ControlLoop, Round
from lwd.robot.sim.fleet_spec import FleetSpec

Command = Assignment | NDArray[np.float32] | None
"""For one robot and one round: begin this episode, execute this chunk [H, A], or (None) go on with the operator."""


def serve(connection: Connection) -> None:
    """Answer rounds until the other side closes the pipe, in a round too; an exception is sent as text and ends the worker."""
    try:
        spec, robots = connection.recv()
        loops = _build(spec, robots)
        connection.send(("ready", loops[robots[0]].robot))
        while True:
            commands: dict[int, Command] = connection.recv()
            connection.send(("rounds", {robot: _round(loops[robot], c) for robot, c in commands.items()}))
    except EOFError:
        return
    except Exception:
        with suppress(OSError):  # closed: nobody is there to be told, and this may be all that happened
            connection.send(("error", traceback.format_exc()))


def _build(spec: FleetSpec, robots: list[int]) -> dict[int, ControlLoop]:
    loops: dict[int, ControlLoop] = {}
    for robot in robots:
        environment, operators = spec.build()
        loops[robot] = ControlLoop(environment, operators)
    return loops


def _round(loop: ControlLoop, command: Command) -> Round:
    if isinstance(command, Assignment):
        return loop.begin(command)
    return loop.run(command)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
