"""Named experiments. `lwd show NAME` prints one, `--recipe NAME` runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lwd.config import Experiment
from lwd.errors import UnknownNameError
from lwd.recipes.evidence import metaworld_quick, scene_evidence, scene_evidence_quick
from lwd.recipes.fast import metaworld, metaworld50
from lwd.recipes.sim import quick, scene

RECIPES: Mapping[str, Callable[[int], Experiment]] = {
    "scene": scene,
    "scene_quick": quick,
    "scene_evidence": scene_evidence,
    "scene_evidence_quick": scene_evidence_quick,
    "metaworld": metaworld,
    "metaworld50": metaworld50,
    "metaworld_quick": metaworld_quick,
}


def recipe(name: str, seed: int = 0) -> Experiment:
    """The experiment of this name.

    Raises:
        UnknownNameError: there is none; the nearest name is in the message.
    """
    if name not in RECIPES:
        raise UnknownNameError("recipe", name, RECIPES)
    return RECIPES[name](seed)
