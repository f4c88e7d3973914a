"""Follows the log's manifests: downloads new episodes, checks their hash, and appends them in the log's
order.

The order is the log's sequence, not the order of arrival, so every host that reaches manifest m holds the
same rows.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from lwd.episode import Episode
from lwd.errors import StoreError
from lwd.log import manifest as log_manifest
from lwd.log.catalogue import Catalogue, EpisodeRow
from lwd.log.codec import decode
from lwd.log.deletion import tombstone
from lwd.log.objects import ObjectSource
from lwd.replay.replay import Replay

_BATCH = 32  # episodes decoded ahead of their append; bounds the memory


class Reader:
    """Keeps one replay up to date with one log. One per learner host; use it from one thread.

    Args:
        catalogue: which episodes and manifests exist.
        objects: where their bytes are.
        replay: what to fill; its folder must be empty or filled from the same log. Episodes of other robot
            kinds are
            left out, tasks that the replay does not know are an error.
        workers: concurrent downloads.

    Raises:
        StoreError: the folder holds episodes that this log does not have at the same place.
    """

    def __init__(self, catalogue: Catalogue, objects: ObjectSource, replay: Replay, workers: int = 4) -> None:
        self._catalogue, self._objects, self._replay, self._workers = catalogue, objects, replay, workers
        if replay.store.count:
            episode_id = replay.store.episodes[-1]["episode_id"].decode()
            row = catalogue.episode(episode_id) or tombstone(catalogue, episode_id)
            if row is None or row.seq != replay.last_number:
                raise StoreError(
                    f"{replay.store.folder} was filled from another log: its newest episode {episode_id} "
                    f"is not number {replay.last_number} in {catalogue.shown}. Give the --catalogue that it was filled "
                    "from, or delete the folder; it is rebuilt from the log."
                )

    def refresh(self, upto: int | None = None) -> int:
        """Bring the replay to a manifest, by default the newest; cheap to poll when nothing is new.

        It may be interrupted or fail at any point and be called again: nothing is lost and nothing counts
        twice. Views never show a part of a manifest.

        Args:
            upto: the manifest that all hosts agreed on.

        Returns:
            The number of the newest complete manifest in the replay, 0 before the first.

        Raises:
            StoreError: an object is missing, unreachable or has another hash than the catalogue says.
            EpisodeError: an episode does not fit this replay, e.g. its task is unknown here.
        """
        newest = log_manifest.latest(self._catalogue) if upto is None else None
        target = upto if upto is not None else (newest.number if newest else 0)
        if target <= self._replay.manifest:
            return self._replay.manifest
        # Only those that are new: a fleet commits several each second, for months.
        following = log_manifest.manifests(self._catalogue, after=self._replay.manifest)
        known = [item for item in following if item.number <= target]
        if not known or known[-1].number != target:
            raise StoreError(
                f"Manifest {target} does not exist in the log; the newest is "
                f"{known[-1].number if known else self._replay.manifest}."
            )
        rows = self._catalogue.episodes(after_seq=self._replay.last_number, upto_seq=known[-1].upto_seq)
        rows = [row for row in rows if row.spec == self._replay.store.spec.name]
        ends = [item.upto_seq for item in known]
        numbers = [known[bisect.bisect_left(ends, row.seq)].number for row in rows]
        closes = [number != following for number, following in itertools.zip_longest(numbers, numbers[1:])]
        for row, number, close, episode in zip(rows, numbers, closes, self._fetch_all(rows), strict=True):
            self._replay.store.append(episode, row.seq, number, close)
        self._replay.complete(target)
        return target

    def _fetch_all(self, rows: list[EpisodeRow]) -> Iterator[Episode]:
        """The episodes in order, downloaded side by side."""
        with ThreadPoolExecutor(self._workers, "lwd-reader") as pool:
            for first in range(0, len(rows), _BATCH):
                yield from pool.map(self._fetch, rows[first : first + _BATCH])

    def _fetch(self, row: EpisodeRow) -> Episode:
        """One episode, checked to be the one that was catalogued."""
        data = self._objects.get(row.key, max_bytes=row.size)
        found = hashlib.sha256(data).hexdigest()
        if found != row.sha256:
            raise StoreError(
                f"object {row.key} of episode {row.episode_id} has the hash {found[:12]}..., the catalogue "
                f"says {row.sha256[:12]}...: it was damaged or replaced. Restore it and try again."
            )
        episode = decode(data)
        if episode.header.episode_id != row.episode_id:
            raise StoreError(
                f"object {row.key} holds episode {episode.header.episode_id}, expected {row.episode_id}."
            )
        return episode
