"""One run's folder, and the log and snapshots behind its URLs. Embedded by default: no server. No JAX, so reading is quick."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from lwd.errors import ConfigError
from lwd.log.bus import Bus, CatalogueBus
from lwd.log.catalogue import Catalogue
from lwd.log.engine import database_file
from lwd.log.migrations import has_tables
from lwd.log.objects import ObjectStore
from lwd.snapshot.channel import CatalogueChannel, SnapshotChannel
from lwd.snapshot.keys import load_or_create_key, load_private_key
from lwd.snapshot.store import SnapshotStore

if TYPE_CHECKING:
    from lwd.log.nats_link import NatsLink


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps its files; see docs/reference/run_directory.md.

    Attributes:
        path: the folder.
        catalogue_url, objects_url: in place of the embedded catalogue and object store.
        bus_url: `nats://host:port` or `tls://host:port` in place of the embedded bus; several with commas.
        credential: this process's, from `lwd fleet invite`; it names the bus itself.
    """

    path: Path
    catalogue_url: str | None = None
    objects_url: str | None = None
    bus_url: str | None = field(default=None, kw_only=True)
    credential: Path | None = field(default=None, kw_only=True)

    @property
    def catalogue(self) -> str:
        """URL of the catalogue."""
        return self.catalogue_url or str(self.path / "catalogue.db")

    @property
    def objects(self) -> str:
        """URL of the object store."""
        return self.objects_url or str(self.path / "objects")

    @property
    def networked(self) -> bool:
        """Whether messages go over a broker."""
        return self.bus_url is not None or self.credential is not None

    @property
    def snapshot_key(self) -> Path:
        """The private key that signs snapshots; only the learner's machine has it."""
        return self.path / "keys" / "snapshot.pem"

    def metrics(self, name: str) -> Path:
        """The metrics file of a stage."""
        return self.path / "metrics" / f"{name}.jsonl"

    def checkpoints(self, stage: str) -> Path:
        """The checkpoints of a stage."""
        return self.path / "checkpoints" / stage


@dataclass(frozen=True)
class Services:
    """What processes share: the log and the snapshots. `link` is the broker's, None in the embedded mode."""

    folder: RunFolder
    catalogue: Catalogue
    objects: ObjectStore
    bus: Bus
    snapshots: SnapshotStore
    channel: SnapshotChannel
    link: NatsLink | None = None


@contextmanager
def open_services(folder: RunFolder) -> Generator[Services]:
    """Open catalogue, objects, bus and snapshots of a run; creates them where they do not exist.

    Raises:
        ConfigError: the credential cannot be used, or the bus has no address.
        StoreError: the catalogue or the object store cannot be opened.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        catalogue = stack.enter_context(Catalogue(folder.catalogue))
        objects = ObjectStore(folder.objects)
        if not folder.networked:
            snapshots = SnapshotStore(objects, catalogue, load_or_create_key(folder.snapshot_key))
            channel = CatalogueChannel(snapshots)
            yield Services(folder, catalogue, objects, CatalogueBus(catalogue), snapshots, channel)
            return
        yield _networked(folder, catalogue, objects, stack)


def _networked(folder: RunFolder, catalogue: Catalogue, objects: ObjectStore, stack: ExitStack) -> Services:
    # Imported here: the embedded mode needs no broker's client.
    from lwd.fleet.credential import load_credential
    from lwd.log.nats_bus import NatsBus
    from lwd.log.nats_link import NatsLink
    from lwd.snapshot.nats_channel import NatsChannel

    credential = None if folder.credential is None else load_credential(folder.credential)
    key: Ed25519PrivateKey | Ed25519PublicKey
    if folder.snapshot_key.exists():
        key = load_private_key(folder.snapshot_key)
    elif credential is not None:
        key = credential.snapshot_public_key()
    else:
        key = load_or_create_key(folder.snapshot_key)
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    if credential is not None:
        link = stack.enter_context(credential.link())
    else:
        link = stack.enter_context(NatsLink(addresses(folder.bus_url)))
    snapshots = SnapshotStore(objects, catalogue, key)
    channel = NatsChannel(link, public)
    stack.callback(channel.close)
    return Services(folder, catalogue, objects, NatsBus(link), snapshots, channel, link)


def check_catalogue(url: str) -> None:
    """ConfigError if a catalogue's SQLite file does not exist or holds no tables: opening it would make an empty one."""
    file = database_file(url)
    if file is not None and not (file.exists() and has_tables(url)):
        raise ConfigError(
            f"there is no catalogue {str(file)!r}{': the file holds no tables' if file.exists() else ''}. Check the path; "
            "lwd collect, lwd coordinator and lwd log restore make new ones."
        )


def check_objects(url: str) -> None:
    """ConfigError if the objects' folder does not exist: opening it would make an empty one."""
    parts = urlsplit(url)
    if "://" in url and parts.scheme != "file":
        return
    folder = Path(unquote(parts.path) if "://" in url else url).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            f"there is no folder of objects {str(folder)!r}. Check the path; with a catalogue of its own, --objects "
            "says where its objects are."
        )


def no_demonstrations(where: object) -> ConfigError:
    """What a clone says that has nothing to clone."""
    return ConfigError(
        f"no demonstrations in {where} yet; make them first: lwd collect --out {where}, with the same --recipe."
    )


def addresses(bus_url: str | None) -> list[str]:
    """The broker's addresses; ConfigError without one."""
    found = [url.strip() for url in (bus_url or "").split(",") if url.strip()]
    if not found:
        raise ConfigError(
            "the bus has no address; give --bus nats://host:port, or a credential with --credential."
        )
    return found
