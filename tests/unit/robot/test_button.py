"""A button is read from what the kernel hands over: lines of a terminal, events of an input device."""

import os
import struct
import time

import numpy as np
import pytest
from robots_for_tests import Pusher

from lwd.errors import RobotError
from lwd.robot.button import ButtonOperator
from lwd.robot.operator import GatingOperator

SYNC, KEY, SCAN = 0, 1, 4
UP, DOWN, REPEAT = 0, 1, 2


def event(kind: int, value: int) -> bytes:
    now = time.time()
    return struct.pack("@llHHi", int(now), int(now % 1 * 1e6), kind, 30, value)


PRESS = b"".join(event(*e) for e in ((SCAN, 458756), (KEY, DOWN), (SYNC, 0), (KEY, UP), (SYNC, 0)))
HELD = event(KEY, REPEAT) + event(SYNC, 0)


@pytest.fixture
def terminal():
    """Standard input is a pipe, whose other end this is."""
    kept = os.dup(0)
    ours, theirs = os.pipe()
    os.dup2(ours, 0)
    os.close(ours)
    with open(theirs, "wb", buffering=0) as keys:
        yield keys
    os.dup2(kept, 0)
    os.close(kept)


@pytest.fixture
def pedal(tmp_path):
    """A pipe with a name, in place of an input device."""
    path = tmp_path / "event-kbd"
    os.mkfifo(path)
    with open(os.open(path, os.O_RDWR), "wb", buffering=0) as keys:
        yield keys, str(path)


def test_a_press_takes_and_the_next_gives_back(terminal):
    operator = ButtonOperator(Pusher())
    assert isinstance(operator, GatingOperator)
    assert not operator.wants_control()
    terminal.write(b"\n")
    assert operator.wants_control()
    assert operator.wants_control()
    terminal.write(b"typed, but not entered")
    assert operator.wants_control()
    terminal.write(b"\n")
    assert not operator.wants_control()
    terminal.write(b"\n" * 2001)
    assert operator.wants_control(), "all that are there are read at once"


def test_a_press_of_a_pedal_counts_once_however_long_it_is_held(pedal):
    keys, path = pedal
    operator = ButtonOperator(Pusher(), path)
    keys.write(b"")
    assert not operator.wants_control()
    keys.write(PRESS)
    assert operator.wants_control()
    keys.write(event(KEY, DOWN) + event(SYNC, 0))
    assert not operator.wants_control()
    keys.write(HELD * 100)
    assert not operator.wants_control()
    keys.write(event(KEY, UP) + PRESS + PRESS + PRESS)
    assert operator.wants_control()


def test_the_device_commands():
    device = Pusher()
    operator = ButtonOperator(device)
    operator.begin("walk", 5)
    np.testing.assert_array_equal(operator.act(), [1.0, np.float32(np.random.default_rng(5).uniform(-1, 1))])


def test_a_button_that_is_not_there_is_an_error_and_not_a_robot_without_one(tmp_path):
    operator = ButtonOperator(Pusher(), str(tmp_path / "unplugged"))
    for _ in range(2):
        with pytest.raises(RobotError, match=r"unplugged: .*No such file.*group input"):
            operator.wants_control()
    (tmp_path / "unplugged").write_bytes(b"no events")
    with pytest.raises(RobotError, match="buffer of a multiple of 24 bytes"):
        operator.wants_control()


def test_a_closed_terminal_is_an_error(terminal):
    operator = ButtonOperator(Pusher())
    terminal.write(b"\n")
    assert operator.wants_control()
    terminal.close()
    with pytest.raises(RobotError, match="standard input: it has ended"):
        operator.wants_control()


def test_a_pedal_that_comes_back_is_read_again_and_counts_as_not_pressed(tmp_path):
    path = tmp_path / "event-kbd"
    path.write_bytes(PRESS)  # ends after it, as if unplugged
    operator = ButtonOperator(Pusher(), str(path))
    with pytest.raises(RobotError, match="it has ended"):
        operator.wants_control()
    path.unlink()
    os.mkfifo(path)
    with open(os.open(path, os.O_RDWR), "wb", buffering=0) as keys:
        assert not operator.wants_control()
        keys.write(PRESS)
        assert operator.wants_control()
