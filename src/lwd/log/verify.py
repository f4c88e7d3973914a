"""Re-reading the whole log: is every catalogued episode still there, unchanged and readable?"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from lwd.errors import EpisodeError, StoreError
from lwd.log.catalogue import Catalogue, EpisodeRow
from lwd.log.codec import decode
from lwd.log.objects import MissingObjectError, ObjectSource, TooLargeError

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One episode that is not as it was catalogued: reason is missing, store, hash, row or a reason of `decode`."""

    episode_id: str
    key: str
    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """How many episodes were looked for, the bytes that were read, and what is wrong. What is deleted meanwhile is left out."""

    episodes: int
    bytes_read: int
    problems: tuple[Problem, ...]


def verify(
    catalogue: Catalogue, objects: ObjectSource, rows: Iterable[EpisodeRow] | None = None
) -> VerifyReport:
    """Read every catalogued object (or those of `rows`), check its hash, decode it and compare it with its row."""
    problems: list[Problem] = []
    count = size = 0
    for row in catalogue.episodes() if rows is None else rows:
        read, found = _check(objects, row)
        if found is not None and found.reason == "missing" and catalogue.episode(row.episode_id) is None:
            continue  # deleted since we have its row: its row goes first, then its bytes
        count += 1
        size += read
        if found is not None:
            problems.append(found)
            log.error(
                "episode_damaged episode=%s reason=%s detail=%r", found.episode_id, found.reason, found.detail
            )
    log.info("log_verified episodes=%d bytes=%d problems=%d", count, size, len(problems))
    return VerifyReport(episodes=count, bytes_read=size, problems=tuple(problems))


def _check(objects: ObjectSource, row: EpisodeRow) -> tuple[int, Problem | None]:
    """The bytes that were read of an episode, and what is wrong with it."""
    try:
        data = objects.get(row.key, row.size)
    except MissingObjectError as error:
        return 0, _problem(row, "missing", str(error))
    except TooLargeError as error:
        return 0, _problem(row, "hash", str(error))
    except StoreError as error:
        return 0, _problem(row, "store", str(error))
    return len(data), _compare(data, row)


def _compare(data: bytes, row: EpisodeRow) -> Problem | None:
    digest = hashlib.sha256(data).hexdigest()
    if digest != row.sha256 or len(data) != row.size:
        return _problem(
            row,
            "hash",
            f"{len(data)} bytes with sha256 {digest}, catalogued were {row.size} with {row.sha256}.",
        )
    try:
        episode = decode(data)
    except EpisodeError as error:
        return _problem(row, error.reason, error.detail)
    stored = (episode.header.episode_id, episode.header.task, episode.steps, episode.verdict.outcome.value)
    if stored != (row.episode_id, row.task, row.steps, row.outcome):
        return _problem(
            row,
            "row",
            f"the file says {stored}, the catalogue {(row.episode_id, row.task, row.steps, row.outcome)}.",
        )
    return None


def _problem(row: EpisodeRow, reason: str, detail: str) -> Problem:
    return Problem(episode_id=row.episode_id, key=row.key, reason=reason, detail=detail)
