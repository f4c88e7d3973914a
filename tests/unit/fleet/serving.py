"""A policy server in the test process, policies whose chunks say who computed them, and a client from the protocol's facts."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import msgpack
import numpy as np
from websockets.sync.client import connect

from lwd.fleet.serve.held import HeldSnapshots
from lwd.fleet.serve.observation import ObservationKeys
from lwd.fleet.serve.server import PolicyServer, ServerSettings
from lwd.fleet.telemetry import Telemetry
from lwd.spec import RobotSpec

# The toy fleet's robot. Its module brings in JAX, which a policy server's own code does without.
SPEC = RobotSpec(name="line", proprio_dim=2, action_dim=2, control_hz=10.0, chunk_steps=4)
KEYS = ObservationKeys()
SETTINGS = ServerSettings(port=0)


class MarkedRunner:
    """Chunk = (snapshot / 100, first proprio); `gate` holds calls back, `batches` are the rows of each call."""

    def __init__(self):
        self.loaded, self.batches, self.gate = set(), [], threading.Event()
        self.gate.set()
        self.fails, self.poison, self.calls = 0, None, 0

    def load(self, number, policy):
        self.loaded.add(number)

    def drop(self, number):
        self.loaded.remove(number)

    def chunks(self, rows):
        self.calls += 1
        assert self.gate.wait(20)
        self.batches.append([(row.snapshot, float(row.seen.proprio[0])) for row in rows])
        if self.fails:
            self.fails -= 1
            raise ValueError("the accelerator fell off")
        assert {row.snapshot for row in rows} <= self.loaded
        out = np.empty((len(rows), SPEC.chunk_steps, SPEC.action_dim), np.float32)
        for i, row in enumerate(rows):
            out[i] = row.snapshot / 100, row.seen.proprio[0]
            if row.seen.proprio[0] == self.poison:
                out[i, 0, 0] = np.nan
        return out


class Serving:
    """The parts of a running server."""

    def __init__(self, runner, held, telemetry):
        self.runner, self.held, self.telemetry = runner, held, telemetry
        self.server = None

    @property
    def url(self):
        return f"ws://127.0.0.1:{self.server.port}"

    def count(self, name):
        return self.telemetry.summary().get(name, 0)


@contextmanager
def serving(
    snapshots=(1,), settings=SETTINGS, tokens=None, spec=SPEC, keys=KEYS, batch=None, runner=None, **options
):
    runner = runner or MarkedRunner()
    held = HeldSnapshots(runner, **options)
    for number in snapshots:
        held.add(number, None)
    made = Serving(runner, held, Telemetry({}))
    if batch is not None:
        settings = replace(settings, batch=batch)
    with PolicyServer(
        held, runner, spec, keys, settings, tokens, made.telemetry, {"server": "test"}
    ) as made.server:
        yield made


def until(condition, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


# ---- a client written from the protocol, that shares no code with the server ------------------------------------------


def packed(value):
    if isinstance(value, np.ndarray):
        return {
            b"__ndarray__": True,
            b"data": value.tobytes(),
            b"dtype": value.dtype.str,
            b"shape": value.shape,
        }
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(type(value))


def unpacked(found):
    if b"__ndarray__" in found:
        return np.ndarray(buffer=found[b"data"], dtype=found[b"dtype"], shape=found[b"shape"])
    return found


def frame(message):
    return msgpack.packb(message, default=packed)


def message(data):
    assert isinstance(data, bytes), data
    return msgpack.unpackb(data, object_hook=unpacked)


class Client:
    """One robot. `ask` returns the answer, or the text of an error."""

    def __init__(self, url, **options):
        self.socket = connect(url, compression=None, max_size=None, **options)
        self.metadata = message(self.socket.recv(timeout=10))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, **observation):
        self.socket.send(frame(observation_of(**observation)))

    def ask(self, **observation):
        self.send(**observation)
        return self.recv()

    def recv(self):
        data = self.socket.recv(timeout=20)
        return data if isinstance(data, str) else message(data)


def observation_of(x=0.5, prompt="Walk far.", **more):
    """The toy robot's observation; `lwd_seed` stands for the key lwd/seed, None takes a key away."""
    found = {"observation/state": np.array([x, 0.0], np.float32), "prompt": prompt}
    found |= {key.replace("lwd_", "lwd/"): value for key, value in more.items()}
    return {key: value for key, value in found.items() if value is not None}
