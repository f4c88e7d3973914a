"""The control loop of one robot: one round executes one action chunk, with takeovers and noise inside the round."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lwd.episode import Source, Verdict
from lwd.errors import ConfigError, RobotError, UnknownNameError
from lwd.robot.environment import Environment, Sensed
from lwd.robot.guard import Guard, Guarded
from lwd.robot.guard_limits import GuardLimits
from lwd.robot.operator import GatingOperator, Operator, TakeoverRule
from lwd.spec import RobotSpec, TaskSpec

_NOISE_STREAM, _OPERATOR_STREAM = 11, 12


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """One episode to run.

    Attributes:
        task: name of the task; seed: of everything random in the episode.
        source: written into the episode.
        driver: who begins: the policy, or an operator who then drives to the end.
        operator: which of the robot's operators drives, or takes over.
        snapshot: number of the policy snapshot that drives, None without one.
        takeover: when the operator takes over from the policy, None for never; a `GatingOperator` decides alone, unless None.
        action_noise: standard deviation of gaussian noise on the policy's actions (not on an operator's).
    """

    task: str
    seed: int
    source: Source = Source.ONLINE
    driver: Literal["policy", "operator"] = "policy"
    operator: str = "expert"
    snapshot: int | None = None
    takeover: TakeoverRule | None = None
    action_noise: float = 0.0

    def __post_init__(self) -> None:
        if self.seed < 0 or self.action_noise < 0:
            raise ConfigError(
                f"Assignment: seed and action_noise cannot be negative, got {self.seed}, {self.action_noise}."
            )

    @property
    def operator_name(self) -> str | None:
        """Who demonstrates or may intervene, None if nobody: the header's `operator`."""
        return self.operator if self.driver == "operator" or self.takeover is not None else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Round:
    """What one robot did in one round of k <= H control steps; k is 0 right after a reset.

    Attributes:
        proprio: float32 [k, P], each row sensed before its action; images: the same, k + 1 entries with the last.
        actions: float32 [k, A], as executed; interventions: bool [k], True where an operator commanded.
        last: float32 [P], sensed after the round.
        verdict: how the episode ended, None while it runs.
        wants_chunk: whether the policy must give a chunk for the next round.
        takeovers: times an operator has taken over in this episode so far.
    """

    proprio: NDArray[np.float32]
    actions: NDArray[np.float32]
    interventions: NDArray[np.bool_]
    images: tuple[Mapping[str, bytes], ...]
    last: NDArray[np.float32]
    verdict: Verdict | None
    wants_chunk: bool
    takeovers: int


class ControlLoop:
    """Runs assignments on one robot, a round at a time.

    The operator takes over at the very control step at which the rule says so, or wants to if it is a `GatingOperator`, in
    the middle of a chunk if need be, and commands at least to the end of the round, so that every chunk of the policy begins
    at a multiple of H.

    Args:
        environment: the robot.
        operators: who can command it, by key.
        guard: limits between whoever commands and the robot; what they let through is what is executed and reported. None
            for none but the [-1, 1] of every action.

    Raises:
        ConfigError: the limits are not of this robot.
    """

    def __init__(
        self, environment: Environment, operators: Mapping[str, Operator], guard: GuardLimits | None = None
    ) -> None:
        self._env, self._operators = environment, operators
        self._gating = {name: o for name, o in operators.items() if isinstance(o, GatingOperator)}
        self._spec = environment.spec
        self._guard = None if guard is None else Guard(guard, environment)

    @property
    def guarded(self) -> Sequence[Guarded]:
        """The control steps of the episode so far that the guard changed or refused."""
        return () if self._guard is None else tuple(self._guard.events)

    @property
    def given_up(self) -> str | None:
        """Why the guard ended the episode; None if it did not."""
        return None if self._guard is None else self._guard.stopped

    @property
    def robot(self) -> tuple[RobotSpec, dict[str, TaskSpec]]:
        """The kind of robot and its tasks by name."""
        return self._spec, dict(self._env.tasks)

    def begin(self, assignment: Assignment) -> Round:
        """Reset for an assignment, after the end of an episode that still ran.

        Raises:
            UnknownNameError: no such task or operator.
        """
        if assignment.operator_name is not None and assignment.operator not in self._operators:
            raise UnknownNameError("operator", assignment.operator, self._operators)
        self.end()
        if self._guard is not None:
            self._guard.begin()
        self._sensed = self._env.reset(assignment.task, assignment.seed)
        self._sensed_at = _time_of(self._sensed)
        self._assignment = assignment
        self._noise = np.random.default_rng([assignment.seed, _NOISE_STREAM])
        self._milestones = self._env.milestones_reached()
        self._stalled, self._commanded, self._takeovers = 0, 0, 0
        self._operating, self._hand_back = False, False
        may_intervene = assignment.driver == "policy" and assignment.takeover is not None
        self._gate = self._gating.get(assignment.operator) if may_intervene else None
        if assignment.driver == "operator":
            self._take_over()
        return self._report([], [], [])

    def run(self, chunk: NDArray[np.float32] | None) -> Round:
        """Execute one round: the policy's chunk [H, A], or the operator's commands where one is in charge.

        A guard that gives the episode up ends the round early, and the next one raises. Whatever is raised, the guard holds
        the robot.

        Raises:
            RobotError: the chunk, or what an operator commands, is not of the robot's shape or not finite. No part of it has
                reached the robot. Or the guard has given the episode up.
        """
        if self._guard is None:
            return self._round(chunk)
        self._guard.check_runs()
        try:
            done = self._round(chunk)
        except BaseException:
            self.end()
            raise
        if done.verdict is not None or self.given_up is not None:
            self._guard.end(judged=done.verdict is not None)
        return done

    def end(self) -> None:
        """The episode is over, with or without a verdict; a guarded robot without one is held. May be called again."""
        if self._guard is not None:
            self._guard.end(judged=False)

    def _round(self, chunk: NDArray[np.float32] | None) -> Round:
        if chunk is not None:
            self._check("a policy's chunk", chunk, (self._spec.chunk_steps, self._spec.action_dim))
        sensed: list[Sensed] = []
        actions: list[NDArray[np.float32]] = []
        operated: list[bool] = []
        stale = False
        for i in range(self._spec.chunk_steps):
            if not self._operating and self._is_due():
                self._takeovers += 1
                self._take_over()
            action = self._action(chunk, i)
            if self._guard is not None:
                # So is the rest of the chunk: it was made from what is too old, or goes on from where the robot is not.
                stale = not self._operating and (stale or self._guard.is_stale(self._sensed_at))
                action = self._guard.command(action, stale=stale, operated=self._operating)
            sensed.append(self._sensed)
            actions.append(action)
            operated.append(self._operating)
            self._sensed = self._env.apply(action)
            self._count()
            if self._guard is not None:
                self._sensed_at = _time_of(self._sensed)
            if self._env.outcome() is not None or self.given_up is not None:
                break
        if self._hand_back:
            self._operating, self._hand_back, self._stalled = False, False, 0
        return self._report(sensed, actions, operated)

    def _action(self, chunk: NDArray[np.float32] | None, i: int) -> NDArray[np.float32]:
        if self._operating:
            command = np.asarray(self._operators[self._assignment.operator].act())
            self._check("an operator's action", command, (self._spec.action_dim,))
            return np.clip(command, -1.0, 1.0).astype(np.float32)
        if chunk is None:
            raise ConfigError("ControlLoop.run: the policy drives this robot, so the round needs a chunk.")
        action = chunk[i]
        if self._assignment.action_noise > 0:
            action = action + self._assignment.action_noise * self._noise.standard_normal(action.shape)
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def _is_due(self) -> bool:
        """Whether an operator takes over at this control step."""
        if self._gate is not None:
            return self._gate.wants_control()
        rule = self._assignment.takeover
        return rule is not None and self._takeovers < rule.max_takeovers and self._stalled >= rule.stall_steps

    def _take_over(self) -> None:
        self._operating, self._commanded = True, 0
        seed = np.random.SeedSequence([self._assignment.seed, _OPERATOR_STREAM, self._takeovers])
        operator = self._operators[self._assignment.operator]
        operator.begin(self._assignment.task, int(seed.generate_state(1)[0]))

    def _count(self) -> None:
        """After a control step: progress, stalling, and whether an intervention has done its work."""
        reached = self._env.milestones_reached()
        progressed = reached > self._milestones
        self._milestones = max(reached, self._milestones)
        self._stalled = 0 if progressed else self._stalled + 1
        if not self._operating or self._assignment.driver == "operator" or self._assignment.takeover is None:
            return
        if self._gate is not None:
            # After the step, not before the next: who lets go in a round's last step need not command another whole round.
            self._hand_back = not self._gate.wants_control()
            return
        self._commanded += 1
        if progressed or self._commanded >= self._assignment.takeover.max_steps:
            self._hand_back = True

    def _report(
        self, sensed: list[Sensed], actions: list[NDArray[np.float32]], operated: list[bool]
    ) -> Round:
        outcome = self._env.outcome() if actions else None
        total = len(self._env.tasks[self._assignment.task].milestones)
        verdict = None if outcome is None else Verdict(outcome=outcome, stage_score=self._milestones / total)
        proprio_dim, action_dim = self._spec.proprio_dim, self._spec.action_dim
        return Round(
            proprio=np.array([s.proprio for s in sensed], np.float32).reshape(-1, proprio_dim),
            actions=np.array(actions, np.float32).reshape(-1, action_dim),
            interventions=np.array(operated, np.bool_),
            images=tuple(s.images for s in (*sensed, self._sensed)) if self._spec.cameras else (),
            last=np.array(self._sensed.proprio, np.float32),
            verdict=verdict,
            wants_chunk=verdict is None and not self._operating and self.given_up is None,
            takeovers=self._takeovers,
        )

    def _check(self, what: str, values: NDArray[Any], shape: tuple[int, ...]) -> None:
        """Motors must not get what is no number: clipping lets NaN through."""
        if values.shape != shape or not np.isfinite(values).all():
            why = (
                f"{what} has shape {values.shape} and {np.count_nonzero(~np.isfinite(values))} values that are not finite; "
                f"expected shape {shape} and finite values. It was not executed."
            )
            raise RobotError(why) if self._guard is None else self._guard.refuse("refused", why)


def _time_of(sensed: Sensed) -> float:
    return time.monotonic() if sensed.at is None else sensed.at
