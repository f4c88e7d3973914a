"""The recorder of a whole simulated fleet: every robot has an edge client and a spool of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

from lwd.config import Experiment
from lwd.episode import Episode, EpisodeHeader
from lwd.fleet.folder import Services
from lwd.fleet.services import make_coordinator
from lwd.log.bus import Bus, CatalogueBus
from lwd.log.coordinator import VISIBILITY_S
from lwd.log.events import ALL_EPISODES
from lwd.log.layout import NAME
from lwd.log.writer import EdgeClient, EpisodeRecording

log = logging.getLogger(__name__)


class FleetRecorder:
    """Hands each episode to the client of its robot; implements `lwd.robot.recorder.Recorder`."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._clients: dict[str, EdgeClient] = {}
        self._stack = ExitStack()

    def __enter__(self) -> FleetRecorder:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def begin(self, header: EpisodeHeader) -> EpisodeRecording:
        """Start the recording of one episode on its robot."""
        return self._client(header.robot).begin(header)

    def submit(self, episode: Episode) -> None:
        """Record a complete episode on its robot."""
        self._client(episode.header.robot).submit(episode)

    def deliver_the_rest(self) -> None:
        """Deliver what earlier processes, perhaps killed, left in the robots' spools. StoreError if one still runs."""
        for spool in sorted((self._services.folder.path / "spool").glob("*/")):
            if NAME.fullmatch(spool.name):
                self._client(spool.name).deliver()

    def undelivered(self) -> int:
        """Episodes that are still in a spool."""
        return sum(client.pending()[0] for client in self._clients.values())

    def _client(self, robot: str) -> EdgeClient:
        if robot not in self._clients:
            spool = self._services.folder.path / "spool" / robot
            client = EdgeClient(spool, self._services.objects, self._services.bus, robot)
            self._clients[robot] = self._stack.enter_context(client)
            client.start()
        return self._clients[robot]


@contextmanager
def recording(experiment: Experiment, services: Services) -> Generator[FleetRecorder]:
    """Record, deliver and catalogue: the edge clients with a coordinator beside them, in this process.

    What an earlier process recorded and did not bring in is catalogued before the block begins. On leaving, everything recorded
    has been delivered and is part of a manifest.
    """
    stop = threading.Event()
    coordinator = make_coordinator(experiment, services)
    thread = threading.Thread(target=coordinator.run, args=(stop,), name="lwd-coordinator")
    thread.start()
    try:
        with FleetRecorder(services) as recorder:
            recorder.deliver_the_rest()
            until_catalogued(services.bus)
            yield recorder
    finally:
        stop.set()
        thread.join()


def until_catalogued(bus: Bus) -> None:
    """Wait until the embedded coordinator has seen to what was delivered.

    What a killed one had begun on is given to it again only after `VISIBILITY_S`.
    """
    deadline = time.monotonic() + VISIBILITY_S + 10.0
    while isinstance(bus, CatalogueBus) and (waiting := bus.waiting(ALL_EPISODES)):
        if time.monotonic() > deadline:
            log.warning("not_catalogued_yet episodes=%d", waiting)
            return
        time.sleep(0.05)
