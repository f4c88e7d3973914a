"""The verdict: what the robots finished against what the catalogue, the store and the learner have. Pure functions."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lwd.errors import LwdError
from lwd.log.catalogue import EpisodeRow
from lwd.log.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class Count:
    """Episodes of the robots.

    Attributes:
        finished: that robots finished.
        catalogued: of them, in the catalogue.
        identical: of them, with the very bytes that the robot finished, in the store.
        duplicates: rows, or contents, that are there once too often.
        problems: one sentence each.
    """

    finished: int
    catalogued: int
    identical: int
    duplicates: int
    problems: tuple[str, ...]


def count(
    finished: Mapping[str, bytes], rows: Sequence[EpisodeRow], get: Callable[[EpisodeRow], bytes]
) -> Count:
    """Compare.

    Args:
        finished: the SHA-256 of each episode that a robot finished, by id.
        rows: the robots' rows of the catalogue.
        get: reads a row's object.
    """
    problems: list[str] = []
    held = Counter(row.episode_id for row in rows)
    contents = Counter(row.sha256 for row in rows)
    duplicates = len(rows) - len(held) + sum(n - 1 for n in contents.values() if n > 1)
    identical = {row.episode_id for row in rows if _same(finished, row, get, problems)}
    problems += [f"episode {one} was finished and is not catalogued" for one in finished if one not in held]
    problems += [
        f"episode {one} is catalogued and no robot finished it" for one in held if one not in finished
    ]
    if duplicates:
        problems.append(f"{duplicates} duplicates")
    catalogued = sum(one in held for one in finished)
    return Count(
        finished=len(finished),
        catalogued=catalogued,
        identical=len(identical),
        duplicates=duplicates,
        problems=tuple(problems),
    )


def _same(
    finished: Mapping[str, bytes],
    row: EpisodeRow,
    get: Callable[[EpisodeRow], bytes],
    problems: list[str],
) -> bool:
    try:
        digest = hashlib.sha256(get(row)).digest()
    except LwdError as error:
        problems.append(f"episode {row.episode_id}: {error}")
        return False
    if digest == finished.get(row.episode_id) and digest.hex() == row.sha256:
        return True
    problems.append(
        f"episode {row.episode_id}: other bytes in the store, in the catalogue or with the robot that finished it"
    )
    return False


def manifest_problems(manifests: Sequence[Manifest], rows: Sequence[EpisodeRow]) -> list[str]:
    """Whether each manifest is its parent and more, and counts what it says; the last one has all rows.

    Args:
        manifests: all, oldest first.
        rows: all rows of the catalogue.
    """
    problems: list[str] = []
    seqs = sorted(row.seq for row in rows)
    before: Manifest | None = None
    for one in manifests:
        last = (0, 0, None) if before is None else (before.upto_seq, before.episodes, before.number)
        if not (one.upto_seq > last[0] and one.episodes > last[1] and one.parent == last[2]):
            problems.append(f"manifest {one.number} is not manifest {last[2]} and more")
        if one.episodes != sum(seq <= one.upto_seq for seq in seqs):
            problems.append(f"manifest {one.number} says {one.episodes} episodes")
        before = one
    if before is None or before.episodes != len(rows):
        problems.append(f"the newest manifest does not have the {len(rows)} episodes of the catalogue")
    return problems


_EVENT = re.compile(r" (published|learner_resumed) (.*)")


@dataclass(frozen=True, kw_only=True)
class Learning:
    """The learner's way: how often it resumed, the most learner steps that were done again, and what was wrong."""

    resumed: int
    redone: int
    problems: tuple[str, ...]


def learning(log: str, checkpoint_every: int, publish_every: int) -> Learning:
    """Read the learner's log.

    A checkpoint is written in the background: a learner that dies meanwhile goes on from the one before. So at most two
    intervals and a block are done again.
    """
    step = manifest = resumed = redone = 0
    published: dict[int, int] = {}
    problems: list[str] = []
    allowed = 2 * checkpoint_every + publish_every
    for found in _EVENT.finditer(log):
        fields = dict(word.split("=", 1) for word in found[2].split() if "=" in word)
        if not {"learner_step", "manifest"} <= fields.keys():
            continue  # a line that a kill cut off
        to, on = int(fields["learner_step"]), int(fields["manifest"])
        if found[1] == "learner_resumed":
            resumed += 1
            if on < published.get(to, 0):
                problems.append(
                    f"resumed at learner step {to} on manifest {on}, which was on {published[to]}"
                )
            manifest = on
        elif on < manifest:
            problems.append(f"learner step {to} was on manifest {on}, after manifest {manifest}")
        else:
            published[to] = manifest = on
        back = step - to
        redone = max(redone, back)
        if back > allowed:
            problems.append(f"learner step went back from {step} to {to}, by more than {allowed}")
        step = to
    return Learning(resumed=resumed, redone=redone, problems=tuple(problems))
