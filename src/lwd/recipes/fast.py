"""The fast tier: eight Meta-World tasks through the same program as the demo, for tests and sweeps."""

from __future__ import annotations

from dataclasses import replace

from lwd.config import EvaluateConfig, Experiment, FleetConfig
from lwd.recipes.sim import SHAKY, scene
from lwd.robot.sim.fleet_spec import FleetSpec
from lwd.robot.sim.style import EXPERT


def metaworld(seed: int = 0) -> Experiment:
    """Eight Meta-World tasks; the scene's recipe with the other simulator."""
    base = scene(seed)
    fleet = FleetSpec(tier="metaworld", styles={"expert": EXPERT, "shaky": SHAKY})
    return replace(
        base,
        name="metaworld",
        fleet=FleetConfig(deployed=fleet, demonstrated=fleet),
        collect=replace(base.collect, play=0),
        evaluate=EvaluateConfig(episodes=20),
    )
