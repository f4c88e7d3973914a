"""Whether a readable episode fits its robot and its task: the last gate before it may be trained on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lwd.episode import Episode
from lwd.errors import EpisodeError, PictureError
from lwd.image import check, jpeg_size
from lwd.spec import RobotSpec, TaskSpec

__all__ = ["ACTION_SLACK", "jpeg_size", "validate"]

ACTION_SLACK = 1e-6
"""How far beyond [-1, 1] an action may be: rounding of float32, not more."""


def validate(episode: Episode, specs: Mapping[str, RobotSpec], tasks: Mapping[str, TaskSpec]) -> None:
    """Check a decoded episode against the robots and tasks that this fleet knows.

    Raises:
        EpisodeError: reason "spec" (unknown robot kind, other control rate, action out of [-1, 1]), "task" (unknown),
            "shape" (widths, cameras, pictures), "times" (the clock ran backwards) or "nan".
    """
    header = episode.header

    def refuse(reason: str, detail: str) -> EpisodeError:
        return EpisodeError(header.episode_id, reason, detail)

    spec = specs.get(header.spec)
    if spec is None:
        raise refuse(
            "spec", f"robot spec {header.spec!r:.80} is unknown; known: {', '.join(sorted(specs)) or 'none'}."
        )
    if header.task not in tasks:
        raise refuse(
            "task", f"task {header.task!r:.80} is unknown; known: {', '.join(sorted(tasks))[:200] or 'none'}."
        )
    widths = {"proprio": (episode.proprio, spec.proprio_dim), "actions": (episode.actions, spec.action_dim)}
    for name, (array, width) in widths.items():
        if array.shape[1:] != (width,):
            raise refuse(
                "shape", f"{name} has shape {array.shape}, spec {spec.name!r} expects width {width}."
            )
        if not np.isfinite(array).all():
            raise refuse("nan", f"{name} holds a value that is not finite.")
    if abs(header.control_hz - spec.control_hz) > 1e-6 * spec.control_hz:
        raise refuse(
            "spec", f"control_hz is {header.control_hz}, spec {spec.name!r} expects {spec.control_hz}."
        )
    largest = float(np.abs(episode.actions).max())
    if largest > 1.0 + ACTION_SLACK:
        raise refuse(
            "spec",
            f"an action coordinate has size {largest:.6g}, expected at most 1; actions are normalised.",
        )
    _check_times(episode)
    _check_cameras(episode, spec)


def _check_times(episode: Episode) -> None:
    times = episode.times_s
    backwards = np.flatnonzero(np.diff(times) < 0)
    if times[0] < 0 or len(backwards):
        where = int(backwards[0]) + 1 if len(backwards) else 0
        raise EpisodeError(
            episode.header.episode_id,
            "times",
            f"times_s[{where}] is {times[where]:.6f}, expected times from 0 on that never decrease; use a monotonic clock.",
        )


def _check_cameras(episode: Episode, spec: RobotSpec) -> None:
    episode_id = episode.header.episode_id
    expected = {camera.name: (camera.height, camera.width) for camera in spec.cameras}
    if set(episode.images) != set(expected):
        found = ", ".join(sorted(episode.images)) or "none"
        raise EpisodeError(
            episode_id,
            "shape",
            f"cameras are {found[:200]}, spec {spec.name!r} has {', '.join(sorted(expected)) or 'none'}.",
        )
    for name, (height, width) in expected.items():
        for index, jpeg in enumerate(episode.images[name]):
            try:
                check(jpeg, height, width)
            except PictureError as error:
                raise EpisodeError(
                    episode_id, "shape", f"picture {index} of camera {name} {error}."
                ) from error
