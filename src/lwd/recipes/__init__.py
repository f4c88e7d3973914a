"""Named experiments. `lwd show --recipe NAME` prints one; `package.module:function` names one of your own."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping

from lwd.config import Experiment
from lwd.errors import ConfigError, UnknownNameError
from lwd.recipes.conditions import (
    metaworld_no_hurry,
    metaworld_shifted,
    metaworld_shifted_no_hurry,
    scene_no_hurry,
    scene_unshifted,
)
from lwd.recipes.evidence import (
    metaworld_quick,
    scene_evidence,
    scene_evidence_quick,
    scene_hours,
)
from lwd.recipes.fast import metaworld, metaworld50, metaworld_hours
from lwd.recipes.once_more import scene_in_turns, scene_once_more, scene_refitted_once_more
from lwd.recipes.pixels import scene_pixels, scene_pixels_quick, scene_vla
from lwd.recipes.search import metaworld_search
from lwd.recipes.sim import quick, scene

RECIPES: Mapping[str, Callable[[int], Experiment]] = {
    "scene": scene,
    "scene_quick": quick,
    "scene_once_more": scene_once_more,
    "scene_refitted_once_more": scene_refitted_once_more,
    "scene_in_turns": scene_in_turns,
    "scene_pixels": scene_pixels,
    "scene_pixels_quick": scene_pixels_quick,
    "scene_vla": scene_vla,
    "scene_evidence": scene_evidence,
    "scene_hours": scene_hours,
    "scene_no_hurry": scene_no_hurry,
    "scene_unshifted": scene_unshifted,
    "scene_evidence_quick": scene_evidence_quick,
    "metaworld": metaworld,
    "metaworld_hours": metaworld_hours,
    "metaworld_shifted": metaworld_shifted,
    "metaworld_no_hurry": metaworld_no_hurry,
    "metaworld_shifted_no_hurry": metaworld_shifted_no_hurry,
    "metaworld50": metaworld50,
    "metaworld_quick": metaworld_quick,
    "metaworld_search": metaworld_search,
}


def recipe(name: str, seed: int = 0) -> Experiment:
    """The experiment of this name.

    Args:
        name: one of RECIPES, or "package.module:function": a function of the seed, importable here.
        seed: of everything random.

    Raises:
        UnknownNameError: there is none; the nearest name is in the message.
        ConfigError: the function cannot be imported, or returns something else.
    """
    module, _, function = name.partition(":")
    if not function:
        if name not in RECIPES:
            raise UnknownNameError("recipe", name, RECIPES)
        return RECIPES[name](seed)
    try:
        made = getattr(importlib.import_module(module), function)(seed)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"recipe {name!r} cannot be imported: {error}. Is its folder on PYTHONPATH?"
        ) from error
    if not isinstance(made, Experiment):
        raise ConfigError(f"recipe {name!r} returned {type(made).__name__}, expected lwd.config.Experiment.")
    return made
