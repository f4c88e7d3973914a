"""What an action guard lets through: its limits, and the file on the robot's own computer that holds them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from lwd.errors import ConfigError, UnknownNameError
from lwd.spec import RobotSpec

Number = int | float
Numbers = Number | tuple[Number, ...]
"""One number for all coordinates of the action, or one per coordinate."""
Hold = Number | Literal["last"]

MOST = 1e9
"""Largest number that a file may have."""
LEAST_PER_STEP = 1e-5
"""Least change of a float32 action that is told from rounding (`lwd.robot.guard.TOLERANCE`) with room to spare."""
_PER_ROBOT = ("patience_s", "stale_s", "silence_s")


@dataclass(frozen=True, kw_only=True)
class GuardLimits:
    """The limits of one robot, in units of its action, which is normalised to [-1, 1] per coordinate.

    Where an action is a motion per control step (a delta), `rate_per_s` bounds its acceleration and `rate_change_per_s2` its
    jerk; where it is the place to go to (an absolute target), they bound speed and acceleration. Seconds are nominal: a
    control step is 1 / control_hz.

    Attributes:
        low, high: bounds of each coordinate.
        rate_per_s: largest change of a coordinate per second; None for any.
        rate_change_per_s2: largest change of that rate per second; None for any.
        hold: what a safe hold commands: 0 for deltas, "last" for absolute targets (stay where it was last sent), or one of
            these, or another number, per coordinate. It has no default: the wrong one moves the robot.
        start: the command that an episode begins from, such as where `reset` leaves absolute targets. None: the numbers of
            `hold`; a coordinate that holds "last" may then begin anywhere within its bounds.
        patience_s: after so long without one command of the policy that passed unchanged the episode is given up; None for
            never.
        stale_s: the policy's command is replaced by a hold if what was sensed is older than this; None for any age.
        silence_s: if no command came for so long, within an episode, the robot's `hold` is called; None for never.

    Raises:
        ConfigError: numbers that cannot be limits, or lists of different lengths.
    """

    low: Numbers = -1.0
    high: Numbers = 1.0
    rate_per_s: Numbers | None = None
    rate_change_per_s2: Numbers | None = None
    hold: Hold | tuple[Hold, ...]
    start: Numbers | None = None
    patience_s: Number | None = 1.0
    stale_s: Number | None = None
    silence_s: Number | None = None

    def __post_init__(self) -> None:
        lengths = {name: len(value) for name, value in vars(self).items() if isinstance(value, tuple)}
        if len(set(lengths.values())) > 1 or 0 in lengths.values():
            found = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise ConfigError(f"GuardLimits: lists of lengths {found}; expected one number per coordinate.")
        low, high = np.asarray(self.low, np.float64), np.asarray(self.high, np.float64)
        if not ((low >= -1) & (low <= high) & (high <= 1)).all():  # a comparison with NaN is false
            raise ConfigError(
                f"GuardLimits: low is {self.low}, high {self.high}; expected -1 <= low <= high <= 1, as actions are normalised."
            )
        for name in ("hold", "start"):
            # "last" is where the robot is, so it is within any bounds; NaN that somebody gave as a number is not.
            value = _numbers(getattr(self, name))
            if not (_is_last(getattr(self, name)) | ((value >= low) & (value <= high))).all():
                raise ConfigError(
                    f"GuardLimits: {name} is {getattr(self, name)}; expected it within low {self.low} and high {self.high}."
                )
        for name in ("rate_per_s", "rate_change_per_s2", *_PER_ROBOT):
            value = getattr(self, name)
            if value is not None and not _is_positive(value):
                raise ConfigError(
                    f"GuardLimits: {name} is {value}; expected positive numbers, or None for no limit."
                )

    def check(self, spec: RobotSpec) -> None:
        """ConfigError unless they are limits that this kind of robot can be held to."""
        for name, value in vars(self).items():
            if isinstance(value, tuple) and len(cast(tuple[Any, ...], value)) != spec.action_dim:
                raise ConfigError(
                    f"GuardLimits: {name} has {len(cast(tuple[Any, ...], value))} numbers, the actions of robot "
                    f"{spec.name!r} {spec.action_dim}; give as many, or one number for all."
                )
        per_step = self.per_step(spec)
        for name in ("rate", "rate_change"):
            if (least := per_step[name].min()) < LEAST_PER_STEP:
                raise ConfigError(
                    f"GuardLimits: the {name} of robot {spec.name!r} is {least:.3g} per control step, which is less than a "
                    f"command can be held to; expected at least {LEAST_PER_STEP:g}. Rates in the file are per second."
                )
        if self.silence_s is not None and self.silence_s <= 1 / spec.control_hz:
            raise ConfigError(
                f"GuardLimits: silence_s is {self.silence_s}, but a control step of robot {spec.name!r} lasts "
                f"{1 / spec.control_hz:.3g} s; expected longer than that."
            )

    def per_step(self, spec: RobotSpec) -> Mapping[str, NDArray[np.float64]]:
        """Per coordinate [A]: low, high, rate and rate_change per control step, hold and start (NaN: the last command).

        Where rate or rate_change is None it is 2 or 4, the largest that there is between -1 and 1.
        """
        rate = np.inf if self.rate_per_s is None else np.asarray(self.rate_per_s) / spec.control_hz
        change = (
            np.inf
            if self.rate_change_per_s2 is None
            else np.asarray(self.rate_change_per_s2) / spec.control_hz**2
        )
        start = self.hold if self.start is None else self.start
        found = {
            "low": self.low,
            "high": self.high,
            "rate": np.minimum(rate, 2.0),
            "rate_change": np.minimum(change, 4.0),
            "hold": _numbers(self.hold),
            "start": _numbers(start),
        }
        return {
            name: np.broadcast_to(np.asarray(v, np.float64), spec.action_dim).copy()
            for name, v in found.items()
        }


def load_limits(path: Path) -> GuardLimits:
    """Read limits from a JSON file: an object with the names of `GuardLimits`; lists per coordinate, null for None.

    Raises:
        ConfigError: it cannot be read, or is not exactly that.
    """
    where = f"guard {str(path)!r}"
    try:
        found: object = json.loads(
            path.read_text(encoding="utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_object
        )
    except OSError as error:
        raise ConfigError(f"{where} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:  # also what is no UTF-8
        raise ConfigError(f"{where} is no JSON: {error}.") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{where} is no JSON object; expected the names of GuardLimits with their numbers.")
    values = cast(dict[str, object], found)
    fields = {field.name: field for field in dataclasses.fields(GuardLimits)}
    for name in values:
        if name not in fields:
            raise ConfigError(f"{where}: {UnknownNameError('limit', name, fields)}")
    if "hold" not in values:
        raise ConfigError(
            f'{where} does not say what a hold commands; add "hold": 0 where actions are motions, "last" where they are '
            "absolute targets."
        )
    read = {name: _read(where, name, value, fields[name].default) for name, value in values.items()}
    try:
        return GuardLimits(**read)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _read(where: str, name: str, value: object, default: object) -> Any:
    """One field: null where it may be left out, a list where there may be a number per coordinate."""
    if value is None and (default is None or name == "patience_s"):
        return None
    if isinstance(value, list) and name not in _PER_ROBOT:
        return tuple(_item(where, name, item) for item in cast(list[object], value))
    return _item(where, name, value)


def _item(where: str, name: str, value: object) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool) and -MOST <= value <= MOST:
        return float(value)
    if value == "last" and name == "hold":
        return value
    expected = "a number" if name in _PER_ROBOT else "a number, or a list of one per coordinate"
    also = ', or "last"' if name == "hold" else ""
    raise ConfigError(f"{where}: {name} has {value!r:.60}; expected {expected}{also}.")


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Twice the same name: which one would hold?"""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands in it twice")
    return found


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number that JSON knows")


def _numbers(value: Hold | tuple[Hold, ...] | None) -> NDArray[np.float64]:
    """NaN for "last" and None."""
    items = value if isinstance(value, tuple) else (value,)
    return np.array([np.nan if item is None or item == "last" else item for item in items], np.float64)


def _is_last(value: Hold | tuple[Hold, ...] | None) -> NDArray[np.bool_]:
    items = value if isinstance(value, tuple) else (value,)
    return np.array([item is None or item == "last" for item in items], np.bool_)


def _is_positive(value: Numbers) -> bool:
    numbers = np.asarray(value, np.float64)
    return bool(((numbers > 0) & np.isfinite(numbers)).all())
