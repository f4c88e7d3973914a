"""One run's folder, and the log and snapshots behind its URLs. Embedded by default: no server. No JAX, so reading is quick."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lwd.log.bus import Bus, CatalogueBus
from lwd.log.catalogue import Catalogue
from lwd.log.objects import ObjectStore
from lwd.snapshot.channel import CatalogueChannel
from lwd.snapshot.keys import load_or_create_key
from lwd.snapshot.store import SnapshotStore


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
def open_services(folder: RunFolder) -> Generator[Services]:
    """Open catalogue, objects, bus and snapshots of a run; creates them where they do not exist."""
    folder.path.mkdir(parents=True, exist_ok=True)
    with Catalogue(folder.catalogue) as catalogue:
        objects = ObjectStore(folder.objects)
        key = load_or_create_key(folder.path / "keys" / "snapshot.pem")
        snapshots = SnapshotStore(objects, catalogue, key)
        yield Services(
            folder, catalogue, objects, CatalogueBus(catalogue), snapshots, CatalogueChannel(snapshots)
        )
