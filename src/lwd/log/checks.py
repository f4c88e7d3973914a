"""Checks of what somebody else gave: numbers, JSON.

Numbers are compared before they are converted: JSON may hold an integer of thousands of digits, for which `math.isfinite`
and `float` raise OverflowError. Nesting is bounded: JSON can be read deeper than it can be shown or written again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from lwd.errors import ConfigError

LAST_TIME = 9e9
"""The latest time that is believed, in seconds since the epoch: the year 2255. Nanoseconds until then fit 64 bits."""
MAX_DEPTH = 32
"""Objects and lists within each other."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Names of this machine that no other machine can reach."""


def number_in(value: object, low: int | float, high: int | float) -> float | None:
    """`value` if it is a number from `low` to `high`, else None; NaN and booleans are none."""
    if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
        return float(value)
    return None


def integer_in(value: object, low: int, high: int = 2**63 - 1) -> int | None:
    """`value` if it is an integer from `low` to `high`, else None; booleans are none."""
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return value
    return None


def check_port(option: str, port: int, least: int = 0) -> None:
    """ConfigError unless it is a port's number, 0 (any free one) only where `least` allows it."""
    if not least <= port < 65536:
        raise ConfigError(f"{option} is {port}; expected {least} to 65535.")


def is_deep(value: object) -> bool:
    """Whether it is nested more than MAX_DEPTH deep; looks at one level after the other, never recurses."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for item in level for inner in _inside(item)]
    return any(isinstance(item, dict | list) for item in level)


def _inside(item: object) -> Iterable[object]:
    if isinstance(item, dict):
        return cast(dict[str, object], item).values()
    return cast(list[object], item) if isinstance(item, list) else ()
