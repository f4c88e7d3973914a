"""The robot-side type: one attempt, from reset to outcome. NumPy only, so that a robot computer can use it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

SCHEMA_VERSION = 1
"""Version of the episode's fields and of their file layout; a reader refuses a version that it does not know."""


class Source(StrEnum):
    """Where an episode comes from (Table IV of the paper)."""

    DEMO = "demo"
    ROLLOUT = "rollout"
    PLAY = "play"
    ONLINE = "online"


class Outcome(StrEnum):
    """Verdict at the end. UNJUDGED: aborted or cut off; such an episode is truncated, not terminal."""

    SUCCESS = "success"
    FAILURE = "failure"
    UNJUDGED = "unjudged"


def new_episode_id() -> str:
    """A fresh id: milliseconds since the epoch in hex, then random bits; sorts by time, never repeats."""
    return f"{int(time.time() * 1000):012x}{uuid.uuid4().hex[:20]}"


@dataclass(frozen=True, kw_only=True)
class EpisodeHeader:
    """What is known when an episode begins.

    Attributes:
        episode_id: unique for ever; the guarantee behind "counted once".
        task, instruction: the TaskSpec's name and sentence.
        source: demo, rollout, play or online.
        robot: the name of this robot; spec: the name of its RobotSpec.
        control_hz: control steps per second.
        snapshot: number of the policy snapshot that drives, None without one (demonstrations).
        software: version of the robot's software.
        started_at: seconds since the epoch.
        seed: of the simulated attempt, None on a real robot.
        operator: who demonstrates or may intervene, None if nobody.
    """

    task: str
    instruction: str
    source: Source
    robot: str
    spec: str
    control_hz: float
    snapshot: int | None
    software: str
    seed: int | None = None
    operator: str | None = None
    episode_id: str = field(default_factory=new_episode_id)
    started_at: float = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is known when an episode ends: outcome and stage score in [0, 1] (milestones reached / total)."""

    outcome: Outcome
    stage_score: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Episode:
    """One whole attempt of T control steps.

    Attributes:
        proprio: float32 [T + 1, P]; the last row is the state in which the episode ended.
        actions: float32 [T, A], as executed (a human's where the human commanded), in [-1, 1].
        interventions: bool [T], True where a human commanded.
        times_s: float64 [T + 1], seconds since the first state: measured by a robot in real time, else steps / control_hz.
        images: per camera T + 1 JPEG pictures; empty in state tasks.
    """

    header: EpisodeHeader
    verdict: Verdict
    proprio: NDArray[np.float32]
    actions: NDArray[np.float32]
    interventions: NDArray[np.bool_]
    times_s: NDArray[np.float64]
    images: Mapping[str, Sequence[bytes]] = field(default_factory=dict[str, Sequence[bytes]])

    @property
    def steps(self) -> int:
        """T, the number of control steps."""
        return len(self.actions)

    @property
    def success(self) -> bool:
        """Whether it was judged a success."""
        return self.verdict.outcome is Outcome.SUCCESS

    @property
    def cycle_time_s(self) -> float:
        """Seconds from reset to outcome."""
        return float(self.times_s[-1])
