"""The replay's own gate: what does not fit the arrays, or would poison a gradient, never gets in."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from lwd.episode import Episode
from lwd.errors import EpisodeError, UnknownNameError
from lwd.replay.table import ID_BYTES
from lwd.spec import RobotSpec


def admit(episode: Episode, spec: RobotSpec, tasks: Collection[str]) -> dict[str, Sequence[bytes]]:
    """Check an episode; the coordinator did so already, but an episode need not come from it.

    Returns:
        The pictures per camera of the spec, T + 1 each.

    Raises:
        EpisodeError: reason spec, task, schema, shape or nan.
    """
    header, T = episode.header, episode.steps
    if header.spec != spec.name:
        detail = f"recorded on {header.spec!r}, this replay holds {spec.name!r}."
        raise EpisodeError(header.episode_id, "spec", detail)
    if header.task not in tasks:
        raise EpisodeError(header.episode_id, "task", str(UnknownNameError("task", header.task, tasks)))
    if len(header.episode_id.encode()) > ID_BYTES:
        raise EpisodeError(header.episode_id, "schema", f"the id is longer than {ID_BYTES} bytes.")
    expected = {
        "proprio": (T + 1, spec.proprio_dim),
        "actions": (T, spec.action_dim),
        "interventions": (T,),
        "times_s": (T + 1,),
    }
    for name, shape in expected.items():
        found = getattr(episode, name).shape
        if T < 1 or found != shape:
            raise EpisodeError(
                header.episode_id, "shape", f"{name} is {found}, expected {shape} with T >= 1."
            )
    if not (np.isfinite(episode.proprio).all() and np.isfinite(episode.actions).all()):
        raise EpisodeError(header.episode_id, "nan", "proprio or actions contain a value that is not finite.")
    pictures: dict[str, Sequence[bytes]] = {}
    for camera in spec.cameras:
        series = episode.images.get(camera.name, ())
        if len(series) != T + 1:
            detail = f"camera {camera.name!r} has {len(series)} pictures, expected {T + 1}."
            raise EpisodeError(header.episode_id, "shape", detail)
        pictures[camera.name] = series
    return pictures
