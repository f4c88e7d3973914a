"""The seam between a robot and the log: a recording grows step by step and survives a crash half-way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lwd.episode import EpisodeHeader, Verdict
from lwd.robot.control import Round


@runtime_checkable
class Recording(Protocol):
    """One episode being written. `lwd.log.recording` is the implementation that the fleet uses."""

    def step(
        self,
        proprio: NDArray[np.float32],
        action: NDArray[np.float32],
        intervention: bool,
        time_s: float,
        images: Mapping[str, bytes],
    ) -> None:
        """Append the state sensed and the action then executed, one control step."""
        ...

    def finish(
        self, proprio: NDArray[np.float32], time_s: float, images: Mapping[str, bytes], verdict: Verdict
    ) -> None:
        """Close with the final state and the verdict, and hand the episode over for delivery."""
        ...


@runtime_checkable
class Recorder(Protocol):
    """Opens recordings."""

    def begin(self, header: EpisodeHeader) -> Recording:
        """Start the recording of one episode."""
        ...


def record_round(recording: Recording, done: Round, steps: int, control_hz: float) -> int:
    """Append what a robot did in a round, and close the episode if it ended with it.

    Args:
        recording: of the episode.
        done: the round.
        steps: control steps of the episode before this round.
        control_hz: control steps per second.

    Returns:
        Control steps of the episode after this round.
    """
    images = done.images or ({},) * (len(done.actions) + 1)
    for i, action in enumerate(done.actions):
        recording.step(
            done.proprio[i], action, bool(done.interventions[i]), (steps + i) / control_hz, images[i]
        )
    steps += len(done.actions)
    if done.verdict is not None:
        recording.finish(done.last, steps / control_hz, images[-1], done.verdict)
    return steps
