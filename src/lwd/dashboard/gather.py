"""What the page shows: what `lwd status` gathers, counts over the newest episodes, evaluations. Texts are untrusted."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast
from urllib.parse import urlsplit

import sqlalchemy as sa

from lwd.episode import Outcome, Source
from lwd.errors import LwdError
from lwd.evaluate.intervals import wilson
from lwd.evaluate.jsonl import read_jsonl
from lwd.fleet.folder import RunFolder, check_catalogue
from lwd.fleet.status import fleet_status, shown
from lwd.log import tables
from lwd.log.catalogue import Catalogue, EpisodeRow
from lwd.log.checks import integer_in, number_in
from lwd.log.events import DROPPED
from lwd.log.robots import robots

log = logging.getLogger(__name__)

WINDOW = 20_000
"""Newest episodes and refusals that are counted."""
MAX_ROWS = 1000
"""Robots on the page at most; those that need somebody are shown first."""
MAX_STALLS, MAX_POINTS, MAX_TEXT, MAX_COUNT = 5, 60, 160, 10**15
TIMEOUT_S = 5.0
"""Longest read of the catalogue."""
HOUR_S, BIN_S, BINS = 3600.0, 300, 36
"""Rates are of the last hour, the picture is of the last three."""
OLD_BEHIND = 20
"""A robot that is further behind the newest snapshot, or release, is worth a look."""
LEAST_EPISODES = 20
"""Of a point in the picture of the fleet's success: fewer say too little, so neighbouring snapshots share one."""

BAD, WORTH_A_LOOK = ("silent", "no link", "clock off"), ("waits", "warns", "old policy")
LEVELS = {**dict.fromkeys(BAD, "bad"), **dict.fromkeys(WORTH_A_LOOK, "warn"), "works": "good"}
"""How the page colours a state; other states are idle."""
STATES = (*BAD, *WORTH_A_LOOK, "works", "stopped", "no status", "never heard")
"""Of a robot or service, in the order in which they are shown: those that need somebody, those that may, the others."""
KINDS = ("alone", "helped", "failure", "unjudged")
"""How episodes end. The first two are successes, without and with a human's hand in it."""


class Gathering:
    """What is known of one fleet, source by source. A source that is away leaves what it last gave, and says so."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._catalogue: Catalogue | None = None
        self._episodes: deque[EpisodeRow] = deque(maxlen=WINDOW)
        self._seen: int | None = None
        self._evaluations: list[dict[str, Any]] = []
        server = urlsplit(folder.catalogue)
        self._held: dict[str, Any] = {
            "name": f"{server.hostname}{server.path}" if server.hostname else folder.path.name
        }

    def close(self) -> None:
        """Let the catalogue go."""
        if self._catalogue is not None:
            self._catalogue.close()

    def document(self) -> dict[str, Any]:
        """The page's JSON value; `sources` says what is away, by name, and `at` when the catalogue was last read."""
        away: dict[str, str] = {}
        sources: Mapping[str, Callable[[], None]] = {
            "evaluations": self._read_evaluations,
            "catalogue": self._read_catalogue,
        }
        for name, read in sources.items():
            try:
                read()
            except LwdError as error:
                away[name] = text(error, 400)
            except Exception as error:  # what one robot said and nobody foresaw must not hide all others
                log.exception("dashboard_source_failed source=%s", name)
                away[name] = f"the dashboard's own error, see its log: {type(error).__name__}"
        return {**self._held, "sources": away}

    def _read_evaluations(self) -> None:
        path = self._folder.metrics("evaluator")
        found: dict[int, dict[str, Any]] = {}  # by snapshot: the last of a repeated one counts
        for row in read_jsonl(path) if path.exists() else ():
            number, episodes = integer_in(row.get("snapshot"), 0), integer_in(row.get("episodes"), 1, 10**9)
            success = number_in(row.get("success/average"), 0, 1)
            if number is not None and episodes is not None and success is not None:
                found[number] = {"snapshot": number, **rate(round(success * episodes), episodes)}
        self._evaluations = [found[number] for number in sorted(found)]

    def _read_catalogue(self) -> None:
        if self._catalogue is None:
            check_catalogue(self._folder.catalogue)  # opening it would make an empty one
            self._catalogue = Catalogue(self._folder.catalogue, TIMEOUT_S, read_only=True)
        catalogue, now = self._catalogue, time.time()
        status = fleet_status(catalogue)
        if self._seen is None:
            self._seen = max(catalogue.newest_seq() - WINDOW, 0)
        for episode in catalogue.episodes(after_seq=self._seen, source=Source.ONLINE.value):
            self._episodes.append(episode)
            self._seen = episode.seq
        everybody = _robots(catalogue, status["processes"], self._episodes, now)
        newest = status["snapshot"]["number"] if status["snapshot"] else 0
        self._held |= {
            "at": now,
            **{name: status[name] for name in ("episodes", "quarantined", "manifest", "snapshot")},
            "stalls": [text(sentence, 300) for sentence in status["stalls"][:MAX_STALLS]],
            "releases": [text(sentence, 300) for sentence in status["releases"][:MAX_STALLS]],
            "more_stalls": max(len(status["stalls"]) - MAX_STALLS, 0),
            "services": [_service(p) for p in status["processes"] if p["role"] != "robot"][:MAX_ROWS],
            "states": Counter(robot["state"] for robot in everybody),
            "levels": LEVELS,
            "robots": everybody[:MAX_ROWS],
            "dropped": sum(robot.get("dropped", 0) for robot in everybody),
            **_rates(self._episodes, now),
            "fleet": _by_snapshot(self._episodes, newest),
            "evaluations": self._evaluations[-MAX_POINTS:],
            "snapshots": _snapshots(catalogue, newest, self._evaluations, now),
            "refused": _refused(catalogue, now),
        }


def text(value: object, limit: int = MAX_TEXT) -> str:
    """Anything as a text of bounded length; nothing for None."""
    return "" if value is None else f"{value!s:.{limit}}"


def rate(successes: int, episodes: int) -> dict[str, Any]:
    """A share of successes with Wilson's interval; null without episodes."""
    found = asdict(wilson(successes, episodes)) if episodes else {"value": None}
    return {**found, "episodes": episodes}


def _kind(episode: EpisodeRow) -> str:
    if episode.outcome == Outcome.SUCCESS.value:
        return "helped" if episode.intervention_steps else "alone"
    return "failure" if episode.outcome == Outcome.FAILURE.value else "unjudged"


def _common(process: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of robots and services alike."""
    calm = "stopped" if process["stopping"] else "works"
    return {
        "name": process["name"],
        "state": min(process["troubles"], key=STATES.index, default=calm),
        "waits_for": "" if calm == "stopped" and process["silent"] else text(process["waits_for"]),
        "skew_s": round(process["clock_skew_s"], 1) if "clock off" in process["troubles"] else None,
        "seen_s": round(process["seen_s"], 1),
    }


def _service(process: Mapping[str, Any]) -> dict[str, Any]:
    said = {name: value for name, value in process["said"].items() if not isinstance(value, dict | list)}
    facts = {"snapshot": process["snapshot"], **said, **process["numbers"]}
    words = [
        text(f"{name} {shown(value)}")
        for name, value in facts.items()
        if value is not None and name not in ("state", "link")
    ]
    return {**_common(process), "role": process["role"], "facts": words[:10]}


def _robot(process: Mapping[str, Any]) -> dict[str, Any]:
    """A robot's own words, as far as they are what they should be."""
    common, behind, spool = _common(process), process["behind"], _mapping(process["spool"])
    if common["state"] == "works" and behind is not None and behind > OLD_BEHIND:
        common["state"] = "old policy"
    dropped = [
        integer_in(_mapping(one).get("episodes"), 0, MAX_COUNT)
        for one in _mapping(spool.get("dropped")).values()
    ]
    sizes = ("waiting", "refused", "used_bytes", "budget_bytes")
    return {
        **common,
        "task": text(process["said"].get("task"), 60),
        "snapshot": process["snapshot"],
        "behind": behind,
        **{name: integer_in(spool.get(name), 0, MAX_COUNT) for name in sizes},
        "dropped": sum(count or 0 for count in dropped),
    }


def _mapping(value: object) -> Mapping[str, Any]:
    return cast(Mapping[str, Any], value) if isinstance(value, Mapping) else {}


def _robots(
    catalogue: Catalogue, processes: Sequence[Mapping[str, Any]], episodes: Iterable[EpisodeRow], now: float
) -> list[dict[str, Any]]:
    """Everybody that reported, delivered or was invited, and was not revoked; those that need somebody first."""
    registered = robots(catalogue)
    left_out = {row.name for row in registered if row.revoked_at is not None}
    left_out |= {process["name"] for process in processes if process["role"] != "robot"}
    found: dict[str, dict[str, Any]] = {row.name: {"state": "never heard"} for row in registered}
    last = {episode.robot: episode for episode in episodes}
    for name, episode in last.items():
        found[name] = {"state": "no status", "snapshot": episode.snapshot, "task": episode.task}
    found |= {process["name"]: _robot(process) for process in processes if process["role"] == "robot"}
    hour = Counter((e.robot, _kind(e)) for e in episodes if now - e.catalogued_at < HOUR_S)
    for name, episode in last.items():
        found[name] |= {
            "last": _kind(episode),
            "last_s": round(now - episode.catalogued_at, 1),
            "lag_s": None if episode.ended_at is None else round(episode.catalogued_at - episode.ended_at, 2),
            "hour": {kind: hour[name, kind] for kind in KINDS},
        }
    rows = [{"name": name, **robot} for name, robot in found.items() if name not in left_out]
    return sorted(rows, key=lambda row: (STATES.index(row["state"]), len(row["name"]), row["name"]))


def _rates(episodes: Iterable[EpisodeRow], now: float) -> dict[str, Any]:
    """The last hour, or as much of it as the window holds, and the last three hours in bins, the newest last."""
    newest = [episode for episode in episodes if now - episode.catalogued_at < HOUR_S]
    span = HOUR_S if len(newest) < WINDOW else max(now - newest[0].catalogued_at, 1.0)
    kinds, steps = Counter(map(_kind, newest)), sum(episode.steps for episode in newest)
    taken = [episode.intervention_steps for episode in newest if episode.intervention_steps]
    bins = Counter((int((now - episode.catalogued_at) // BIN_S), _kind(episode)) for episode in episodes)
    return {
        "per_hour": round(len(newest) * HOUR_S / span),
        "alone": rate(kinds["alone"], len(newest) - kinds["unjudged"]),
        "helped": rate(kinds["helped"], len(newest) - kinds["unjudged"]),
        "takeovers": rate(len(taken), len(newest)),
        "human_steps": sum(taken) / steps if steps else None,
        "bins": [[bins[ago, kind] for kind in KINDS] for ago in reversed(range(BINS))],
    }


def _by_snapshot(episodes: Iterable[EpisodeRow], newest: int) -> list[dict[str, Any]]:
    """Success alone of what the fleet did under each snapshot, neighbours joined until there are enough episodes."""
    counts: dict[int, Counter[str]] = {}
    for episode in episodes:
        number = episode.snapshot  # the robot's word
        if number is not None and 0 < number <= newest and episode.outcome != Outcome.UNJUDGED.value:
            counts.setdefault(number, Counter())[_kind(episode)] += 1
    least = max(LEAST_EPISODES, sum(count.total() for count in counts.values()) // MAX_POINTS)
    points: list[dict[str, Any]] = []
    joined: Counter[str] = Counter()
    for number in sorted(counts):
        joined += counts[number]
        if joined.total() >= least:
            points.append({"snapshot": number, **rate(joined["alone"], joined.total())})
            joined.clear()
    return points


def _snapshots(
    catalogue: Catalogue, newest: int, evaluations: Sequence[dict[str, Any]], now: float
) -> list[dict[str, Any]]:
    """The newest three and the newest seven that were evaluated, newest first."""
    scores = {one["snapshot"]: one for one in evaluations[-7:]}
    column = tables.snapshots.c
    query = sa.select(column.number, column.learner_step, column.manifest, column.created_at)
    wanted = column.number.in_([newest, newest - 1, newest - 2, *scores])
    with catalogue.read() as connection:
        rows = connection.execute(query.where(wanted).order_by(column.number.desc())).mappings()
        return [{**row, "age_s": now - row["created_at"], "score": scores.get(row["number"])} for row in rows]


def _refused(catalogue: Catalogue, now: float) -> list[dict[str, Any]]:
    """What was listed and not learned from, by reason, with the newest of each; what robots lost is a reason of its own."""
    column, count = tables.quarantine.c, sa.func.count()
    groups = sa.select(sa.func.max(column.id), count).group_by(column.reason)
    with catalogue.read() as connection:
        newest = connection.execute(sa.select(sa.func.max(column.id))).scalar_one() or 0
        found = connection.execute(groups.where(column.id > newest - WINDOW)).all()
        counts = {int(number): int(total) for number, total in found}
        query = sa.select(tables.quarantine).where(column.id.in_(counts)).order_by(column.id.desc())
        rows = connection.execute(query.limit(12)).mappings().all()
    return [
        {
            "reason": "lost on the robot" if row["reason"] == DROPPED else text(row["reason"], 40),
            "count": counts[row["id"]],
            "robot": text(row["robot"], 64),
            "detail": text(row["detail"]),
            "ago_s": round(now - row["quarantined_at"], 1),
        }
        for row in rows
    ]
