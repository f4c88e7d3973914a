"""Episodes of a simulated fleet in memory."""

from __future__ import annotations

from collections.abc import Sequence

from lwd.episode import Episode
from lwd.robot.control import Assignment
from lwd.robot.memory import MemoryRecorder
from lwd.robot.sim.fleet import SimFleet
from lwd.robot.sim.run import Act, EpisodeReport, run


def run_episodes(fleet: SimFleet, assignments: Sequence[Assignment], act: Act) -> list[Episode]:
    """Run the given episodes, spread over the fleet, and return them in memory, in the order given."""
    left = list(range(len(assignments)))[::-1]
    order: dict[str, int] = {}
    taken: dict[int, int] = {}

    def assign(robot: int) -> Assignment | None:
        if not left:
            return None
        taken[robot] = left.pop()
        return assignments[taken[robot]]

    def note(report: EpisodeReport) -> None:
        order[report.header.episode_id] = taken[report.robot]

    recorder = MemoryRecorder()
    run(fleet, assign, act, recorder, note)
    return sorted(recorder.episodes, key=lambda episode: order[episode.header.episode_id])
