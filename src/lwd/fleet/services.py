"""One run's folder, and the log, snapshots and replay behind three URLs. Embedded by default: no server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lwd.config import Experiment
from lwd.instruction import InstructionEncoder
from lwd.log.bus import Bus, CatalogueBus
from lwd.log.catalogue import Catalogue
from lwd.log.coordinator import Coordinator
from lwd.log.objects import ObjectStore
from lwd.replay.reader import Reader
from lwd.replay.replay import Replay, ReplayConfig
from lwd.robot.sim.describe import describe
from lwd.snapshot.channel import CatalogueChannel
from lwd.snapshot.keys import load_or_create_key
from lwd.snapshot.store import SnapshotStore
from lwd.spec import RobotSpec, TaskSpec


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps its files; see docs/reference/run_directory.md.

    Attributes:
        path: the folder.
        catalogue_url, objects_url: in place of the embedded catalogue and object store.
    """

    path: Path
    catalogue_url: str | None = None
    objects_url: str | None = None

    @property
    def catalogue(self) -> str:
        """URL of the catalogue."""
        return self.catalogue_url or str(self.path / "catalogue.db")

    @property
    def objects(self) -> str:
        """URL of the object store."""
        return self.objects_url or str(self.path / "objects")

    def metrics(self, name: str) -> Path:
        """The metrics file of a stage."""
        return self.path / "metrics" / f"{name}.jsonl"

    def checkpoints(self, stage: str) -> Path:
        """The checkpoints of a stage."""
        return self.path / "checkpoints" / stage


@dataclass(frozen=True)
class Services:
    """What processes share: the log and the snapshots."""

    folder: RunFolder
    catalogue: Catalogue
    objects: ObjectStore
    bus: Bus
    snapshots: SnapshotStore
    channel: CatalogueChannel


@contextmanager
def open_services(folder: RunFolder) -> Iterator[Services]:
    """Open catalogue, objects, bus and snapshots of a run; creates them where they do not exist."""
    folder.path.mkdir(parents=True, exist_ok=True)
    with Catalogue(folder.catalogue) as catalogue:
        objects = ObjectStore(folder.objects)
        key = load_or_create_key(folder.path / "keys" / "snapshot.pem")
        snapshots = SnapshotStore(objects, catalogue, key)
        yield Services(
            folder, catalogue, objects, CatalogueBus(catalogue), snapshots, CatalogueChannel(snapshots)
        )


def fleet_description(experiment: Experiment) -> tuple[RobotSpec, Mapping[str, TaskSpec]]:
    """Robot and tasks of the deployed fleet, without starting a simulator."""
    return describe(experiment.fleet.deployed)


def encoder(experiment: Experiment) -> InstructionEncoder:
    """The instruction's embedding."""
    return InstructionEncoder(dim=experiment.model.instruction_dim)


def make_coordinator(experiment: Experiment, services: Services) -> Coordinator:
    """The coordinator of this fleet."""
    spec, tasks = fleet_description(experiment)
    return Coordinator(services.catalogue, services.bus, services.objects, {spec.name: spec}, tasks)


@contextmanager
def open_replay(experiment: Experiment, services: Services, name: str) -> Iterator[tuple[Replay, Reader]]:
    """The learner's replay and the reader that fills it from the log."""
    spec, tasks = fleet_description(experiment)
    folder = services.folder.path / "replay" / name
    replay = Replay(
        folder, spec, list(tasks.values()), encoder(experiment), ReplayConfig(gamma=experiment.gamma)
    )
    try:
        yield replay, Reader(services.catalogue, services.objects, replay)
    finally:
        replay.close()
