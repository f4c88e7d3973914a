"""A recorder that keeps whole episodes in memory, for evaluation, tests and small experiments."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from lwd.episode import Episode, EpisodeHeader, Verdict


class MemoryRecorder:
    """Implements `lwd.robot.recorder.Recorder`; finished episodes are in `episodes`, in the order of finishing.

    Args:
        on_episode: also called with each finished episode.
    """

    def __init__(self, on_episode: Callable[[Episode], None] | None = None) -> None:
        self.episodes: list[Episode] = []
        self._on_episode = on_episode

    def begin(self, header: EpisodeHeader) -> MemoryRecording:
        """Start the recording of one episode."""
        return MemoryRecording(header, self._keep)

    def _keep(self, episode: Episode) -> None:
        self.episodes.append(episode)
        if self._on_episode is not None:
            self._on_episode(episode)


class MemoryRecording:
    """One episode growing in memory; implements `lwd.robot.recorder.Recording`."""

    def __init__(self, header: EpisodeHeader, keep: Callable[[Episode], None]) -> None:
        self._header, self._keep = header, keep
        self._proprio: list[NDArray[np.float32]] = []
        self._actions: list[NDArray[np.float32]] = []
        self._interventions: list[bool] = []
        self._times: list[float] = []
        self._images: list[Mapping[str, bytes]] = []

    def step(
        self,
        proprio: NDArray[np.float32],
        action: NDArray[np.float32],
        intervention: bool,
        time_s: float,
        images: Mapping[str, bytes],
    ) -> None:
        """Append the state sensed and the action then executed."""
        self._proprio.append(proprio)
        self._actions.append(action)
        self._interventions.append(intervention)
        self._times.append(time_s)
        self._images.append(images)

    def finish(
        self, proprio: NDArray[np.float32], time_s: float, images: Mapping[str, bytes], verdict: Verdict
    ) -> None:
        """Close with the final state and the verdict, and hand the episode over."""
        pictures = [*self._images, images]
        self._keep(
            Episode(
                header=self._header,
                verdict=verdict,
                proprio=np.stack([*self._proprio, proprio]).astype(np.float32),
                actions=np.stack(self._actions).astype(np.float32),
                interventions=np.array(self._interventions, np.bool_),
                times_s=np.array([*self._times, time_s], np.float64),
                images={name: [picture[name] for picture in pictures] for name in images},
            )
        )
