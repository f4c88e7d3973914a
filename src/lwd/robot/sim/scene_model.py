"""The compiled scene and its arm controller, once per process, with every name looked up once.

The numbers are ogbench's own (1.2.2): same model, same controller, same order of floating-point operations, so that
`SceneEnvironment` follows the stock environment bit for bit; a test compares them. What is left out is repeated work.
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from typing import Any

import mujoco as _mujoco
import numpy as np
from numpy.typing import NDArray

mujoco: Any = _mujoco
"""MuJoCo's bindings are compiled and carry no types."""
Quaternion = tuple[float, float, float, float]
HOME_QPOS = np.array([-np.pi / 2, -np.pi / 2, np.pi / 2, -np.pi / 2, -np.pi / 2, 0])
GRIPPER_DOWN: Quaternion = (0.0, 1.0, 0.0, 0.0)
PHYSICS_STEPS = 25
"""Physics steps of 2 ms per control step of 50 ms."""
LOCKED_DAMPING, FREE_DAMPING = 1e6, 2.0


class SceneModel:
    """The shared model. Not for use from several threads: buttons change joint damping and colours in place, set before each
    step and each drawing.

    Attributes:
        stock: the ogbench environment that compiled it; oracles read their sampling bounds from it.
        model: the MuJoCo model; every robot of the process steps its own MjData with it.
    """

    def __init__(self) -> None:
        with warnings.catch_warnings():
            # Importing ogbench imports GLFW, which warns when there is no display; nothing is drawn here.
            warnings.simplefilter("ignore")
            from ogbench.manipspace.envs.scene_env import SceneEnv

            # As ogbench's own pixel tasks: else pictures show where a cube is to go, and one that lies there is pale.
            self.stock: Any = SceneEnv("scene", visualize_info=False)
            nothing = np.array([0, 0])
            place = {"block_xyzs": np.array([[0.4, 0.0, 0.02]]), "button_states": nothing}
            side = {**place, "drawer_pos": 0.0, "window_pos": 0.0}
            # A task_info is given because a reset without one draws from the global random state.
            self.stock.reset(options={"task_info": {"task_name": "compile", "init": side, "goal": side}})
        self.model: Any = self.stock.model
        model = self.model
        leave_fixtures_alone(model)
        self.pinch_site: int = model.site("ur5e/robotiq/pinch").id
        self.pad_body: int = model.body("ur5e/robotiq/right_pad").id
        self.drawer_site: int = model.site("drawer_handle_center").id
        self.window_site: int = model.site("window_handle_center").id
        self.button_sites: tuple[int, int] = (model.site("btntop_0").id, model.site("btntop_1").id)
        joints = ("object_joint_0", "buttonbox_joint_0", "buttonbox_joint_1", "drawer_slide", "window_slide")
        qpos = [int(model.jnt_qposadr[model.joint(name).id]) for name in joints]
        qvel = [int(model.jnt_dofadr[model.joint(name).id]) for name in joints]
        self.cube_q, self.button_q, self.drawer_q, self.window_q = (
            qpos[0],
            (qpos[1], qpos[2]),
            qpos[3],
            qpos[4],
        )
        self.button_v, self.drawer_v, self.window_v = (qvel[1], qvel[2]), qvel[3], qvel[4]
        self.gripper_q: int = int(model.jnt_qposadr[model.joint("ur5e/robotiq/right_driver_joint").id])
        self._damping: NDArray[np.float64] = model.dof_damping
        self._geom_rgba: NDArray[np.float32] = model.geom_rgba
        self._material_rgba: NDArray[np.float32] = model.mat_rgba
        self._button_geoms: tuple[int, int] = (model.geom("btngeom_0").id, model.geom("btngeom_1").id)
        self._handles: tuple[int, int] = (
            model.material("drawer_handle").id,
            model.material("window_handle").id,
        )
        self._lock_rgba = np.array([self.stock._colors[name] for name in ("red", "white")], np.float32)
        attach: Any = self.stock._T_pa
        self._attach_rotation: Quaternion = _floats(attach.rotation().wxyz)
        self._attach_translation: Quaternion = (0.0, *_floats(attach.translation()))
        self._ik = _ArmInverseKinematics(self.stock._ik)
        self._quat = np.empty(4)

    def set_locks(self, buttons: tuple[int, int]) -> None:
        """Lock or free drawer and window; the model is shared, so this is due before every robot's step."""
        self._damping[self.drawer_v] = FREE_DAMPING if buttons[0] else LOCKED_DAMPING
        self._damping[self.window_v] = FREE_DAMPING if buttons[1] else LOCKED_DAMPING

    def show_locks(self, buttons: tuple[int, int]) -> None:
        """Colour each button and the handle that it frees, red when locked and white when free; due before every drawing."""
        for on, geom, handle in zip(buttons, self._button_geoms, self._handles, strict=True):
            self._geom_rgba[geom] = self._material_rgba[handle] = self._lock_rgba[on]

    def yaw(self, rotation: NDArray[np.float64]) -> np.float64:
        """Yaw (rad) of a site's rotation matrix [9]."""
        mujoco.mju_mat2Quat(self._quat, rotation)
        return yaw_of(_floats(self._quat))

    def arm_target(
        self, position: NDArray[np.float64], yaw: float, arm_qpos: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Joint positions [6] that bring the gripper to a position [3] (m) and yaw (rad), searched from `arm_qpos`."""
        rotation = multiply(rotation_z(yaw), GRIPPER_DOWN)
        turned = multiply(multiply(rotation, self._attach_translation), _inverse(rotation))
        target = np.array(turned[1:]) + position
        return self._ik.solve(target, multiply(rotation, self._attach_rotation), arm_qpos)


def leave_fixtures_alone(model: Any) -> None:
    """Test no fixture (button, drawer, window) against the floor or another fixture: each slides where it cannot touch them.

    Each gets a collision bit of its own, which its own parts share, so that its end stops stay. What touches what is unchanged,
    and a fleet makes a tenth more control steps a second: most of physics was collision detection, much of it between these.
    """
    movable = [model.body(name).id for name in ("ur5e/", "object_0")]
    bits: dict[int, int] = {}
    for geom in np.flatnonzero(model.geom_contype == 1):
        body = int(model.geom_bodyid[geom])
        root = int(model.body_rootid[body])
        if root in movable:
            continue
        own = 0 if root == 0 else bits.setdefault(root, 4 << len(bits))  # 1 and 2 are ogbench's
        model.geom_contype[geom], model.geom_conaffinity[geom] = own, 1 | own
    for body in range(model.nbody):  # the broad phase looks at these
        mine = model.geom_bodyid == body
        model.body_contype[body] = np.bitwise_or.reduce(model.geom_contype[mine], initial=0)
        model.body_conaffinity[body] = np.bitwise_or.reduce(model.geom_conaffinity[mine], initial=0)


@lru_cache(maxsize=1)
def scene_model() -> SceneModel:
    """The process's one compiled scene (2 s and 0.4 GB the first time, nothing afterwards)."""
    return SceneModel()


class _ArmInverseKinematics:
    """ogbench's differential inverse kinematics with one site, without its per-call overhead."""

    _MAX_ANGLE = float(np.radians(45))
    _TOLERANCE = 1e-4

    def __init__(self, stock: Any) -> None:
        self._model, self._data = stock._model, stock._data
        self._site = int(stock._site_ids[0])
        self._qpos: NDArray[np.float64] = self._data.qpos
        self._position: NDArray[np.float64] = self._data.site_xpos[self._site]
        self._rotation: NDArray[np.float64] = self._data.site_xmat[self._site]
        self._jac: NDArray[np.float64] = np.empty((6, self._model.nv))
        self._damping: NDArray[np.float64] = stock._damping
        self._err = np.empty(6)
        self._quat, self._inverse, self._difference = np.empty(4), np.empty(4), np.empty(4)

    def solve(
        self, position: NDArray[np.float64], quat: Quaternion, qpos: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Newton steps from `qpos` [6] until within 0.1 mm and 0.1 mrad, at most 20."""
        model, data, jac, err = self._model, self._data, self._jac, self._err
        wanted = np.array(quat)
        self._qpos[:] = qpos
        for _ in range(20):
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            err[:3] = position - self._position
            mujoco.mju_mat2Quat(self._quat, self._rotation)
            mujoco.mju_negQuat(self._inverse, self._quat)
            mujoco.mju_mulQuat(self._difference, wanted, self._inverse)
            mujoco.mju_quat2Vel(err[3:], self._difference, 1.0)
            e = err.tolist()
            if math.hypot(*e[:3]) <= self._TOLERANCE and math.hypot(*e[3:]) <= self._TOLERANCE:
                break
            mujoco.mj_jacSite(model, data, jac[:3], jac[3:], self._site)
            update = jac.T @ np.linalg.solve(jac @ jac.T + self._damping, err)
            largest = np.max(np.abs(update))
            if largest > self._MAX_ANGLE:
                update *= self._MAX_ANGLE / largest
            mujoco.mj_integratePos(model, self._qpos, update, 1.0)
        return self._qpos.copy()


def multiply(a: Quaternion, b: Quaternion) -> Quaternion:
    """Quaternion product, terms in ogbench's order so that the last bit agrees."""
    w0, x0, y0, z0 = a
    w1, x1, y1, z1 = b
    return (
        -x0 * x1 - y0 * y1 - z0 * z1 + w0 * w1,
        x0 * w1 + y0 * z1 - z0 * y1 + w0 * x1,
        -x0 * z1 + y0 * w1 + z0 * x1 + w0 * y1,
        x0 * y1 - y0 * x1 + z0 * w1 + w0 * z1,
    )


def rotation_z(yaw: float) -> Quaternion:
    """The quaternion of a turn about z, with ogbench's series for tiny angles."""
    squared = yaw * yaw
    if squared < 1e-10:
        quartic = squared * squared
        real, factor = 1.0 - squared / 8.0 + quartic / 384.0, 0.5 - squared / 48.0 + quartic / 3840.0
        return (real, 0.0, 0.0, factor * yaw)
    angle = np.sqrt(squared)
    return (float(np.cos(0.5 * angle)), 0.0, 0.0, float(np.sin(0.5 * angle) / angle * yaw))


def yaw_of(q: Quaternion) -> np.float64:
    """Yaw (rad) of a quaternion; numpy's arctan2, whose last bit may differ from math.atan2."""
    return np.arctan2(2 * (q[0] * q[3] + q[1] * q[2]), 1 - 2 * (q[2] ** 2 + q[3] ** 2))


def _inverse(q: Quaternion) -> Quaternion:
    return (q[0], -q[1], -q[2], -q[3])


def _floats(array: NDArray[np.float64]) -> Any:
    return tuple(array.tolist())
