"""Commands that read the log."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import tyro

from lwd.cli.options import Read, check_limit, find_episode, print_facts, print_rows


@dataclass(frozen=True, kw_only=True)
class LogLs(Read):
    """List episodes, newest last, or with --quarantine what was refused and why.

    Attributes:
        task: only this one's.
        source: only this one's.
        limit: how many of the newest; 0 for none.
        quarantine: list refused episodes instead.
    """

    task: str | None = None
    source: Literal["demo", "rollout", "play", "online"] | None = None
    limit: int = 50
    quarantine: bool = False

    def run(self) -> None:
        """Run it."""
        check_limit(self.limit)
        with self.opened_catalogue() as catalogue:
            if self.quarantine:
                rows = [asdict(row) for row in catalogue.quarantined(limit=self.limit, newest=True)]
                columns = ["episode_id", "reason", "detail", "robot"]
            else:
                found = catalogue.episodes(task=self.task, source=self.source, limit=self.limit, newest=True)
                rows = [asdict(row) for row in found]
                columns = ["seq", "episode_id", "task", "source", "snapshot", "outcome", "stage_score", "steps",
                           "intervention_steps"]  # fmt: skip
        print_rows(rows, columns, self.json)


@dataclass(frozen=True, kw_only=True)
class LogShow(Read):
    """Everything the catalogue knows of one episode, and whether its file is intact. Exit code 1 if it is not.

    Attributes:
        episode_id: id of the episode; the first characters are enough if they are unique.
    """

    episode_id: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="EPISODE-ID")]

    def run(self) -> None:
        """Run it."""
        from lwd.log.codec import decode
        from lwd.log.verify import verify

        with self.opened() as (catalogue, objects):
            row = find_episode(catalogue, self.episode_id)
            facts: dict[str, Any] = asdict(row)
            problems = verify(catalogue, objects, [row]).problems
            if not problems:
                episode = decode(objects.get(row.key))
                facts |= {
                    "proprio": list(episode.proprio.shape),
                    "actions": list(episode.actions.shape),
                    "cameras": sorted(episode.images),
                }
        facts["damage"] = f"{problems[0].reason}: {problems[0].detail}" if problems else None
        print_facts(facts, self.json)
        if problems:
            raise SystemExit(1)


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
