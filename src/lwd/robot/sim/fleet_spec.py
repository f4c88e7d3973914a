"""What a simulated fleet consists of, as a value that can be sent to its worker processes."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

from lwd.errors import ConfigError, UnknownNameError
from lwd.robot.environment import Environment
from lwd.robot.operator import Operator
from lwd.robot.sim.scene_conditions import STOCK, Conditions
from lwd.robot.sim.style import EXPERT, HUMANLIKE, ExpertStyle
from lwd.spec import CameraSpec, TaskSpec

EVERYWHERE = (0.0, 1.0)
"""The whole of Meta-World's box of starts."""


def _styles() -> dict[str, ExpertStyle]:
    return {"expert": EXPERT, "demonstrator": HUMANLIKE}


@dataclass(frozen=True, kw_only=True)
class FleetSpec:
    """One kind of robot, the same for the whole fleet.

    Attributes:
        tier: "scene", "metaworld", or "package.module:function" for a robot of your own: a function of this FleetSpec
            that returns an Environment and its operators by name, importable in a fresh process.
        conditions: where episodes begin (scene only).
        starts: where they begin in Meta-World: the part of each side of its box of places that is used, (0, 1) for all of it.
        time_limits: control steps per task in place of the defaults.
        styles: the scripted experts by name, for `Assignment.operator`; "play" is always there in the scene.
        tasks: only these of the tier's tasks, None for all of them.
        cameras: what each robot sees (scene, and tiers of your own); empty for the state tasks.
    """

    tier: str = "scene"
    conditions: Conditions = STOCK
    starts: tuple[float, float] = EVERYWHERE
    time_limits: Mapping[str, int] = field(default_factory=dict[str, int])
    styles: Mapping[str, ExpertStyle] = field(default_factory=_styles)
    tasks: tuple[str, ...] | None = None
    cameras: tuple[CameraSpec, ...] = ()

    def __post_init__(self) -> None:
        if self.tasks is not None and not self.tasks:
            raise ConfigError("FleetSpec.tasks must name at least one task, or be None for all of them.")
        if self.cameras and self.tier == "metaworld":
            raise ConfigError("FleetSpec: the metaworld tier has no cameras; use the scene.")
        low, high = self.starts
        if not 0 <= low < high <= 1:
            raise ConfigError(
                f"FleetSpec.starts must be (low, high) with 0 <= low < high <= 1, got {self.starts}."
            )
        if self.starts != EVERYWHERE and self.tier != "metaworld":
            raise ConfigError("FleetSpec.starts is Meta-World's; the scene has conditions.")

    def chosen(self, tasks: Mapping[str, TaskSpec]) -> dict[str, TaskSpec]:
        """Those of the tier's tasks that this fleet is asked for, in the tier's order.

        Raises:
            UnknownNameError: `tasks` names one that the tier does not have.
        """
        if self.tasks is None:
            return dict(tasks)
        for name in self.tasks:
            if name not in tasks:
                raise UnknownNameError("task", name, tasks)
        return {name: task for name, task in tasks.items() if name in self.tasks}

    def build(self) -> tuple[Environment, dict[str, Operator]]:
        """One robot and its operators.

        Raises:
            ConfigError: the tier is no known name and no importable function of a FleetSpec, or returns something else.
        """
        if self.tier == "scene":
            return self._scene()
        if self.tier == "metaworld":
            return self._metaworld()
        made = self._factory()(self)
        if not (isinstance(made, tuple) and len(cast(tuple[object, ...], made)) == 2):
            raise ConfigError(
                f"FleetSpec: {self.tier!r} returned {made!r:.80}, expected an Environment and a mapping of its operators "
                "by name, which may be empty."
            )
        return cast(tuple[Environment, dict[str, Operator]], made)

    def _factory(self) -> Callable[[FleetSpec], object]:
        """The function of one's own that the tier names."""
        module, _, function = self.tier.partition(":")
        if not module or not function or module.startswith("."):
            raise ConfigError(
                f"FleetSpec: tier must be 'scene', 'metaworld' or 'package.module:function', got {self.tier!r}."
            )
        try:
            factory = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"FleetSpec: tier {self.tier!r} cannot be imported: {error}.") from error
        if not callable(factory):
            raise ConfigError(f"FleetSpec: tier {self.tier!r} is {factory!r:.80}, expected a function.")
        try:
            inspect.signature(factory).bind(self)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"FleetSpec: {self.tier!r} must be a function of one argument, the FleetSpec: {error}."
            ) from error
        return factory

    def _scene(self) -> tuple[Environment, dict[str, Operator]]:
        # Imported here, because each simulator is large and a process needs only its own.
        from lwd.robot.sim.scene import SceneEnvironment
        from lwd.robot.sim.scene_expert import PlayOperator, SceneOperator

        robot = SceneEnvironment(self.conditions, self.time_limits, self.cameras)
        operators: dict[str, Operator] = {"play": PlayOperator(robot)}
        for name, style in self.styles.items():
            operators[name] = SceneOperator(robot, style)
        return robot, operators

    def _metaworld(self) -> tuple[Environment, dict[str, Operator]]:
        from lwd.robot.sim.metaworld import MetaworldEnvironment, MetaworldOperator

        robot = MetaworldEnvironment(self.time_limits, self.starts)
        operators: dict[str, Operator] = {
            name: MetaworldOperator(robot, style) for name, style in self.styles.items()
        }
        return robot, operators
