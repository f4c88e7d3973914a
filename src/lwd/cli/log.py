"""Commands that read and keep the log and the snapshots."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import tyro

from lwd.cli.options import Read, existing, print_facts, print_rows
from lwd.errors import LwdError


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
        from lwd.fleet.folder import open_services

        with open_services(existing(self.out)) as services:
            catalogue = services.catalogue
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
        from lwd.fleet.folder import open_services
        from lwd.log.codec import decode

        with open_services(existing(self.out)) as services:
            rows = [r for r in services.catalogue.episodes() if r.episode_id.startswith(self.episode_id)]
            if not rows:
                raise LwdError(f"no episode begins with {self.episode_id!r}; `lwd log ls` lists them.")
            if len(rows) > 1:
                some = ", ".join(row.episode_id for row in rows[:3])
                raise LwdError(
                    f"{len(rows)} episodes begin with {self.episode_id!r} ({some}, ...); give more characters."
                )
            episode = decode(services.objects.get(rows[0].key))
        facts: dict[str, Any] = asdict(rows[0]) | {
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
        from lwd.fleet.folder import open_services
        from lwd.log.verify import verify

        with open_services(existing(self.out)) as services:
            found = verify(services.catalogue, services.objects)
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
class SnapshotLs(Read):
    """List published policies, newest last.

    Attributes:
        limit: how many of the newest.
    """

    limit: int = 50

    def run(self) -> None:
        """Run it."""
        from lwd.fleet.folder import open_services

        with open_services(existing(self.out)) as services:
            rows = [
                asdict(s) | {"stage": s.meta.get("stage"), "sha256": s.sha256[:12]}
                for s in services.snapshots.list()
            ]
        columns = ["number", "stage", "parent", "learner_step", "manifest", "sha256", "size", "status"]
        print_rows(rows[-self.limit :], columns, self.json)
