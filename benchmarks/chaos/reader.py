"""A second learner host's reader: follows the manifests into a replay of its own, and writes down how far it is."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import threading
import time
from pathlib import Path

from benchmarks.chaos.recipe import experiment
from lwd.errors import StoreError
from lwd.fleet.folder import RunFolder, open_services
from lwd.fleet.services import open_replay
from lwd.fleet.supervisor import stop_with_parent

NAME = "second"
log = logging.getLogger("lwd.chaos.reader")


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("out", "catalogue", "objects"):
        parser.add_argument(f"--{name}", required=True)
    found = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop_with_parent(stop)
    folder = RunFolder(Path(found.out), found.catalogue, found.objects)
    with (
        open_services(folder) as services,
        open_replay(experiment(), services, NAME) as (replay, reader),
        (folder.path / "reader.jsonl").open("a") as lines,
    ):
        while not stop.wait(0.3):
            before = replay.manifest
            try:
                reached = reader.refresh()
            except StoreError as error:
                log.warning("reader_waits cause=%r", str(error))
                continue
            if reached != before:
                line = {"manifest": reached, "episodes": replay.store.count, "time_s": time.time()}
                print(json.dumps(line), file=lines, flush=True)


if __name__ == "__main__":
    main()
