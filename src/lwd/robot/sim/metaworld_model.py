"""Meta-World's simulators without what is only drawn: each XML compiled once per process, copied for each robot.

Built the stock way, a simulator takes 0.15 s and 25 MB, mostly meshes and textures that nobody looks at; fifty tasks for eight
robots would be 10 GB. Without them it takes 5 ms and 3 MB, so a robot builds one whenever its task changes and keeps no other.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any

import mujoco as _mujoco

from lwd.errors import RobotError
from lwd.robot.sim.fleet_spec import EVERYWHERE

mujoco: Any = _mujoco
"""MuJoCo's bindings are compiled and carry no types."""

_DRAWS = 1000
"""Of an episode's places before it is an error; of a whole box ten are enough."""


def build(task: str, starts: tuple[float, float] = EVERYWHERE) -> Any:
    """A new simulator of one task, for one robot alone; places are drawn from this part of each side of the task's box.

    Its reset raises RobotError where such places are never as far apart as the task wants them.
    """
    with quiet():
        sim = prepared(_bare(task)())
    if starts != EVERYWHERE:  # the bounds as they are, to the last bit
        box = sim._random_reset_space
        low, high = (box.low + share * (box.high - box.low) for share in starts)
        sim._random_reset_space = type(box)(low, high, dtype=box.dtype)
    return sim


def prepared(sim: Any) -> Any:
    """One of Meta-World's own simulators, made to draw its goals from its own seeded generator and to show them."""
    sim._freeze_rand_vec, sim.seeded_rand_vec, sim._set_task_called = False, True, True
    sim.max_path_length = 10**9  # the time limit is the environment's affair
    # Built without a task it hides the goal, and caches bounds that clip it to zero.
    sim._partially_observable = False
    sim.__dict__.pop("sawyer_observation_space", None)
    return sim


def stock() -> Mapping[str, Any]:
    """Meta-World's own simulators, by its names (with "-v3")."""
    with quiet():
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    return ALL_V3_ENVIRONMENTS


def scripts() -> Mapping[str, Any]:
    """Meta-World's scripted policies, by its names (with "-v3")."""
    with quiet():
        from metaworld.policies import ENV_POLICY_MAP
    return ENV_POLICY_MAP


def quiet() -> warnings.catch_warnings[None]:
    """Meta-World warns at import, and its scripts whenever they ask for more than the robot can do."""
    return warnings.catch_warnings(action="ignore")


@cache
def _bare(task: str) -> type[Any]:
    """Meta-World's class of a task on a copy of the compiled model; a copy, because a reset moves bodies of the model."""

    def initialize(self: Any) -> tuple[Any, Any]:
        model: Any = copy.copy(_compiled(self.fullpath))
        return model, mujoco.MjData(model)

    base: type[Any] = stock()[f"{task}-v3"]

    def reset_model(self: Any) -> Any:
        self.draws = 0
        return base.reset_model(self)

    def draw(self: Any) -> Any:
        # Several tasks draw again, without an end, until two places are far enough apart.
        self.draws += 1
        if self.draws > _DRAWS:
            raise RobotError(
                f"Meta-World's {task!r} found no places far enough apart in {_DRAWS} draws. Choose a wider part of its box "
                "in FleetSpec.starts."
            )
        return base._get_state_rand_vec(self)

    own = {"_initialize_simulation": initialize, "reset_model": reset_model, "_get_state_rand_vec": draw}
    return type(base.__name__, (base,), own)


@cache
def _compiled(path: str) -> Any:
    """The model of an XML file with the dynamics of the original, bit for bit, without textures and purely visual meshes."""
    spec: Any = mujoco.MjSpec.from_file(path)
    spec.compiler.discardvisual = True
    # Meta-World asks some visual geoms where they are; what a sensor refers to is not discarded.
    kind, of = mujoco.mjtSensor.mjSENS_FRAMEPOS, mujoco.mjtObj.mjOBJ_GEOM
    for name in [geom.name for geom in spec.geoms if geom.name]:
        spec.add_sensor(type=kind, objtype=of, objname=name)
    return spec.compile()
