"""Waiting for the fleet: before the first fault until the loop turns, after the last one until everything has arrived."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from benchmarks.chaos.recipe import CHECKPOINT_EVERY, PUBLISH_EVERY
from benchmarks.chaos.stack import Stack
from benchmarks.chaos.toy import HOLD
from benchmarks.chaos.witness import Witnessed
from lwd.errors import LwdError
from lwd.log import manifest as manifests
from lwd.log import tables
from lwd.log.catalogue import Catalogue

WARM_UP_S, DRAIN_S, SAY_S = 600.0, 300.0, 5.0
HEADER_BYTES = 8192
"""A running episode with fewer bytes has not begun: it is held."""

Say = Callable[[str], None]


def warm_up(stack: Stack, say: Say) -> list[str]:
    """Until the loop turns; without a first checkpoint, a killed learner could not show that it resumes."""

    def missing() -> list[str]:
        with Catalogue(stack.direct.catalogue) as catalogue, catalogue.read() as connection:
            rows, count = tables.snapshots, sa.select(sa.func.count())
            online = rows.c.meta.contains('"stage": "online"')
            published = connection.execute(count.select_from(rows).where(online)).scalar_one()
            source = tables.episodes.c.source
            episodes = connection.execute(count.where(source == "online")).scalar_one()
        wanted, found = 2 * CHECKPOINT_EVERY // PUBLISH_EVERY + 1, list[str]()
        found += [] if published >= wanted else [f"the learner, at snapshot {published} of {wanted}"]
        found += [] if episodes else ["a first episode"]
        return found + ([] if reader_at(stack) else ["the reader"])

    return _until_nothing(missing, WARM_UP_S, say, "the loop does not turn")


def drain(stack: Stack, witnessed: Witnessed, say: Say) -> list[str]:
    """No new episodes; until all is catalogued, everybody runs and the second reader has the last manifest."""
    (stack.control / HOLD).touch()
    return _until_nothing(lambda: _undelivered(stack, witnessed), DRAIN_S, say, "without faults")


def reader_at(stack: Stack) -> int:
    """The manifest that the second reader has reached."""
    try:
        lines = (stack.run / "reader.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return 0
    return int(json.loads(lines[-1])["manifest"]) if lines else 0


def _undelivered(stack: Stack, witnessed: Witnessed) -> list[str]:
    with Catalogue(stack.direct.catalogue) as catalogue:
        rows = {row.episode_id for row in catalogue.episodes()}
        newest = manifests.latest(catalogue)
    away = sorted(set(stack.names) - set(stack.pids))
    late, reached = witnessed.ids() - rows, reader_at(stack)
    spools = [stack.spool(name) for name in stack.robot_names]
    running = [part for spool in spools for part in spool.glob("*.part") if _size(part) > HEADER_BYTES]
    wanted = 0 if newest is None else newest.number
    found = [f"{len(late)} episodes"] if late else []
    found += [f"{len(running)} running episodes"] if running else []
    found += [f"processes {', '.join(away)}"] if away else []
    found += [f"the reader, at manifest {reached} of {wanted}"] if reached < wanted else []
    found += ["a manifest of all"] if newest is None or newest.episodes < len(rows) else []
    return found


def _until_nothing(missing: Callable[[], list[str]], limit_s: float, say: Say, when: str) -> list[str]:
    """What is missing after at most `limit_s`."""
    began, shown, found = time.monotonic(), 0.0, ["?"]
    while found and time.monotonic() - began < limit_s:
        time.sleep(1.0)
        try:
            found = missing()
        except LwdError as error:
            found = [str(error)]
        if found and time.monotonic() - shown >= SAY_S:
            shown = time.monotonic()
            say("waiting for " + "; ".join(found)[:300])
    return [f"after {limit_s:.0f} s {when}: {one}" for one in found]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
