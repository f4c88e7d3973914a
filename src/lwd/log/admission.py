"""Admission: what a robot announced, fetched, checked from its bytes to its task, and judged. Decides, writes nothing."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lwd.episode import Episode
from lwd.errors import EpisodeError, StoreError
from lwd.log.bus import Message
from lwd.log.codec import decode
from lwd.log.events import DROPPED, EpisodeEvent, parse_dropped, parse_event
from lwd.log.layout import MAX_EPISODE_BYTES
from lwd.log.objects import MissingObjectError, ObjectSource, TooLargeError
from lwd.log.validate import validate
from lwd.spec import RobotSpec, TaskSpec

log = logging.getLogger(__name__)

MISSING, ANOTHERS = "missing", "robot"
"""Two reasons that a later announcement may make obsolete: its bytes were not there, it was not the announcer's."""

MAX_DETAIL_CHARS = 1000
MISSING_LOOKS = 12
"""Looks in a row, with growing pauses (about two minutes in all), before an absent object is given up."""
_MAX_MISSED = 100_000


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A row of the quarantine."""

    row: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """A row of the catalogue, without its seq."""

    row: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Deferred:
    """Not decidable now: the object is not there yet, or the store does not answer (`away`)."""

    delay_s: float
    cause: str
    away: bool = False


Judgement = Accepted | Refused | Deferred


class Admission:
    """The checks of one fleet.

    Args:
        objects: holds the episodes.
        specs, tasks: the robots and tasks of this fleet, by name.
    """

    def __init__(
        self, objects: ObjectSource, specs: Mapping[str, RobotSpec], tasks: Mapping[str, TaskSpec]
    ) -> None:
        self._objects, self._specs, self._tasks = objects, dict(specs), dict(tasks)
        # Key -> looks in a row that found nothing. Not the message's deliveries: those of an outage say nothing of the object.
        self._missed: dict[str, int] = {}

    def judge(self, message: Message) -> Judgement:
        """Fetch and check one episode. Never raises for anything that a robot can send."""
        event: EpisodeEvent | None = None
        try:
            if message.payload.get("kind") == DROPPED:
                return Refused(row=_dropped_row(message))
            event = parse_event(message.payload)
            if event.subject != message.subject:
                detail = f"robot {event.robot!r} was announced under {message.subject!r}."
                raise EpisodeError(event.episode_id, "schema", detail)
            episode = self._fetch(event)
            return Accepted(row=_catalogue_row(event, episode, message.published_at))
        except EpisodeError as error:
            return Refused(row=_quarantine_row(message, event, error))
        except MissingObjectError as error:
            if event is None or self._miss(event) < MISSING_LOOKS:
                return Deferred(delay_s=_pause_s(message), cause=str(error))
            del self._missed[event.key]
            lost = EpisodeError(
                event.episode_id, MISSING, f"{error} It was looked for {MISSING_LOOKS} times."
            )
            return Refused(row=_quarantine_row(message, event, lost))
        except StoreError as error:
            if event is not None:
                self._missed.pop(event.key, None)
            return Deferred(delay_s=_pause_s(message), cause=str(error), away=True)
        except Exception as error:  # a bug of ours must not stop the others' episodes, nor lose this one
            log.exception("admission_failed payload=%r", message.payload)
            return Deferred(delay_s=_pause_s(message), cause=f"{type(error).__name__}: {error}")

    def _miss(self, event: EpisodeEvent) -> int:
        """Note that an object was not there; how often in a row."""
        if len(self._missed) >= _MAX_MISSED:  # whoever announces so many absent ones only makes us patient
            self._missed.clear()
        self._missed[event.key] = self._missed.get(event.key, 0) + 1
        return self._missed[event.key]

    def _fetch(self, event: EpisodeEvent) -> Episode:
        """The episode of an event, checked from its bytes to its task."""
        if event.size > MAX_EPISODE_BYTES:
            raise EpisodeError(
                event.episode_id, "shape", f"{event.size} bytes, at most {MAX_EPISODE_BYTES} are allowed."
            )
        try:
            data = self._objects.get(event.key, event.size)
        except TooLargeError as error:
            raise EpisodeError(event.episode_id, "hash", str(error)) from error
        self._missed.pop(event.key, None)
        digest = hashlib.sha256(data).hexdigest()
        if digest != event.sha256 or len(data) != event.size:
            detail = (
                f"{len(data)} bytes with sha256 {digest}, announced were {event.size} with {event.sha256}."
            )
            raise EpisodeError(event.episode_id, "hash", detail)
        episode = decode(data)
        if episode.header.episode_id != event.episode_id:
            detail = (
                f"the file is of episode {episode.header.episode_id}, the event announced {event.episode_id}."
            )
            raise EpisodeError(event.episode_id, "schema", detail)
        if episode.header.robot != event.robot:
            detail = f"the file is of robot {episode.header.robot}, robot {event.robot} announced it."
            raise EpisodeError(event.episode_id, ANOTHERS, detail)
        validate(episode, self._specs, self._tasks)
        return episode


def _pause_s(message: Message) -> float:
    """Seconds until the next try: doubles from 0.2 to 15."""
    return min(0.1 * 2 ** min(message.deliveries, 10), 15.0)


def _catalogue_row(event: EpisodeEvent, episode: Episode, received_at: float) -> dict[str, Any]:
    header = vars(episode.header)
    return {
        **header,
        "source": episode.header.source.value,
        "outcome": episode.verdict.outcome.value,
        "stage_score": episode.verdict.stage_score,
        "steps": episode.steps,
        "cycle_time_s": episode.cycle_time_s,
        "intervention_steps": int(episode.interventions.sum()),
        "key": event.key,
        "sha256": event.sha256,
        "size": event.size,
        "catalogued_at": time.time(),
        "received_at": received_at,
        "ended_at": event.ended_at,
    }


def _dropped_row(message: Message) -> dict[str, Any]:
    """A robot's report of a drop, listed like what was refused; there are no bytes."""
    report = parse_dropped(message.payload)
    if report.subject != message.subject:
        detail = f"robot {report.robot!r} was reported for under {message.subject!r}."
        raise EpisodeError(report.episode_id, "schema", detail)
    detail = f"class {report.worth}, {report.size} bytes; dropped on the robot before delivery: {report.why}."
    return _quarantine_row(message, None, EpisodeError(report.episode_id, DROPPED, detail))


def _quarantine_row(message: Message, event: EpisodeEvent | None, error: EpisodeError) -> dict[str, Any]:
    text = json.dumps(dict(message.payload), sort_keys=True)
    return {
        "episode_id": error.episode_id if event is None else event.episode_id,
        "reason": error.reason,
        # A hostile header can bring lone surrogates and NULs into an error's text; not every database stores them.
        "detail": error.detail[:MAX_DETAIL_CHARS]
        .encode("utf-8", "backslashreplace")
        .decode()
        .replace("\0", "\\0"),
        "key": "" if event is None else event.key,
        # Without bytes to name, the event itself is what must not be listed twice.
        "sha256": hashlib.sha256(text.encode()).hexdigest() if event is None else event.sha256,
        "robot": message.subject.rpartition(".")[2],
        "quarantined_at": time.time(),
    }
