"""Episodes of random numbers, for benchmarks that ask what an episode costs and not what is in it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lwd.episode import Episode, EpisodeHeader, Outcome, Source, Verdict
from lwd.spec import RobotSpec, TaskSpec


def random_episode(
    spec: RobotSpec,
    task: TaskSpec,
    steps: int,
    rng: np.random.Generator,
    *,
    source: Source = Source.DEMO,
    robot: str = "bench",
    images: Mapping[str, list[bytes]] | None = None,
) -> Episode:
    """A success of `steps` steps; online it names snapshot 1. `images` has `steps + 1` JPEGs for each camera."""
    online = source is Source.ONLINE
    return Episode(
        header=EpisodeHeader(
            task=task.name,
            instruction=task.instruction,
            source=source,
            robot=robot,
            spec=spec.name,
            control_hz=spec.control_hz,
            snapshot=1 if online else None,
            software="bench",
            seed=1 if online else None,
        ),
        verdict=Verdict(outcome=Outcome.SUCCESS, stage_score=1.0),
        proprio=rng.normal(size=(steps + 1, spec.proprio_dim)).astype(np.float32),
        actions=rng.uniform(-1, 1, size=(steps, spec.action_dim)).astype(np.float32),
        interventions=np.zeros(steps, np.bool_),
        times_s=np.arange(steps + 1) / spec.control_hz,
        images=dict(images or {}),
    )
