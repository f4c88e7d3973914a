"""Commands that read and keep the log and the snapshots."""

from __future__ import annotations

import getpass
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from lwd.cli.options import Read, Stored, print_facts, print_rows
from lwd.errors import LwdError

if TYPE_CHECKING:
    from lwd.log.catalogue import Catalogue, EpisodeRow


@dataclass(frozen=True, kw_only=True)
class LogLs(Read):
    """List episodes, newest last, or with --quarantine what was refused and why.

    Attributes:
        task, source: only these.
        limit: how many of the newest.
        quarantine: list refused episodes instead.
    """

    task: str | None = None
    source: Literal["demo", "rollout", "play", "online"] | None = None
    limit: int = 50
    quarantine: bool = False

    def run(self) -> None:
        """Run it."""
        with self.opened() as (catalogue, _):
            if self.quarantine:
                rows = [asdict(row) for row in catalogue.quarantined()]
                columns = ["episode_id", "reason", "detail", "robot"]
            else:
                rows = [asdict(row) for row in catalogue.episodes(task=self.task, source=self.source)]
                columns = ["seq", "episode_id", "task", "source", "snapshot", "outcome", "stage_score", "steps",
                           "intervention_steps"]  # fmt: skip
        print_rows(rows[-self.limit :], columns, self.json)


@dataclass(frozen=True, kw_only=True)
class LogShow(Read):
    """Everything the catalogue knows of one episode, and whether its file is intact.

    Attributes:
        episode_id: id of the episode; the first characters are enough if they are unique.
    """

    episode_id: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="EPISODE-ID")]

    def run(self) -> None:
        """Run it."""
        from lwd.log.codec import decode

        with self.opened() as (catalogue, objects):
            row = find(catalogue, self.episode_id)
            episode = decode(objects.get(row.key))
        facts: dict[str, Any] = asdict(row) | {
            "proprio": list(episode.proprio.shape),
            "actions": list(episode.actions.shape),
            "cameras": sorted(episode.images),
        }
        print_facts(facts, self.json)


@dataclass(frozen=True, kw_only=True)
class LogVerify(Read):
    """Read every catalogued episode again: its hash, its format, its fields. Exit code 1 if one is damaged."""

    def run(self) -> None:
        """Run it."""
        from lwd.log.verify import verify

        with self.opened() as (catalogue, objects):
            found = verify(catalogue, objects)
        print_facts(asdict(found), self.json)
        if found.problems:
            raise SystemExit(1)


@dataclass(frozen=True, kw_only=True)
class LogMigrate:
    """Bring a catalogue of an older version up to this program's. A SQLite file is copied first.

    Attributes:
        catalogue: path or URL of the catalogue, for example runs/demo/catalogue.db.
    """

    catalogue: str

    def run(self) -> None:
        """Run it."""
        from lwd.log.migrations import migrate

        done = migrate(self.catalogue)
        copy = f"; the copy from before is {done.backup}" if done.backup else ""
        print(f"schema version {done.before} -> {done.after}{copy}")


@dataclass(frozen=True, kw_only=True)
class LogDelete(Stored):
    """Delete an episode for good: its row and its bytes. Its tombstone stays, and it never comes back.

    Shows what would be deleted and which manifests and snapshots used it; deletes with --yes.

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
        from lwd.log.deletion import delete, lineage

        with self.opened() as (catalogue, objects):
            row = find(catalogue, self.episode_id)
            if self.yes:
                found = delete(catalogue, objects, row.episode_id, reason=self.reason, deleted_by=self.by)
            else:
                found = lineage(catalogue, row.episode_id)
        print_facts(asdict(found), self.json)
        if not self.yes:
            print("nothing was deleted; add --yes to delete it", file=sys.stderr)


@dataclass(frozen=True, kw_only=True)
class LogBackup(Stored):
    """Copy the catalogue into one SQLite file while the fleet runs. Objects are not in it.

    Attributes:
        file: to write; must not exist.
    """

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]

    def run(self) -> None:
        """Run it."""
        from lwd.log.backup import backup

        with self.opened() as (catalogue, _):
            done = backup(catalogue, self.file)
        print(f"{self.file}: {done.rows['episodes']} episodes, heads {dict(done.heads)}")


@dataclass(frozen=True, kw_only=True)
class LogRestore:
    """Fill an empty catalogue, SQLite or Postgres, from a backup.

    Attributes:
        file: the backup.
        catalogue: URL or path of the catalogue to fill.
    """

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    catalogue: str

    def run(self) -> None:
        """Run it."""
        from lwd.log.backup import restore

        done = restore(self.file, self.catalogue)
        print(f"{done.rows['episodes']} episodes restored, heads {dict(done.heads)}")


@dataclass(frozen=True, kw_only=True)
class SnapshotLs(Read):
    """List published policies, newest last.

    Attributes:
        limit: how many of the newest.
    """

    limit: int = 50

    def run(self) -> None:
        """Run it."""
        from lwd.snapshot.store import snapshots

        with self.opened() as (catalogue, _):
            rows = [
                asdict(s) | {"stage": s.meta.get("stage"), "sha256": s.sha256[:12]}
                for s in snapshots(catalogue)
            ]
        columns = ["number", "stage", "parent", "learner_step", "manifest", "sha256", "size", "status"]
        print_rows(rows[-self.limit :], columns, self.json)


def find(catalogue: Catalogue, beginning: str) -> EpisodeRow:
    """The one episode whose id begins so; LwdError if there is none, or more than one."""
    rows = [row for row in catalogue.episodes() if row.episode_id.startswith(beginning)]
    if not rows:
        raise LwdError(f"no episode begins with {beginning!r}; `lwd log ls` lists them.")
    if len(rows) > 1:
        some = ", ".join(row.episode_id for row in rows[:3])
        raise LwdError(f"{len(rows)} episodes begin with {beginning!r} ({some}, ...); give more characters.")
    return rows[0]
