"""Does what the schedule says, and undoes it when its time is over."""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import itertools
import os
import random
import signal
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from benchmarks.chaos.process import set_clock
from benchmarks.chaos.schedule import Fault
from benchmarks.chaos.stack import Stack
from benchmarks.chaos.witness import Witnessed
from lwd.errors import LwdError
from lwd.fleet.credential import load_credential
from lwd.fleet.deployment import FleetFolder
from lwd.fleet.folder import RunFolder
from lwd.log.catalogue import Catalogue
from lwd.log.events import EpisodeEvent
from lwd.log.nats_bus import NatsBus
from lwd.log.nats_link import NatsLink

BALLAST = "ballast"


class NotNowError(Exception):
    """The target is down already, or there is nothing yet to duplicate."""


class Injector:
    """Applies faults to a stack; one thread."""

    def __init__(self, stack: Stack, witnessed: Witnessed) -> None:
        self._stack, self._witnessed = stack, witnessed
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._count = itertools.count()

    @property
    def active(self) -> int:
        """Faults that are not over yet."""
        return len(self._due)

    def inject(self, fault: Fault) -> str:
        """Begin a fault; what it hit, in words.

        Raises:
            NotNowError: it cannot be done now; try again.
        """
        if fault.kind.startswith("kill_"):
            self._signal(fault.target, signal.SIGKILL)
            return "killed"
        return getattr(self, f"_{fault.kind}")(fault)

    def heal_due(self) -> None:
        """End the faults whose time is over."""
        while self._due and self._due[0][0] <= time.monotonic():
            heapq.heappop(self._due)[2]()

    def heal(self) -> None:
        """End all faults now."""
        while self._due:
            heapq.heappop(self._due)[2]()

    def _after(self, seconds: float, undo: Callable[[], object]) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._count), undo))

    def _signal(self, name: str, number: signal.Signals) -> None:
        pid = self._stack.pids.get(name)
        if pid is None:
            raise NotNowError(f"{name} does not run")
        try:
            os.kill(pid, number)
        except ProcessLookupError as error:
            raise NotNowError(f"{name} has just ended") from error

    def _store_down(self, fault: Fault) -> str:
        self._signal("store", signal.SIGSTOP)
        self._after(fault.seconds, lambda: self._signal("store", signal.SIGCONT))
        return "paused"

    def _store_slow(self, fault: Fault) -> str:
        slowed = [self._stack.proxies[name] for name in ("robots-store", "services-store")]
        count = sum(proxy.slow(fault.amount) for proxy in slowed)
        self._after(fault.seconds, lambda: [proxy.slow(0.0) for proxy in slowed])
        return f"{count} connections"

    def _cut(self, fault: Fault) -> str:
        count = self._stack.proxies[fault.target].cut()
        if not count:
            raise NotNowError("nobody is connected")
        return f"{count} connections"

    def _half_open(self, fault: Fault) -> str:
        proxy = self._stack.proxies[fault.target]
        count = proxy.half_open(True)
        self._after(fault.seconds, lambda: proxy.half_open(False))
        return f"{count} connections, and those that came meanwhile"

    def _reordered(self, fault: Fault) -> str:
        proxy = self._stack.proxies[fault.target]
        count = proxy.hold(fault.amount, fault.seed)
        self._after(fault.seconds, proxy.release)
        return f"{count} connections held"

    def _torn_upload(self, fault: Fault) -> str:
        proxy = self._stack.proxies[fault.target]
        before = proxy.torn
        proxy.tear(int(fault.amount))
        deadline = time.monotonic() + 20.0
        while proxy.torn == before and time.monotonic() < deadline:
            time.sleep(0.05)
            self.heal_due()
        if proxy.torn == before:
            proxy.tear(0)
            raise NotNowError("nobody uploaded")
        self._after(fault.seconds, lambda: proxy.tear(0))
        return "in mid-body"

    def _full_disk(self, fault: Fault) -> str:
        place = self._stack.spool(fault.target).parent / BALLAST
        size = 0
        with contextlib.suppress(OSError), place.open("wb", buffering=0) as file:
            while True:
                size += file.write(b"\0" * 4096)
        self._after(fault.seconds, lambda: place.unlink(missing_ok=True))
        return f"{size} bytes of ballast"

    def _clock_jump(self, fault: Fault) -> str:
        place = self._stack.clock(fault.target)
        set_clock(place, fault.amount)
        self._after(fault.seconds, lambda: set_clock(place, 0.0))
        return "and back"

    def _duplicated_files(self, fault: Fault) -> str:
        """Back into the spool what was delivered and catalogued: as after a disk that was restored from a backup."""
        chosen = self._delivered(fault)
        for robot, episode_id, data in chosen:
            spool = self._stack.spool(robot)
            scratch = spool / f"{episode_id}.again"
            with contextlib.suppress(OSError):  # a full disk
                scratch.write_bytes(data)
                os.replace(scratch, spool / f"{episode_id}.mcap")
            scratch.unlink(missing_ok=True)
        return f"{len(chosen)} episodes"

    def _duplicated_messages(self, fault: Fault) -> str:
        """The robots' events once more under other message ids, over connections with their credentials."""
        sent = 0
        for robot, episode_id, data in self._delivered(fault):
            digest = hashlib.sha256(data).hexdigest()
            event = EpisodeEvent(episode_id=episode_id, robot=robot, sha256=digest, size=len(data))
            try:
                sent += self._publish_twice(event)
            except LwdError as error:
                if not sent:
                    raise NotNowError("the broker is down") from error
                break
        return f"{sent} messages"

    def _publish_twice(self, event: EpisodeEvent) -> int:
        path = FleetFolder(RunFolder(self._stack.run)).credential(event.robot)
        credential = load_credential(path)
        identity, inbox = credential.identity(), f"_INBOX.{event.robot}"
        with NatsLink([self._stack.broker_url], identity=identity, name=event.robot, inbox=inbox) as link:
            for _ in range(2):
                NatsBus(link).publish(event.subject, event.payload(), uuid.uuid4().hex)
        return 2

    def _delivered(self, fault: Fault) -> list[tuple[str, str, bytes]]:
        """Some catalogued episodes of robots: robot, id, bytes."""
        rng = random.Random(fault.seed)
        try:
            with Catalogue(self._stack.direct.catalogue) as catalogue:
                rows = [row for row in catalogue.episodes() if row.source == "online"]
        except LwdError as error:
            raise NotNowError("the catalogue is down") from error
        copies = self._witnessed.copies()
        rows = [row for row in rows if row.episode_id in copies]
        if len(rows) < fault.amount:
            raise NotNowError("too few episodes")
        return [
            (row.robot, row.episode_id, Path(copies[row.episode_id]).read_bytes())
            for row in rng.sample(rows, int(fault.amount))
        ]
