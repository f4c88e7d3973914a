"""Robot and tasks of a simulated fleet, for the processes that do not simulate."""

from __future__ import annotations

from lwd.robot.sim.fleet_spec import FleetSpec
from lwd.robot.sim.scene_tasks import with_time_limits
from lwd.spec import RobotSpec, TaskSpec


def describe(fleet: FleetSpec) -> tuple[RobotSpec, dict[str, TaskSpec]]:
    """The RobotSpec and the tasks by name, with this fleet's time limits. Builds a simulator only for a tier of your own."""
    if fleet.tier == "scene":
        from lwd.robot.sim.scene import scene_spec
        from lwd.robot.sim.scene_tasks import SCENE_TASKS

        tasks = {name: task.spec for name, task in SCENE_TASKS.items()}
        return scene_spec(fleet.cameras), fleet.chosen(with_time_limits(tasks, fleet.time_limits))
    if fleet.tier == "metaworld":
        from lwd.robot.sim.metaworld_tasks import METAWORLD_SPEC, METAWORLD_TASKS

        return METAWORLD_SPEC, fleet.chosen(with_time_limits(METAWORLD_TASKS, fleet.time_limits))
    environment, _ = fleet.build()
    try:
        return environment.spec, fleet.chosen(environment.tasks)
    finally:
        environment.close()


def operators_of(fleet: FleetSpec) -> set[str]:
    """Names of the operators of such a robot. Builds a simulator only for a tier of your own."""
    if fleet.tier in ("scene", "metaworld"):
        return {*fleet.styles, "play"} if fleet.tier == "scene" else set(fleet.styles)
    environment, operators = fleet.build()
    environment.close()
    return set(operators)
