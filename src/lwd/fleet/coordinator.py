"""The coordinator process: events in, catalogue and manifests out."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from lwd.config import Experiment
from lwd.errors import StoreError
from lwd.fleet.folder import RunFolder, Services, open_services
from lwd.fleet.robot_config import NEWEST, Follow
from lwd.fleet.service import Context
from lwd.fleet.services import make_coordinator
from lwd.fleet.telemetry import Telemetry

COMMIT_EVERY_S = 0.2
"""A manifest is committed this often while episodes come; it bounds how long one waits to be sampleable."""
WATCH_EVERY_S = 1.0


def run_coordinator(
    context: Context,
    experiment: Experiment | Sequence[Experiment],
    folder: RunFolder,
    public_objects_url: str | None = None,
    *,
    follow: Follow = NEWEST,
) -> None:
    """Until told to stop; the last thing it does is to commit what is there.

    Args:
        context: when to stop, and who is told.
        experiment: the fleet's; several for a fleet of several kinds of robots.
        folder: log and snapshots.
        public_objects_url: see `lwd.fleet.registry.registry`.
        follow: as well.
    """
    stop = threading.Event()
    context.stop_sets(stop)
    experiments = [experiment] if isinstance(experiment, Experiment) else list(experiment)
    with open_services(folder) as services:
        coordinator = make_coordinator(experiments, services)
        if services.link is None:  # embedded: nobody reads its telemetry
            coordinator.run(stop, commit_every_s=0.5)
            return
        # Imported here: the embedded mode needs no broker's client.
        from lwd.fleet.registry import registry

        telemetry = context.telemetry
        with (
            watching(services, telemetry),
            registry(
                services,
                services.link,
                experiments,
                telemetry,
                public_objects_url=public_objects_url,
                follow=follow,
            ),
        ):
            coordinator.run(stop, commit_every_s=COMMIT_EVERY_S)


@contextmanager
def watching(services: Services, telemetry: Telemetry) -> Generator[None]:
    """Keep count of what was catalogued, and how long after the episode's end."""
    ended = threading.Event()

    def run() -> None:
        seen = -1
        while not ended.wait(WATCH_EVERY_S):
            try:
                newest = services.catalogue.newest_seq()
                if seen < 0:
                    seen = newest
                rows = services.catalogue.episodes(after_seq=seen) if newest > seen else []
            except StoreError:
                continue
            if rows:
                seen = rows[-1].seq
            telemetry.count("episodes_catalogued_total", float(len(rows)))
            late = [row.catalogued_at - row.ended_at for row in rows if row.ended_at is not None]
            telemetry.observe("episode_catalogued_seconds", late)
            telemetry.gauge("episodes", float(newest))
            telemetry.gauge("watched_at_seconds", time.time())

    thread = threading.Thread(target=run, name="lwd-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(5.0)
