"""The three domains, the sizes of the networks, and what was published about them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lwd.errors import UnknownNameError

CHUNK_STEPS = 5
GAMMA = 0.99
"""Of the public QAM on all manipulation domains."""
PUBLISHED_EVERY = 50_000
"""Updates between the points of the published curves."""


@dataclass(frozen=True, kw_only=True)
class Domain:
    """One of OGBench's manipulation domains.

    Attributes:
        inverse_temperature: tau of the public QAM.
        sparse: reward -1 until everything is as wanted; else minus the number of parts that are not.
        curve: published success in per cent, mean over five tasks and twelve seeds, at 50,000, 100,000, ... updates, as far
            as it was read off the released data.
    """

    name: str
    inverse_temperature: float
    sparse: bool
    curve: tuple[int, ...]


DOMAINS: Mapping[str, Domain] = {
    domain.name: domain
    for domain in (
        Domain(name="scene", inverse_temperature=1.0, sparse=True, curve=(46, 77, 91, 94, 96, 96, 97)),
        Domain(name="puzzle-3x3", inverse_temperature=3.0, sparse=True, curve=(0, 14, 76, 83, 85, 86, 92)),
        Domain(
            name="cube-double",
            inverse_temperature=1.0,
            sparse=False,
            curve=(
                *(4, 9, 13, 21, 29, 35, 41, 46, 50, 54),
                *(55, 55, 61, 59, 61, 64, 63, 65, 65, 64),
                *(93, 97, 98, 99),  # after the 20th the online stage: one update per control step
            ),
        ),
    )
}

TASK_POINTS: Mapping[str, Mapping[int, int]] = {
    "scene-task1": {50_000: 90, 100_000: 100, 200_000: 100, 1_000_000: 100},
    "scene-task2": {50_000: 80, 100_000: 96, 200_000: 99, 1_000_000: 98},
    "puzzle-3x3-task2": {50_000: 0, 100_000: 8, 200_000: 25, 1_000_000: 100},
    **{
        f"cube-double-task{i}": {1_000_000: percent}
        for i, percent in enumerate((85, 79, 54, 22, 82), start=1)
    },
}
"""Published success of single tasks in per cent, mean over twelve seeds, by updates."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """Networks and batch."""

    width: int
    depth: int
    heads: int
    batch: int


SIZES: Mapping[str, Size] = {
    "public": Size(width=512, depth=4, heads=10, batch=256),
    "small": Size(width=256, depth=2, heads=2, batch=64),
}
"""The public QAM's, and one that this project's machine can train for a million updates."""

_TASK = re.compile(r"(?P<domain>.+)-task(?P<number>[1-5])")


@dataclass(frozen=True)
class Task:
    """One of a domain's five tasks."""

    domain: Domain
    number: int

    @property
    def name(self) -> str:
        """As here, for example scene-task1."""
        return f"{self.domain.name}-task{self.number}"

    @property
    def environment(self) -> str:
        """As gymnasium knows it."""
        return f"{self.domain.name}-singletask-task{self.number}-v0"


def task(name: str) -> Task:
    """The task of this name.

    Raises:
        UnknownNameError: there is none; the nearest name is in the message.
    """
    found = _TASK.fullmatch(name)
    if found is None or found["domain"] not in DOMAINS:
        raise UnknownNameError("OGBench task", name, [f"{d}-task{i}" for d in DOMAINS for i in range(1, 6)])
    return Task(DOMAINS[found["domain"]], int(found["number"]))


def size(name: str) -> Size:
    """The size of this name.

    Raises:
        UnknownNameError: there is none; the nearest name is in the message.
    """
    if name not in SIZES:
        raise UnknownNameError("size", name, SIZES)
    return SIZES[name]
