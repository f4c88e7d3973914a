"""The one message of the log: "this episode is in the object store"."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lwd.errors import EpisodeError
from lwd.log.layout import NAME

EVENT_VERSION = 1
ALL_EPISODES = "episodes.*"
"""The subject that the coordinator consumes."""

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


def parse_event(payload: Mapping[str, Any]) -> EpisodeEvent:
    """Read a message from a robot, trusting nothing in it; EpisodeError "schema" if it does not fit."""
    shown = payload.get("episode_id")
    episode_id = shown if isinstance(shown, str) and NAME.fullmatch(shown) else "?"
    if payload.get("version") != EVENT_VERSION:
        detail = f"the event has version {payload.get('version')!r:.20}, this program reads {EVENT_VERSION}."
        raise EpisodeError(episode_id, "schema", detail)
    robot, sha256, size = payload.get("robot"), payload.get("sha256"), payload.get("size")
    fits = (
        episode_id != "?"
        and isinstance(robot, str)
        and NAME.fullmatch(robot) is not None
        and isinstance(sha256, str)
        and _SHA256.fullmatch(sha256) is not None
        and type(size) is int
        and size >= 0
    )
    if not fits or not isinstance(robot, str) or not isinstance(sha256, str) or not isinstance(size, int):
        raise EpisodeError(episode_id, "schema", f"the event's fields do not fit: {dict(payload)!r:.300}")
    ended_at = payload.get("ended_at")
    timely = isinstance(ended_at, int | float) and math.isfinite(ended_at) and not isinstance(ended_at, bool)
    return EpisodeEvent(
        episode_id=episode_id,
        robot=robot,
        sha256=sha256,
        size=size,
        ended_at=float(ended_at) if timely and isinstance(ended_at, int | float) else None,
    )
