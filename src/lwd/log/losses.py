"""The journal of what a robot had to drop: small, append-only, and still right after a crash or a restart.

`.dropped.jsonl` in the spool holds one JSON object per line: `{"totals": ...}` (what was compacted), `{"drop": ...}`, or
`{"told": id}` once the coordinator's bus has the report. A line that was torn is skipped; it was never acted upon.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from lwd.log.checks import LAST_TIME, integer_in, number_in
from lwd.log.layout import NAME
from lwd.log.worth import Worth

BUDGET, DISK_FULL = "budget", "disk full"
"""Why an episode was dropped."""
MAX_JOURNAL_BYTES = 64 * 1024
"""A longer journal is compacted while the robot runs, as soon as everything in it was reported."""


@dataclass(frozen=True, kw_only=True)
class Drop:
    """One dropped episode: its class, its bytes, when (seconds since the epoch) and why ("budget" or "disk full")."""

    episode_id: str
    worth: Worth
    size: int
    at: float
    why: str


@dataclass(frozen=True, kw_only=True)
class Total:
    """Episodes and bytes that were dropped."""

    episodes: int = 0
    size: int = 0


class Losses:
    """The journal at `path`; made when the first episode is dropped. Not thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._totals = dict.fromkeys(Worth, Total())
        self._untold: dict[str, Drop] = {}
        for record in _lines(path):
            self._replay(record)
        if path.exists() and not self._untold:
            self._compact()

    def add(self, drop: Drop) -> None:
        """Note a drop, before the episode's file goes; OSError if the disk refuses."""
        self._append({"drop": {**asdict(drop), "worth": drop.worth.name}})
        self._count(drop)

    def told(self, episode_id: str) -> None:
        """The bus has the report of this drop."""
        self._append({"told": episode_id})
        self._untold.pop(episode_id, None)
        if not self._untold and self._path.stat().st_size > MAX_JOURNAL_BYTES:
            self._compact()

    def untold(self) -> list[Drop]:
        """Drops that are still to be reported, oldest first."""
        return list(self._untold.values())

    def totals(self) -> dict[Worth, Total]:
        """All that was ever dropped from this spool, by class."""
        return dict(self._totals)

    def _count(self, drop: Drop) -> None:
        held = self._totals[drop.worth]
        self._totals[drop.worth] = Total(episodes=held.episodes + 1, size=held.size + drop.size)
        self._untold[drop.episode_id] = drop

    def _replay(self, record: Mapping[str, Any]) -> None:
        try:
            if "totals" in record:
                self._totals.update({Worth[name]: _total(said) for name, said in record["totals"].items()})
            elif "drop" in record:
                fields: dict[str, Any] = dict(record["drop"])
                fields["worth"] = Worth[fields["worth"]]
                drop = Drop(**fields)
                fits = integer_in(drop.size, 0) is not None and number_in(drop.at, 0, LAST_TIME) is not None
                known = drop.episode_id in self._untold
                if fits and NAME.fullmatch(drop.episode_id) and drop.why in (BUDGET, DISK_FULL) and not known:
                    self._count(drop)
            else:
                self._untold.pop(str(record.get("told")), None)
        except (KeyError, TypeError, AttributeError):
            return  # not a line of ours

    def _append(self, record: Mapping[str, Any]) -> None:
        # The line break comes first, so that what a full disk cut off cannot spoil the next line.
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            line = f"\n{json.dumps(record)}".encode()
            if os.write(handle, line) != len(line):
                raise OSError(28, "No space left on device")
            os.fsync(handle)
        finally:
            os.close(handle)

    def _compact(self) -> None:
        """Everything was reported: one line is enough."""
        totals = {worth.name: asdict(total) for worth, total in self._totals.items()}
        temporary = self._path.with_suffix(".new")
        try:
            temporary.write_text(json.dumps({"totals": totals}))
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, self._path)
        except OSError:  # a full disk: the longer journal says the same
            temporary.unlink(missing_ok=True)


def _total(said: Mapping[str, Any]) -> Total:
    episodes, size = integer_in(said["episodes"], 0), integer_in(said["size"], 0)
    if episodes is None or size is None:
        raise TypeError("a total is no count")
    return Total(episodes=episodes, size=size)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            yield cast(dict[str, Any], record)
