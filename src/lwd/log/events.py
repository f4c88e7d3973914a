"""The messages of the log: "this episode is in the object store", and "this one had to be dropped"."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lwd.errors import EpisodeError
from lwd.log.checks import LAST_TIME, integer_in, number_in
from lwd.log.layout import NAME

EVENT_VERSION = 1
ALL_EPISODES = "episodes.*"
"""The subject that the coordinator consumes."""

DROPPED = "dropped"
"""The kind of a report of a drop; also the reason under which the coordinator lists it."""

_WORDS = re.compile(r"[a-z ]{1,32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class EpisodeEvent:
    """An episode's delivery: whose it is and what its bytes must be (`size` in bytes, `sha256` in hex).

    Attributes:
        ended_at: when the robot finished the file, seconds since the epoch by its own clock; None if it does not say.
    """

    episode_id: str
    robot: str
    sha256: str
    size: int
    ended_at: float | None = None

    @property
    def key(self) -> str:
        """Where the bytes are. It follows from id and hash, so an event cannot point at anything else."""
        return f"episodes/{self.episode_id}/{self.sha256}"

    @property
    def subject(self) -> str:
        """The robot's own subject."""
        return f"episodes.{self.robot}"

    @property
    def message_id(self) -> str:
        """The same for each delivery of the same bytes."""
        return f"{self.episode_id}.{self.sha256[:16]}"

    def payload(self) -> dict[str, Any]:
        """The message."""
        return {"version": EVENT_VERSION, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class DroppedEvent:
    """An episode that a robot had to drop before it was delivered: its class, its bytes, why and when."""

    episode_id: str
    robot: str
    worth: str
    size: int
    why: str
    at: float

    @property
    def subject(self) -> str:
        """The robot's own subject."""
        return f"episodes.{self.robot}"

    @property
    def message_id(self) -> str:
        """The same for each report of the same drop."""
        return f"{self.episode_id}.dropped"

    def payload(self) -> dict[str, Any]:
        """The message."""
        return {"version": EVENT_VERSION, "kind": DROPPED, **asdict(self)}


def parse_dropped(payload: Mapping[str, Any]) -> DroppedEvent:
    """Read a report from a robot, trusting nothing in it; EpisodeError "schema" if it does not fit."""
    with _reading():
        return _dropped(payload)


def parse_event(payload: Mapping[str, Any]) -> EpisodeEvent:
    """Read a message from a robot, trusting nothing in it; EpisodeError "schema" if it does not fit."""
    with _reading():
        return _event(payload)


@contextlib.contextmanager
def _reading() -> Generator[None]:
    """Whatever reading a message raises is a refusal: one robot's message must never end the coordinator."""
    try:
        yield
    except EpisodeError:
        raise
    except Exception as error:
        raise EpisodeError(
            "?", "schema", f"the message cannot be read: {type(error).__name__}: {error!s:.200}"
        ) from error


def _dropped(payload: Mapping[str, Any]) -> DroppedEvent:
    episode_id, robot, size = payload.get("episode_id"), payload.get("robot"), payload.get("size")
    worth, why, at = payload.get("worth"), payload.get("why"), payload.get("at")
    fits = (
        payload.get("version") == EVENT_VERSION
        and payload.get("kind") == DROPPED
        and isinstance(episode_id, str)
        and NAME.fullmatch(episode_id) is not None
        and isinstance(robot, str)
        and NAME.fullmatch(robot) is not None
        and all(isinstance(text, str) and _WORDS.fullmatch(text) for text in (worth, why))
        and integer_in(size, 0) is not None
        and number_in(at, 0, LAST_TIME) is not None
    )
    if not fits:
        shown = episode_id if isinstance(episode_id, str) and NAME.fullmatch(episode_id) else "?"
        raise EpisodeError(shown, "schema", f"the report's fields do not fit: {dict(payload)!r:.300}")
    fields = {name: payload[name] for name in ("episode_id", "robot", "worth", "size", "why", "at")}
    return DroppedEvent(**fields)


def _event(payload: Mapping[str, Any]) -> EpisodeEvent:
    shown = payload.get("episode_id")
    episode_id = shown if isinstance(shown, str) and NAME.fullmatch(shown) else "?"
    if payload.get("version") != EVENT_VERSION:
        detail = f"the event has version {payload.get('version')!r:.20}, this program reads {EVENT_VERSION}."
        raise EpisodeError(episode_id, "schema", detail)
    robot, sha256, size = payload.get("robot"), payload.get("sha256"), integer_in(payload.get("size"), 0)
    fits = (
        episode_id != "?"
        and isinstance(robot, str)
        and NAME.fullmatch(robot) is not None
        and isinstance(sha256, str)
        and _SHA256.fullmatch(sha256) is not None
    )
    if not fits or not isinstance(robot, str) or not isinstance(sha256, str) or size is None:
        raise EpisodeError(episode_id, "schema", f"the event's fields do not fit: {dict(payload)!r:.300}")
    return EpisodeEvent(
        episode_id=episode_id,
        robot=robot,
        sha256=sha256,
        size=size,
        ended_at=number_in(payload.get("ended_at"), 0, LAST_TIME),
    )
