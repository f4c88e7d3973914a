"""Robots behind a bad line: a network namespace each, joined to this machine by packets that a thread delays and drops.

The kernel's own `tc netem` does the same, but many kernels (containers, small virtual machines) are built without it; a TUN
device in each namespace works wherever one is root. Both ends run the kernel's real TCP.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import random
import select
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager

ROUND_TRIP_S = 0.050
LOSS = 0.01
"""Share of the packets that is dropped, in each direction."""
BITS_PER_S = 100e6
"""Of each robot, in each direction."""
QUEUE_S = 0.1
"""What would wait longer than this for its turn is dropped, as in a router's buffer."""
DESCRIPTION = "TUN devices in network namespaces: 50 ms round trip, 1 % loss each way, 100 Mbit/s per robot, 1500-byte packets"

_HOST = "10.77.255.1"
_TUN, _NO_INFO, _SETIFF = 0x0001, 0x1000, 0x400454CA
_CONNECT = """
import socket, sys, time
took = []
for _ in range(15):
    began = time.perf_counter()
    with socket.socket() as probe:
        probe.settimeout(5)
        probe.connect_ex((sys.argv[1], 9))
    took.append(time.perf_counter() - began)
print(sorted(took)[len(took) // 2])
"""


def missing() -> str | None:
    """What this machine lacks for it, None if nothing."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "the program ip is not installed"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "there is no /dev/net/tun"
    tried = subprocess.run(
        ["ip", "netns", "add", "lwd-bench-probe"], capture_output=True, text=True, check=False
    )
    if tried.returncode != 0:
        return f"namespaces cannot be made: {tried.stderr.strip()[:200]}"
    _ip("netns", "del", "lwd-bench-probe")
    return None


class Lines:
    """The running lines.

    Attributes:
        host: this machine's address as the robots see it.
        prefixes: command that runs something behind each line.
    """

    host = _HOST

    def __init__(self, pairs: Sequence[tuple[int, int]], names: Sequence[str], seed: int = 0) -> None:
        self.prefixes = [["ip", "netns", "exec", name] for name in names]
        self._other = {a: b for pair in pairs for a, b in (pair, pair[::-1])}
        self._free_at = dict.fromkeys(self._other, 0.0)
        self._rng, self._dropped = random.Random(seed), 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lossy-line", daemon=True)
        self._thread.start()

    def dropped(self) -> int:
        """Packets dropped so far."""
        return self._dropped

    def round_trip_s(self) -> float:
        """Median of fifteen connections refused on the other side, in seconds."""
        command = [*self.prefixes[0], sys.executable, "-c", _CONNECT, _HOST]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    def close(self) -> None:
        """Stop carrying."""
        self._ended.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        due: list[tuple[float, int, int, bytes]] = []
        count = 0
        while not self._ended.is_set():
            wait = min(0.2, max(0.0, due[0][0] - time.monotonic())) if due else 0.2
            ready, _, _ = select.select(list(self._other), [], [], wait)
            now = time.monotonic()
            for source in ready:
                packet = os.read(source, 2048)
                begins = max(now, self._free_at[source])
                if self._rng.random() < LOSS or begins - now > QUEUE_S:
                    self._dropped += 1
                    continue
                self._free_at[source] = begins + len(packet) * 8 / BITS_PER_S
                count += 1
                heapq.heappush(
                    due, (self._free_at[source] + ROUND_TRIP_S / 2, count, self._other[source], packet)
                )
            now = time.monotonic()
            while due and due[0][0] <= now:
                _, _, target, packet = heapq.heappop(due)
                try:
                    os.write(target, packet)
                except OSError:  # its device is going away
                    self._dropped += 1


@contextmanager
def lines(count: int) -> Generator[Lines]:
    """So many lines; devices, addresses and namespaces go when the block ends."""
    with ExitStack() as stack:
        _ip("addr", "replace", f"{_HOST}/32", "dev", "lo")
        stack.callback(_ip, "addr", "del", f"{_HOST}/32", "dev", "lo")
        pairs: list[tuple[int, int]] = []
        names: list[str] = []
        for i in range(count):
            name, here, there = f"lwd-bench-{i}", f"lwdh{i}", f"lwdr{i}"
            ends = (_device(here), _device(there))
            for end in ends:
                stack.callback(os.close, end)  # which also removes the device
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "del", name)
            _ip("link", "set", there, "netns", name)
            _ip("addr", "add", f"10.77.{i}.1", "peer", f"10.77.{i}.2", "dev", here)
            _ip("link", "set", here, "up")
            inside = ("-n", name)
            _ip(*inside, "link", "set", "lo", "up")
            _ip(*inside, "addr", "add", f"10.77.{i}.2", "peer", f"10.77.{i}.1", "dev", there)
            _ip(*inside, "link", "set", there, "up")
            _ip(*inside, "route", "add", "default", "via", f"10.77.{i}.1", "dev", there)
            pairs.append(ends)
            names.append(name)
        carried = Lines(pairs, names)
        stack.callback(carried.close)
        yield carried


def _device(name: str) -> int:
    handle = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(handle, _SETIFF, struct.pack("16sH22x", name.encode(), _TUN | _NO_INFO))
    return handle


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
