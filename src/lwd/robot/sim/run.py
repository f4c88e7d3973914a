"""Run episodes on a simulated fleet: one batched policy call per round and worker, one recording per episode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lwd import __version__
from lwd.episode import EpisodeHeader, Verdict
from lwd.errors import RobotError, UnknownNameError
from lwd.robot.control import Assignment, Round
from lwd.robot.recorder import Recorder, Recording, record_round
from lwd.robot.sim.fleet import SimFleet
from lwd.robot.sim.worker import Command


@dataclass(frozen=True, kw_only=True, eq=False)
class ActBatch:
    """Robots that need a chunk now; rows of all fields belong together.

    Attributes:
        robots: index of each robot.
        proprio: float32 [B, P].
        tasks, instructions: name and sentence of each robot's task.
        snapshots: the policy snapshot that drives each episode.
        seeds: int64 [B], of the episodes; chunk_index: int64 [B], rounds since the episode began. Noise that follows
            from these two alone makes an episode independent of what it is batched with.
        images: per camera the newest JPEG of each robot; empty in state tasks.
    """

    robots: tuple[int, ...]
    proprio: NDArray[np.float32]
    tasks: tuple[str, ...]
    instructions: tuple[str, ...]
    snapshots: tuple[int | None, ...]
    seeds: NDArray[np.int64]
    chunk_index: NDArray[np.int64]
    images: Mapping[str, Sequence[bytes]] = field(default_factory=dict[str, Sequence[bytes]])


@dataclass(frozen=True, kw_only=True)
class EpisodeReport:
    """One finished episode, without its steps, which are in the recording.

    Attributes:
        robot: index of the robot; steps: T; intervention_steps: how many of them an operator commanded.
        takeovers: times an operator took over.
    """

    robot: int
    assignment: Assignment
    header: EpisodeHeader
    verdict: Verdict
    steps: int
    intervention_steps: int
    takeovers: int


Assign = Callable[[int], Assignment | None]
Act = Callable[[ActBatch], NDArray[np.float32]]
OnEpisode = Callable[[EpisodeReport], None]


@dataclass(kw_only=True, eq=False)
class _Attempt:
    """One running episode, seen from the main process."""

    assignment: Assignment
    header: EpisodeHeader
    recording: Recording
    last: Round | None = None
    chunk_index: int = 0
    steps: int = 0
    intervention_steps: int = 0


@dataclass(eq=False)
class _Run:
    """One call of `run`: who does what at the moment."""

    fleet: SimFleet
    assign: Assign
    act: Act
    recorder: Recorder
    on_episode: OnEpisode | None
    attempts: dict[int, _Attempt] = field(default_factory=dict[int, _Attempt])
    done: set[int] = field(default_factory=set[int])

    def dispatch(self, group: int) -> bool:
        """Send the group's next round; False when none of its robots has anything to do any more."""
        commands: dict[int, Command] = {}
        for robot in self.fleet.groups[group]:
            if robot in self.attempts:
                commands[robot] = None
            elif robot not in self.done:
                assignment = self.assign(robot)
                if assignment is None:
                    self.done.add(robot)
                else:
                    commands[robot] = assignment
                    self.attempts[robot] = self._open(robot, assignment)
        needing = [r for r, c in commands.items() if c is None and _wants_chunk(self.attempts[r])]
        if needing:
            commands.update(zip(needing, self._chunks(needing), strict=True))
        if commands:
            self.fleet.send(group, commands)
        return bool(commands)

    def absorb(self, robot: int, report: Round) -> None:
        """Record what a robot did in a round, and close its episode if it ended."""
        attempt = self.attempts[robot]
        attempt.steps = record_round(attempt.recording, report, attempt.steps, self.fleet.spec.control_hz)
        attempt.intervention_steps += int(report.interventions.sum())
        attempt.chunk_index += len(report.actions) > 0
        attempt.last = report
        if report.verdict is None:
            return
        del self.attempts[robot]
        if self.on_episode is not None:
            self.on_episode(_closed(robot, attempt, report, report.verdict))

    def _open(self, robot: int, assignment: Assignment) -> _Attempt:
        fleet = self.fleet
        if assignment.task not in fleet.tasks:
            raise UnknownNameError("task", assignment.task, fleet.tasks)
        header = EpisodeHeader(
            task=assignment.task,
            instruction=fleet.tasks[assignment.task].instruction,
            source=assignment.source,
            robot=f"{fleet.spec.name}-{robot:02d}",
            spec=fleet.spec.name,
            control_hz=fleet.spec.control_hz,
            snapshot=assignment.snapshot,
            software=__version__,
            seed=assignment.seed,
            operator=assignment.operator_name,
        )
        return _Attempt(assignment=assignment, header=header, recording=self.recorder.begin(header))

    def _chunks(self, robots: Sequence[int]) -> NDArray[np.float32]:
        attempts = [self.attempts[robot] for robot in robots]
        batch = ActBatch(
            robots=tuple(robots),
            proprio=np.stack([a.last.last for a in attempts if a.last is not None]),
            tasks=tuple(a.assignment.task for a in attempts),
            instructions=tuple(a.header.instruction for a in attempts),
            snapshots=tuple(a.assignment.snapshot for a in attempts),
            seeds=np.array([a.assignment.seed for a in attempts], np.int64),
            chunk_index=np.array([a.chunk_index for a in attempts], np.int64),
            images={c.name: [_picture(a, c.name) for a in attempts] for c in self.fleet.spec.cameras},
        )
        chunks = np.asarray(self.act(batch), np.float32)
        expected = (len(robots), self.fleet.spec.chunk_steps, self.fleet.spec.action_dim)
        if chunks.shape != expected or not np.isfinite(chunks).all():
            raise RobotError(
                f"act returned chunks of shape {chunks.shape}, finite: {bool(np.isfinite(chunks).all())}; "
                f"expected finite chunks of shape {expected} (robots, chunk steps, action)."
            )
        return chunks


def run(
    fleet: SimFleet,
    assign: Assign,
    act: Act,
    recorder: Recorder,
    on_episode: OnEpisode | None = None,
) -> None:
    """Run episodes until every robot has been told None and the last episode has ended.

    While the main process computes actions for one worker's robots, the other workers simulate.

    Args:
        fleet: the robots.
        assign: asked, with a robot's index, at each of its episode boundaries; None: this robot is done for this run.
        act: the policy: one call per round and worker for those of its robots that the policy drives; float32 [B, H, A].
        recorder: gets every episode, control step by control step.
        on_episode: called at each episode's end, after its recording was finished.

    Raises:
        RobotError: a worker raised, died or did not answer, or `act` returned something that is no batch of chunks.
    """
    running = _Run(fleet, assign, act, recorder, on_episode)
    try:
        busy = sum(running.dispatch(group) for group in range(len(fleet.groups)))
        while busy:
            group, reports = fleet.receive()
            for robot, report in reports.items():
                running.absorb(robot, report)
            busy -= not running.dispatch(group)
    except Exception:
        # The fleet stays usable after an error in the caller's functions, of which `act` may raise a RobotError too: rounds
        # left under way would be taken for the next run's.
        fleet.drain()
        raise


def _wants_chunk(attempt: _Attempt) -> bool:
    return attempt.last is not None and attempt.last.wants_chunk


def _picture(attempt: _Attempt, camera: str) -> bytes:
    """The newest picture of a camera."""
    images = attempt.last.images if attempt.last is not None else ()
    if not images or camera not in images[-1]:
        raise RobotError(
            f"{attempt.header.robot} sensed no picture of camera {camera!r}, which its policy looks through."
        )
    return images[-1][camera]


def _closed(robot: int, attempt: _Attempt, report: Round, verdict: Verdict) -> EpisodeReport:
    return EpisodeReport(
        robot=robot,
        assignment=attempt.assignment,
        header=attempt.header,
        verdict=verdict,
        steps=attempt.steps,
        intervention_steps=attempt.intervention_steps,
        takeovers=report.takeovers,
    )
