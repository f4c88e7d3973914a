"""Which fault comes when: a sequence that follows from the seed alone."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass

SERVICES = ("coordinator", "learner", "reader", "evaluator", "broker", "database")
LINKS = ("robots-broker", "services-broker", "robots-store", "services-store", "services-database")
KINDS = (
    *("kill_robot",) * 3,
    *(f"kill_{name}" for name in SERVICES),
    "store_down",
    "store_slow",
    *("cut",) * 2,
    "half_open",
    "duplicated_files",
    "duplicated_messages",
    "reordered",
    "torn_upload",
    "full_disk",
    "clock_jump",
)
"""One round; each round has all of them in an order of its own, so that a short run has seen each kind too."""
CLOCK_S = (-86400.0, -3600.0, -30.0, 30.0, 3600.0, 86400.0)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault.

    Attributes:
        number: its place in the sequence, from 1.
        kind: of KINDS.
        target: a process, a link, or "store".
        seconds: how long it lasts, 0 if it is over at once.
        amount: seconds that a clock is moved or a store delays, how many uploads or episodes, share of connections.
        seed: for what is drawn when it happens, such as which episodes.
    """

    number: int
    kind: str
    target: str
    seconds: float
    amount: float
    seed: int

    def __str__(self) -> str:
        lasting = f" for {self.seconds:.1f} s" if self.seconds else ""
        amount = f" ({self.amount:g})" if self.amount else ""
        return f"{self.kind} {self.target}{amount}{lasting}"


def robot_name(number: int) -> str:
    """As `lwd fleet up` names them."""
    return f"chaos-{number:02d}"


def schedule(seed: int, robots: int, skipped: Collection[str] = ()) -> Iterator[Fault]:
    """Faults without end. Kinds that are `skipped` are drawn and left out, so that the others stay the same."""
    rng, number = random.Random(seed), 0
    while True:
        kinds = list(KINDS)
        rng.shuffle(kinds)
        for kind in kinds:
            target, seconds, amount = _details(kind, rng, robots)
            drawn = rng.randrange(2**31)
            if kind in skipped:
                continue
            number += 1
            yield Fault(number=number, kind=kind, target=target, seconds=seconds, amount=amount, seed=drawn)


def _details(kind: str, rng: random.Random, robots: int) -> tuple[str, float, float]:
    """Target, seconds and amount of a fault of this kind; always as many draws."""
    robot, link, seconds = robot_name(rng.randrange(robots)), rng.choice(LINKS), round(rng.uniform(2, 8), 1)
    bus, clock, jump = rng.choice(LINKS[:2]), rng.choice((robot, robot, "coordinator")), rng.choice(CLOCK_S)
    many, delay = rng.randint(2, 6), round(rng.uniform(0.05, 0.5), 2)
    if kind == "kill_robot":
        return robot, 0.0, 0.0
    if kind.startswith("kill_"):
        return kind.removeprefix("kill_"), 0.0, 0.0
    return {
        "store_down": ("store", seconds, 0.0),
        "store_slow": ("store", seconds, delay),
        "cut": (link, 0.0, 0.0),
        "half_open": (link, seconds, 0.0),
        "duplicated_files": ("robots' spools", 0.0, float(many)),
        "duplicated_messages": ("broker", 0.0, float(many)),
        "reordered": (bus, seconds, 0.5),
        "torn_upload": ("robots-store", seconds, float(many)),
        "full_disk": (robot_name(0), seconds, 0.0),
        "clock_jump": (clock, 2 * seconds, jump),
    }[kind]
