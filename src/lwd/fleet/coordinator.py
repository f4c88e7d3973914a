"""The coordinator process: events in, catalogue and manifests out."""

from __future__ import annotations

import threading

from lwd.config import Experiment
from lwd.fleet.process import ProcessContext
from lwd.fleet.services import RunFolder, make_coordinator, open_services


def run_coordinator(context: ProcessContext, experiment: Experiment, folder: RunFolder) -> None:
    """Until told to stop; the last thing it does is to commit what is there."""
    stop = threading.Event()
    context.stop_sets(stop)
    with open_services(folder) as services:
        make_coordinator(experiment, services).run(stop, commit_every_s=0.5)
