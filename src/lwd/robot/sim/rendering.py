"""Cameras of a simulated robot: MuJoCo drawn in software, without a display, as JPEG. Only robots with cameras load this.

The drawing context is made here by name rather than by MuJoCo's own choice, which is fixed for the whole process by
MUJOCO_GL when mujoco is first imported; state tasks run with MUJOCO_GL=disabled and need no GL library at all.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import os
import weakref
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from lwd import image
from lwd.errors import ConfigError, UnknownNameError
from lwd.robot.sim.scene_model import mujoco
from lwd.spec import CameraSpec

BACKENDS = {"egl": "libEGL.so.1", "osmesa": "libOSMesa.so.8"}
"""MuJoCo's two ways to draw without a display, the preferred one first, and the library each needs."""

_SLOW_FLAGS = ("mjRND_SHADOW", "mjRND_REFLECTION", "mjRND_SKYBOX")
_GROUPS = (1, 1, 0, 1, 0, 0)
"""Geometry groups drawn: the workspace and the arm's collision shapes instead of its meshes, at half the cost."""


def backend() -> str | None:
    """How this machine can draw: what MUJOCO_GL names, or the first whose library is installed; None for not at all."""
    wanted = os.environ.get("MUJOCO_GL", "")
    return next((name for name in ([wanted] if wanted in BACKENDS else BACKENDS) if _installed(name)), None)


@lru_cache(maxsize=4)
def cameras_of(shared: Any, cameras: tuple[CameraSpec, ...]) -> Cameras:
    """The process's cameras of a shared model (`SceneModel`); one context serves all robots of the process."""
    return Cameras(shared.model, cameras)


class Cameras:
    """Draws fixed cameras of one model. Use it from one thread.

    Without shadows, reflections, sky and multisampling, each of which multiplies the time in software; the same state gives
    the same bytes on the same machine, not on every machine.

    Args:
        model: a MuJoCo model; its off-screen buffer is enlarged to fit.
        cameras: what to draw, by the names that the model gives them.

    Raises:
        UnknownNameError: the model has no such camera.
        ConfigError: this machine has no library to draw with.
    """

    def __init__(self, model: Any, cameras: Sequence[CameraSpec]) -> None:
        known = [str(model.camera(i).name) for i in range(int(model.ncam))]
        for camera in cameras:
            if camera.name not in known:
                raise UnknownNameError("camera", camera.name, known)
        height, width = max(c.height for c in cameras), max(c.width for c in cameras)
        self._model = model
        self._context = _context(width, height)
        self._context.make_current()
        # All of these must be set before the MjrContext is made.
        model.vis.quality.offsamples, model.vis.quality.shadowsize = 0, 0
        model.vis.global_.offheight, model.vis.global_.offwidth = height, width
        self._drawing = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._drawing)
        self._scene = mujoco.MjvScene(model, maxgeom=2000)
        for flag in _SLOW_FLAGS:
            self._scene.flags[int(getattr(mujoco.mjtRndFlag, flag))] = 0
        self._option = mujoco.MjvOption()
        self._option.geomgroup[:] = _GROUPS
        self._views = [(spec, self._view(spec)) for spec in cameras]
        # At the latest before the process ends: mujoco's own clean-up comes when its modules are already taken apart. And not
        # with weakref's other finalizers, which may come after the end of EGL itself: what is registered last is called first.
        free = weakref.finalize(self, _free, self._context, self._drawing)
        free.atexit = False
        atexit.register(free)

    def draw(self, data: Any) -> dict[str, image.Pixels]:
        """Pixels [h, w, 3] of every camera, for a state whose kinematics are up to date."""
        self._context.make_current()
        every = mujoco.mjtCatBit.mjCAT_ALL.value
        drawn: dict[str, image.Pixels] = {}
        for spec, view in self._views:
            pixels = np.empty((spec.height, spec.width, 3), np.uint8)
            place = mujoco.MjrRect(0, 0, spec.width, spec.height)
            mujoco.mjv_updateScene(self._model, data, self._option, None, view, every, self._scene)
            mujoco.mjr_render(place, self._scene, self._drawing)
            mujoco.mjr_readPixels(pixels, None, place, self._drawing)
            drawn[spec.name] = pixels[::-1]  # GL counts rows from below
        return drawn

    def jpegs(self, data: Any) -> dict[str, bytes]:
        """The same as JPEG."""
        return {name: image.encode(pixels) for name, pixels in self.draw(data).items()}

    def _view(self, spec: CameraSpec) -> Any:
        view = mujoco.MjvCamera()
        view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        view.fixedcamid = self._model.camera(spec.name).id
        return view


def _context(width: int, height: int) -> Any:
    chosen = backend()
    if chosen is None:
        raise ConfigError(
            "Drawing cameras needs EGL or OSMesa, and neither is installed: "
            "apt-get install libegl1 libgl1-mesa-dri (or libosmesa6)."
        )
    try:
        return importlib.import_module(f"mujoco.{chosen}").GLContext(width, height)
    except (ImportError, RuntimeError, AttributeError) as error:
        raise ConfigError(
            f"Drawing cameras by {chosen} failed: {error}. Software drawing needs libgl1-mesa-dri; "
            f"MUJOCO_GL={'osmesa' if chosen == 'egl' else 'egl'} asks for the other way."
        ) from error


def _free(context: Any, drawing: Any) -> None:
    context.make_current()
    drawing.free()
    context.free()


def _installed(name: str) -> bool:
    try:
        ctypes.CDLL(BACKENDS[name])
    except OSError:
        return False
    return True
