"""The action guard between whoever commands and the motors: bounds, rates, stale observations, silence, safe hold.

It knows neither the policy nor the fleet. It is software in the robot's process, no certified safety function.
"""

from __future__ import annotations

import logging
import math
import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lwd.errors import ConfigError, RobotError
from lwd.robot.environment import Environment, HoldingEnvironment
from lwd.robot.guard_limits import GuardLimits
from lwd.robot.silence import SilenceWatch

log = logging.getLogger(__name__)

TOLERANCE = 1e-6
"""A command that breaks a limit by no more passes unchanged: float32 cannot be held to less."""
HOLD_S = 5.0
"""How long commands bring a robot without a `hold` of its own to the guard's hold, at most."""


class Guarded(NamedTuple):
    """One control step that the guard changed or refused.

    Attributes:
        step: control steps of the episode before it.
        reason: bounds, rate, rate_change (limits), stale, silence, or refused (not finite, or of another length).
        coordinate: of the action, the first that broke the limit; None where the reason is of the whole command.
    """

    step: int
    reason: str
    coordinate: int | None = None


class Guard:
    """Guards one robot, an episode at a time.

    A command passes bit for bit unless it breaks a limit, or could not be followed without breaking one: then the nearest one
    that does not is executed. A hold is approached within the limits too.

    Args:
        limits: of this robot.
        environment: the robot.

    Attributes:
        events: the control steps of the episode that were changed or refused.
        stopped: why the guard has ended the episode; None while it has not.

    Raises:
        ConfigError: the limits are not of this robot, or have a watchdog where it has no `hold`.
    """

    def __init__(self, limits: GuardLimits, environment: Environment) -> None:
        spec = environment.spec
        limits.check(spec)
        self._hold = environment.hold if isinstance(environment, HoldingEnvironment) else None
        if limits.silence_s is not None and self._hold is None:
            raise ConfigError(
                f"GuardLimits: silence_s is {limits.silence_s}, but the environment of robot {spec.name!r} has no hold() for "
                "the watchdog to call. Add it (lwd.robot.environment.HoldingEnvironment), or leave silence_s out."
            )
        self._limits, self._env, self._hertz = limits, environment, spec.control_hz
        numbers = limits.per_step(spec)
        self._low, self._high, self._start = numbers["low"], numbers["high"], numbers["start"]
        self._rate, self._rate_change = numbers["rate"], numbers["rate_change"]
        self._hold_at = numbers["hold"]
        patience = math.inf if limits.patience_s is None else limits.patience_s * self._hertz
        self._patience_steps = max(patience, 1.0)
        self._watch: SilenceWatch | None = None
        self._running = False
        self.events: list[Guarded] = []
        self.stopped: str | None = None

    def begin(self) -> None:
        """An episode begins; the robot is about to be reset."""
        self._running, self._steps, self._in_a_row = True, 0, 0
        self._last, self._change = self._start.copy(), np.zeros_like(self._start)
        self.events, self.stopped = [], None

    def check_runs(self) -> None:
        """RobotError if no episode runs, such as after one that was given up: it says why."""
        if not self._running:
            raise RobotError(
                self.stopped or "the episode has ended, and its guard lets nothing through; begin another."
            )

    def is_stale(self, at: float) -> bool:
        """Whether what was sensed at this time (`time.monotonic`) is too old to command from."""
        stale_s = self._limits.stale_s
        return stale_s is not None and not time.monotonic() - at <= stale_s  # NaN is stale

    def command(self, wanted: NDArray[np.float32], *, stale: bool, operated: bool) -> NDArray[np.float32]:
        """What may be sent in place of a command [A] in [-1, 1].

        Args:
            wanted: the command.
            stale: a hold takes its place.
            operated: it is an operator's, which is limited, and never makes the guard give up.

        Raises:
            RobotError: no command may be sent: the watchdog has held the robot, or there is nothing yet that it could hold.
        """
        self._feed()
        target = self._held() if stale else wanted.astype(np.float64)
        if np.isnan(target).any():
            raise self.refuse(
                "stale",
                "the guard sent no command: what was sensed is older than stale_s before the first command of the episode, and "
                "it has nothing to hold at; give GuardLimits.start, or mend the sensor, or the policy that takes so long.",
            )
        executed, broken = self._limited(target)
        if stale:
            broken = Guarded(self._steps, "stale")
        self._in_a_row = 0 if broken is None or operated else self._in_a_row + 1
        if broken is not None:
            self.events.append(broken)
            if self._in_a_row >= self._patience_steps:
                self.stopped = self._why(broken, wanted)
        self._sent(executed)
        return executed

    def refuse(self, reason: str, why: str) -> RobotError:
        """A command is not executed at all, and ends the episode: what to raise."""
        self.events.append(Guarded(self._steps, reason))
        self.stopped = why
        return RobotError(why)

    def end(self, *, judged: bool) -> None:
        """The episode is over; a robot whose episode got no verdict is held. Does nothing if no episode runs."""
        if not self._running:
            return
        self._running = False
        held = self._watch is not None and self._watch.stop()
        self._watch = None
        if not judged and not held:
            self._hold_now()

    def _feed(self) -> None:
        """A command is about to reach the robot. Before the first one of an episode a robot stands, and nothing is watched."""
        silence_s = self._limits.silence_s
        if silence_s is None:
            return
        if self._watch is None:
            self._watch = SilenceWatch(silence_s, self._hold_now)
        elif not self._watch.feed():
            raise self.refuse(
                "silence",
                f"no command came for more than {silence_s:g} s (GuardLimits.silence_s) before control step {self._steps}, so "
                "the watchdog held the robot. Look for what took so long: the policy, the network, or the robot's driver.",
            )

    def _limited(self, wanted: NDArray[np.float64]) -> tuple[NDArray[np.float32], Guarded | None]:
        """The nearest command within the limits, and which of them the wanted one breaks."""
        low, high, most = self._low, self._high, self._rate_change
        base = np.where(np.isnan(self._last), _clip(wanted, low, high), self._last)
        change = wanted - base
        step = _clip(change, self._change - most, self._change + most)
        step = _clip(step, -self._rate, self._rate)
        step = _clip(step, -_braked(base - low, most), _braked(high - base, most))
        limited = _clip(base + step, low, high)
        changed = np.abs(limited - wanted) > TOLERANCE
        if not changed.any():
            return wanted.astype(np.float32), None
        executed = np.where(changed, limited, wanted).astype(np.float32)
        for reason, over in (
            ("bounds", np.maximum(low - wanted, wanted - high)),
            ("rate", np.abs(change) - self._rate),
            ("rate_change", np.abs(change - self._change) - most),
        ):
            if (over > TOLERANCE).any():
                return executed, Guarded(self._steps, reason, int((over > TOLERANCE).argmax()))
        # It breaks none by itself, but could not stop in time for a bound.
        return executed, Guarded(self._steps, "bounds", int(changed.argmax()))

    def _held(self) -> NDArray[np.float64]:
        """What a hold commands [A]; NaN where it is the last command and there is none."""
        return np.where(np.isnan(self._hold_at), self._last, self._hold_at)

    def _sent(self, executed: NDArray[np.float32]) -> None:
        known = ~np.isnan(self._last)
        self._change = np.where(known, executed - self._last, 0.0)
        self._last = executed.astype(np.float64)
        self._steps += 1

    def _hold_now(self) -> None:
        """By the robot's own `hold`, or by commands within the limits; what a driver raises is logged."""
        try:
            if self._hold is not None:
                self._hold()
            else:
                self._hold_by_commands()
        except Exception as error:
            log.exception("hold_failed cause=%r", str(error))

    def _hold_by_commands(self) -> None:
        if self._steps == 0:  # a robot that was reset stands
            return
        for _ in range(math.ceil(HOLD_S * self._hertz)):
            target = self._held()
            executed, _ = self._limited(target)
            far = np.abs([executed - self._last, target - self._last]).max()
            if far <= TOLERANCE or self._env.outcome() is not None:
                return
            self._env.apply(executed)
            self._sent(executed)

    def _why(self, broken: Guarded, wanted: NDArray[np.float32]) -> str:
        first = self.events[-self._in_a_row].step
        where = ""
        if broken.coordinate is not None:
            c = broken.coordinate
            where = f" (coordinate {c}: {wanted[c]:.4g} after {self._last[c]:.4g})"
        return (
            f"the guard gives the episode up at control step {broken.step}: it had to change every command since step {first}, "
            f"the last one for {broken.reason}{where}; GuardLimits.patience_s is {self._limits.patience_s} s. Look at what "
            "commands this robot, or widen the limit."
        )


def _clip(
    values: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]
) -> NDArray[np.float64]:
    """As `np.clip`, which takes twice as long for as few values as an action has."""
    return np.minimum(np.maximum(values, low), high)


def _braked(room: NDArray[np.float64], rate_change: NDArray[np.float64]) -> NDArray[np.float64]:
    """The largest step toward a bound from which slowing down by `rate_change` per step still ends in front of it.

    Steps d, d - a, d - 2a, ... of n terms cover n d - a n (n - 1) / 2; n is the least with a n (n + 1) / 2 >= room.
    """
    room = np.maximum(room, 0.0)
    n = np.maximum(np.ceil((np.sqrt(1 + 8 * room / rate_change) - 1) / 2), 1.0)
    return (room + rate_change * n * (n - 1) / 2) / n
