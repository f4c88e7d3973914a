"""Watches the catalogue while the faults happen: manifests and snapshots may only grow, and what was seen may not change."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping
from types import TracebackType
from typing import Self

from lwd.errors import LwdError
from lwd.log import manifest
from lwd.log.catalogue import Catalogue
from lwd.snapshot.store import HEAD as SNAPSHOT_HEAD

EVERY_S = 2.0


class Growth:
    """A numbered table as it was seen so far: rows may come at the end, with the next numbers, and never change or go."""

    def __init__(self, name: str) -> None:
        self._name, self._seen = name, dict[int, Hashable]()
        self._head = 0
        self.violations: list[str] = []

    def look(self, rows: Mapping[int, Hashable], head: int | None) -> None:
        """Take in what is there now."""
        for number, row in self._seen.items():
            if rows.get(number) != row:
                self.violations.append(
                    f"{self._name} {number} was {row!r:.120} and is {rows.get(number)!r:.120}"
                )
        if sorted(rows) != list(range(1, len(rows) + 1)):
            self.violations.append(f"the numbers of the {self._name}s are not 1 to {len(rows)}")
        if (head or 0) < self._head:
            self.violations.append(f"the newest {self._name} went back from {self._head} to {head}")
        self._seen, self._head = dict(rows), max(self._head, head or 0)


class Observer:
    """Looks every two seconds, from a thread of its own; an unreachable catalogue is looked at later."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.manifests, self.snapshots = Growth("manifest"), Growth("snapshot")
        self.looks = self.away = self.episodes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chaos-observer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(60.0)

    def look(self) -> None:
        """Look once; raises LwdError where the catalogue does not answer."""
        with Catalogue(self._url, timeout_s=10.0) as catalogue:
            self._look(catalogue)

    @property
    def violations(self) -> list[str]:
        """What must not have happened; each once."""
        return list(dict.fromkeys(self.manifests.violations + self.snapshots.violations))

    def _look(self, catalogue: Catalogue) -> None:
        # Heads first: what they point at must be among the rows that are read after them.
        heads = catalogue.head(manifest.HEAD), catalogue.head(SNAPSHOT_HEAD)
        self.manifests.look({row.number: row for row in manifest.manifests(catalogue)}, heads[0])
        self.snapshots.look(_snapshots(catalogue), heads[1])
        self.episodes = catalogue.newest_seq()
        self.looks += 1

    def _run(self) -> None:
        catalogue: Catalogue | None = None
        while not self._ended.wait(EVERY_S):
            try:
                catalogue = catalogue or Catalogue(self._url, timeout_s=10.0)
                self._look(catalogue)
            except LwdError:
                self.away += 1
        if catalogue is not None:
            catalogue.close()


def _snapshots(catalogue: Catalogue) -> dict[int, Hashable]:
    import sqlalchemy as sa

    from lwd.log import tables

    with catalogue.read() as connection:
        rows = connection.execute(sa.select(tables.snapshots)).mappings().all()
    return {row["number"]: tuple(row.values()) for row in rows}
