"""The toy robot on a line with a camera that shows where it stands, and that fails now and then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import toy_fleet

from lwd import image
from lwd.config import CollectConfig, Experiment, FleetConfig
from lwd.robot.environment import Sensed
from lwd.robot.sim.fleet_spec import FleetSpec
from lwd.spec import CameraSpec

EYE = CameraSpec(name="eye", height=8, width=16)
SPEC = replace(toy_fleet.SPEC, name="seeing-line", cameras=(EYE,))
MISSING, RESIZED = 1, 2
"""Seeds whose rest by division by four has this camera lose a picture, or change its size, on the way."""


def shade(x: float) -> int:
    """What the camera shows at x."""
    return int(np.clip(40 + 80 * x, 0, 255))


class SeeingLine(toy_fleet.Line):
    spec = SPEC

    def _sensed(self) -> Sensed:
        shape = (8, 16, 3) if self.seed % 4 != RESIZED or self.k < 3 else (16, 8, 3)
        pictures = {"eye": image.encode(np.full(shape, shade(self.x), np.uint8))}
        if self.seed % 4 == MISSING and self.k == 3:
            pictures = {}
        return Sensed(super()._sensed().proprio, pictures)


def seeing(spec: FleetSpec) -> Any:
    return SeeingLine(), {"expert": toy_fleet.Walker(1.0)}


def experiment() -> Experiment:
    """Eight demonstrations, two of each kind of seed; batches see pictures of [12, 12, 3]."""
    x, fleet = toy_fleet.experiment(), FleetSpec(tier="seeing_fleet:seeing")
    return replace(
        x,
        fleet=FleetConfig(deployed=fleet, demonstrated=fleet, robots=4, workers=1),
        collect=CollectConfig(demos={"expert": 4}, play=0, rollouts=0),
        model=replace(x.model, image_side=12),
    )
