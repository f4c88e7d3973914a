"""Commands that keep a log in order: quarantine, retention, deletion, backup and restore, migration, a site's cache."""

from __future__ import annotations

import getpass
import re
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console

from lwd.cli.options import Read, Stored, find_id, print_facts, print_json, print_rows
from lwd.errors import ConfigError

if TYPE_CHECKING:
    from lwd.log.catalogue import Catalogue
    from lwd.log.objects import ObjectStore
    from lwd.log.retention import Budget
    from lwd.spec import RobotSpec, TaskSpec

File = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
_UNITS = {"": 1, "k": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True, kw_only=True)
class LogQuarantine(Read):
    """What was refused, and what to do with it. Nothing of it is ever trained on.

    Attributes:
        action: ls lists, show tells what can be read of one, release judges one again (after its robot or task was added;
            there is no way past the checks; exit code 1 if it is still refused), discard deletes one and its bytes.
        number: of the row; not with ls.
        reason: release all rows of this reason in place of one, such as missing after an outage of the store.
        recipe: whose robots and tasks `release` checks against.
    """

    action: tyro.conf.Positional[Literal["ls", "show", "release", "discard"]] = "ls"
    number: Annotated[tyro.conf.Positional[int | None], tyro.conf.arg(metavar="NUMBER")] = None
    reason: str | None = None
    recipe: str = "scene"

    def run(self) -> None:
        """Run it."""
        from lwd.log import quarantine

        if self.reason is not None and (self.action != "release" or self.number is not None):
            raise ConfigError("--reason is for lwd log quarantine release, in place of a number.")

        with self.opened() as (catalogue, objects):
            if self.action == "ls":
                rows = [asdict(row) for row in catalogue.quarantined()]
                print_rows(rows, ["id", "episode_id", "reason", "detail", "robot"], self.json)
                return
            if self.reason is not None:
                self._release_all(catalogue, objects, self.reason)
                return
            if self.number is None:
                raise ConfigError(
                    f"lwd log quarantine {self.action} needs a number; `lwd log quarantine` lists them."
                )
            if self.action == "show":
                shown = quarantine.show(catalogue, objects, self.number)
                facts = asdict(shown.row) | {"bytes": shown.size, "messages": dict(shown.messages)}
                print_facts(
                    facts | {"header": None if shown.header is None else asdict(shown.header)}, self.json
                )
            elif self.action == "discard":
                quarantine.discard(catalogue, objects, self.number)
                print(f"{self.number} discarded")
            else:
                self._release(catalogue, objects, self.number)

    def _release(self, catalogue: Catalogue, objects: ObjectStore, number: int) -> None:
        from lwd.log import quarantine

        left = quarantine.release(catalogue, objects, *self._rules(), number)
        if left is not None:
            print(f"still refused: {left.reason}: {left.detail}", file=sys.stderr)
            raise SystemExit(1)
        print(f"{number} released")

    def _release_all(self, catalogue: Catalogue, objects: ObjectStore, reason: str) -> None:
        from lwd.log import quarantine

        done, left = quarantine.release_all(catalogue, objects, *self._rules(), reason)
        print(f"{done} released, {len(left)} still refused", file=sys.stderr if left else sys.stdout)
        if left:
            raise SystemExit(1)

    def _rules(self) -> tuple[Mapping[str, RobotSpec], Mapping[str, TaskSpec]]:
        """Whose robots and tasks an episode is checked against."""
        from lwd.fleet.services import kinds_and_tasks
        from lwd.recipes import recipe

        return kinds_and_tasks([recipe(self.recipe)])


@dataclass(frozen=True, kw_only=True)
class LogRetain(Read):
    """Keep the log within disk budgets. Shows what would go; deletes it, with its lineage, with --yes.

    Autonomous successes go before failures, and both before anything that a human commanded; the newest manifest's additions
    stay.

    Attributes:
        budget: BYTES for the whole log, or BYTES:source=online, BYTES:task=restock, BYTES:source=online,task=restock; BYTES
            may end in k, M, G or T. Several are worked through in order.
        by: who deletes.
        yes: do it.
    """

    budget: tuple[str, ...]
    by: str = field(default_factory=getpass.getuser)
    yes: bool = False

    def run(self) -> None:
        """Run it."""
        from lwd.log import retention

        budgets = [parse_budget(text) for text in self.budget]
        with self.opened() as (catalogue, objects):
            plans = retention.plan(catalogue, budgets)
            if self.yes:
                retention.apply(catalogue, objects, plans, deleted_by=self.by)
        rows = [
            {
                "budget": text,
                "used": plan.used,
                "episodes": len(plan.delete),
                "freed": plan.freed,
                "missing": plan.missing,
            }
            for text, plan in zip(self.budget, plans, strict=True)
        ]
        print_rows(rows, ["budget", "used", "episodes", "freed", "missing"], self.json)
        if not self.yes:
            print("nothing was deleted; add --yes to delete", file=sys.stderr)


@dataclass(frozen=True, kw_only=True)
class LogDelete(Stored):
    """Delete an episode for good: its row and its bytes. Its tombstone stays, and it never comes back.

    Shows what would be deleted and which manifests and snapshots used it; deletes with --yes. Said again, it finishes what the
    store refused, and deletes what a robot has uploaded since.

    Attributes:
        episode_id: id of the episode; the first characters are enough if they are unique.
        reason: written into the tombstone, such as "the operator withdrew consent".
        by: who deletes it.
        yes: do it.
        json: print JSON.
    """

    episode_id: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="EPISODE-ID")]
    reason: str
    by: str = field(default_factory=getpass.getuser)
    yes: bool = False
    json: bool = False

    def run(self) -> None:
        """Run it."""
        from lwd.log.deletion import delete, finish, lineage

        with self.opened() as (catalogue, objects):
            name = find_id(catalogue, self.episode_id, deleted=True)
            if self.yes:
                finish(catalogue, objects)  # also what earlier deletions could not, or robots delivered since
                found = delete(catalogue, objects, name, reason=self.reason, deleted_by=self.by)
            else:
                found = lineage(catalogue, name)
        print_facts(asdict(found), self.json)
        if not self.yes:
            print("nothing was deleted; add --yes to delete it", file=sys.stderr)


@dataclass(frozen=True, kw_only=True)
class LogBackup(Stored):
    """Copy the catalogue into one SQLite file while the fleet runs. Objects are not in it.

    Attributes:
        file: to write; must not exist.
    """

    file: File

    def run(self) -> None:
        """Run it."""
        from lwd.log.backup import backup

        with self.opened_catalogue() as catalogue:
            done = backup(catalogue, self.file)
        print(f"{self.file}: {done.rows['episodes']} episodes, heads {dict(done.heads)}")


@dataclass(frozen=True, kw_only=True)
class LogRestore:
    """Fill an empty catalogue, SQLite or Postgres, from a backup.

    Attributes:
        file: the backup.
        catalogue: URL or path of the catalogue to fill.
    """

    file: File
    catalogue: str

    def run(self) -> None:
        """Run it."""
        from lwd.log.backup import restore

        done = restore(self.file, self.catalogue)
        print(f"{done.rows['episodes']} episodes restored, heads {dict(done.heads)}")


@dataclass(frozen=True, kw_only=True)
class LogRescan(Read):
    """Find episodes in the object store that the catalogue says nothing of; count them by the coordinator's rules with --yes.

    For a catalogue that was restored from an older backup: what came since lies in the store, and robots have deleted theirs.

    Attributes:
        recipe: whose robots and tasks they are checked against, as for `lwd coordinator`.
        also: other recipes of the same log.
        yes: do it.
    """

    recipe: str = "scene"
    also: tuple[str, ...] = ()
    yes: bool = False

    def run(self) -> None:
        """Run it."""
        from lwd.log.rescan import RescanReport, rescan, uncounted

        done = RescanReport(catalogued=0, quarantined=0)
        with self.opened() as (catalogue, objects):
            found = uncounted(catalogue, objects)
            if self.yes:
                from lwd.fleet.services import kinds_and_tasks
                from lwd.recipes import recipe

                specs, tasks = kinds_and_tasks([recipe(name) for name in (self.recipe, *self.also)])
                done = rescan(catalogue, objects, specs, tasks, found)
        rows = [asdict(item) for item in found]
        if self.json:
            print_json({"found": rows, **asdict(done)})
        else:
            print_rows(rows, ["episode_id", "size", "key"], False)
            print(f"{len(rows)} found, {done.catalogued} catalogued, {done.quarantined} quarantined")
        if not self.yes:
            print("nothing was catalogued; add --yes to catalogue them", file=sys.stderr)


@dataclass(frozen=True, kw_only=True)
class LogMigrate:
    """Bring a catalogue of an older version up to this program's. A SQLite file is copied first.

    Attributes:
        catalogue: path or URL of the catalogue, for example runs/demo/catalogue.db.
    """

    catalogue: str

    def run(self) -> None:
        """Run it."""
        from lwd.fleet.folder import check_catalogue
        from lwd.log.migrations import migrate

        check_catalogue(self.catalogue)
        done = migrate(self.catalogue)
        copy = f"; the copy from before is {done.backup}" if done.backup else ""
        print(f"schema version {done.before} -> {done.after}{copy}")


@dataclass(frozen=True, kw_only=True)
class SiteCacheCommand:
    """One download of each snapshot per site: robots of the site fetch it here (`lwd robot join --site-cache URL`).

    Attributes:
        file: a robot's credential, invited for the cache.
        folder: of the cached files.
        size: bytes of all files; may end in k, M, G or T.
        host: where it listens.
        port: the port there.
    """

    file: File
    folder: Path = Path("site-cache")
    size: str = "20G"
    host: str = "0.0.0.0"
    port: int = 8455

    def run(self) -> None:
        """Run it."""
        from lwd.fleet.credential import load_credential
        from lwd.fleet.service import ServiceContext
        from lwd.log.calls import NatsCalls
        from lwd.log.granted_objects import GrantedObjects
        from lwd.snapshot.site_cache import SiteCache, SiteCacheServer

        credential = load_credential(self.file)
        context = ServiceContext(credential.name, "site-cache")
        stop = threading.Event()
        context.stop_sets(stop)
        with credential.link() as link:
            objects = GrantedObjects(NatsCalls(link), credential.name)
            cache = SiteCache(objects, self.folder, parse_bytes(self.size))
            server = SiteCacheServer(cache, self.host, self.port)
            Console().print(f"serving {server.url}; Ctrl-C stops it", highlight=False)
            try:
                with context.signals():
                    stop.wait()
            finally:
                server.close()
                objects.close()
        Console().print(f"{cache.status()}", highlight=False)


def parse_budget(text: str) -> Budget:
    """A retention budget such as "20G:source=online,task=restock"; ConfigError if it is none."""
    from lwd.log.retention import Budget

    size, _, rest = text.partition(":")
    scope: dict[str, str] = {}
    for part in filter(None, rest.split(",")):
        name, _, value = part.partition("=")
        if name not in ("source", "task") or not value or name in scope:
            raise ConfigError(f"budget {text!r}: {part!r} is not source=NAME or task=NAME.")
        scope[name] = value
    return Budget(size=parse_bytes(size), **scope)


def parse_bytes(text: str) -> int:
    """A number of bytes such as "500M"; ConfigError if it is none."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,3})?)([kMGT]?)", text.strip())
    if found is None:
        raise ConfigError(f"{text!r} is no number of bytes; expected for example 500000, 500M or 20G.")
    return int(float(found[1]) * _UNITS[found[2]])
