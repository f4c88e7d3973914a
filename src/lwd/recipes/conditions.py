"""What the deployment's conditions are against the demonstrations', varied: the starts and the time limit, in two simulators.

The benchmarks themselves keep a time limit that demonstrators did not, and the scene's also begins elsewhere.
"""

from __future__ import annotations

from dataclasses import replace

from lwd.config import Experiment
from lwd.recipes.evidence import scene_evidence
from lwd.recipes.fast import metaworld

DEMONSTRATED_STARTS = (0.0, 0.5)
"""Of the shifted fast tier: people demonstrate in the lower half of each side of Meta-World's boxes of places."""


def metaworld_shifted(seed: int = 0) -> Experiment:
    """The fast tier, demonstrated in a corner of the starts that its robots meet."""
    return replace(_demonstrated_in_a_corner(metaworld(seed)), name="metaworld_shifted")


def metaworld_no_hurry(seed: int = 0) -> Experiment:
    """The fast tier with the demonstrators' time limits in the deployment too: its conditions are the demonstrations'."""
    return replace(_without_hurry(metaworld(seed)), name="metaworld_no_hurry")


def metaworld_shifted_no_hurry(seed: int = 0) -> Experiment:
    """Both: other starts than the demonstrations', their time limits."""
    x = _without_hurry(_demonstrated_in_a_corner(metaworld(seed)))
    return replace(x, name="metaworld_shifted_no_hurry")


def scene_no_hurry(seed: int = 0) -> Experiment:
    """The scene's evidence with the demonstrators' time limits in the deployment too; its starts stay shifted."""
    return replace(_without_hurry(scene_evidence(seed)), name="scene_no_hurry")


def scene_unshifted(seed: int = 0) -> Experiment:
    """The scene's evidence with the demonstrations' starts in the deployment too; its time limits stay."""
    x = scene_evidence(seed)
    deployed = replace(x.fleet.deployed, conditions=x.fleet.demonstrated.conditions)
    return replace(x, name="scene_unshifted", fleet=replace(x.fleet, deployed=deployed))


def _demonstrated_in_a_corner(x: Experiment) -> Experiment:
    demonstrated = replace(x.fleet.demonstrated, starts=DEMONSTRATED_STARTS)
    return replace(x, fleet=replace(x.fleet, demonstrated=demonstrated))


def _without_hurry(x: Experiment) -> Experiment:
    deployed = replace(x.fleet.deployed, time_limits=x.fleet.demonstrated.time_limits)
    return replace(x, fleet=replace(x.fleet, deployed=deployed))
