"""What the fleet starts from: demonstrations, a clone, rollouts, an offline policy, in the run's own catalogue and store."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from benchmarks.chaos.recipe import experiment
from lwd.episode import Source
from lwd.fleet.collect import collect
from lwd.fleet.folder import RunFolder, open_services
from lwd.fleet.offline import train_offline, train_sft


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("out", "catalogue", "objects"):
        parser.add_argument(f"--{name}", required=True)
    found = parser.parse_args()
    x, quiet = experiment(), Console(quiet=True)
    with open_services(RunFolder(Path(found.out), found.catalogue, found.objects)) as services:
        collect(x, services, (Source.DEMO, Source.PLAY), quiet)
        train_sft(x, services, quiet)
        collect(x, services, (Source.ROLLOUT,), quiet)
        train_offline(x, services, quiet)


if __name__ == "__main__":
    main()
