"""A button with which a person takes the robot and gives it back: Enter in a terminal, or a USB foot pedal."""

from __future__ import annotations

import os
import select
import struct

import numpy as np
from numpy.typing import NDArray

from lwd.errors import RobotError
from lwd.robot.operator import Operator

_STANDARD_INPUT = 0
_EVENT = struct.Struct("@llHHi")
"""Linux's `struct input_event`: seconds, microseconds, type, code, value."""
_KEY, _DOWN = 1, 1


class ButtonOperator:
    """A `GatingOperator`: a device that commands, and a button. A press takes the robot, the next one gives it back.

    A press counts whenever it is made, between episodes too: who still has the robot when an episode begins commands from its
    first step. The button is opened when it is first asked for, not before: robots are also made where nobody presses
    anything, such as on a coordinator's machine.

    Args:
        device: whose `act` commands, such as a leader arm.
        pedal: input device of a foot pedal or keyboard, such as "/dev/input/by-id/usb-...-event-kbd" (Linux); every key of it
            is the button, whatever window has the focus. None for Enter on standard input, that is in the terminal in which
            the robot's process was started.
    """

    def __init__(self, device: Operator, pedal: str | None = None) -> None:
        self._device, self._pedal = device, pedal
        self._file: int | None = None
        self._pressed = False

    def begin(self, task: str, seed: int) -> None:
        """As the device's."""
        self._device.begin(task, seed)

    def act(self) -> NDArray[np.float32]:
        """The device's action [A]."""
        return self._device.act()

    def wants_control(self) -> bool:
        """Whether an odd number of presses was made so far.

        Raises:
            RobotError: the button cannot be read, so that nobody could take the robot or give it back. It counts as not
                pressed then, and is opened anew when it is asked for again.
        """
        try:
            presses = self._presses()
        except (OSError, struct.error) as error:
            self._forget()
            where = self._pedal or "standard input"
            raise RobotError(
                f"the operator's button cannot be read ({where}: {error}). Start the robot in a terminal, or give "
                "ButtonOperator an input device that the robot's user may read (group input)."
            ) from error
        self._pressed ^= presses % 2 == 1
        return self._pressed

    def _presses(self) -> int:
        """Since the last time."""
        if self._file is None:
            self._file = _STANDARD_INPUT if self._pedal is None else os.open(self._pedal, os.O_RDONLY)
        count = 0
        while select.select([self._file], [], [], 0)[0]:
            data = os.read(self._file, 64 * _EVENT.size)
            if not data:
                raise OSError("it has ended")
            if self._pedal is None:
                count += data.count(b"\n")
            else:
                count += sum(e[2] == _KEY and e[4] == _DOWN for e in _EVENT.iter_unpack(data))
        return count

    def _forget(self) -> None:
        if self._file is not None and self._pedal is not None:
            os.close(self._file)
        self._file, self._pressed = None, False
