"""One of two processes of the online learner on the toy fleet: `python learner_hosts_run.py FOLDER ID ADDRESS [rounds]`.

Only process 1 is told to stop, with `rounds` once it waits for a second round; both must.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import toy_fleet

from lwd.fleet.folder import RunFolder
from lwd.fleet.hosts import HostsConfig, joined
from lwd.fleet.learner import run_learner
from lwd.fleet.learner_rounds import run_learner_in_rounds
from lwd.fleet.service import ServiceContext
from lwd.learner.sharding import MeshConfig


class StopsBeforeRoundTwo(ServiceContext):
    def say(self, **status: object) -> None:
        super().say(**status)
        if str(status.get("waits_for")).endswith("before round 2"):
            self.stopping.set()


def main(folder: Path, process_id: int, address: str, *how: str) -> None:
    jax.config.update("jax_disable_most_optimizations", True)
    hosts = HostsConfig(processes=2, process_id=process_id, coordinator_address=address)
    with joined(hosts, MeshConfig(fsdp=2, smallest=16)) as team:
        name, told = f"learner-{process_id}", process_id == 1
        if how == ("rounds",):
            context = (StopsBeforeRoundTwo if told else ServiceContext)(name, "learner")
            run_learner_in_rounds(context, toy_fleet.in_turns(), RunFolder(folder), team)
            return
        context = ServiceContext(name, "learner")
        if told:
            context.stopping.set()
        run_learner(context, toy_fleet.experiment(), RunFolder(folder), team=team)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
