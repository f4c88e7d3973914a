"""Play data of our own: OGBench's planning oracles do one drawn sub-task after another, with noise on their plans.

The procedure is that of the published play sets (sub-task, stacking probability, noise 0.1 smoothed over half a step, episodes
of 1001 control steps, the scene's check that the cube stays within reach); the code and the random numbers are ours, so this is
another sample from the same distribution, of whatever size is asked for, and not the published file.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ogbench.manipspace.oracles.plan.button_plan import ButtonPlanOracle
from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle
from ogbench.manipspace.oracles.plan.drawer_plan import DrawerPlanOracle
from ogbench.manipspace.oracles.plan.window_plan import WindowPlanOracle

from lwd.errors import ConfigError
from lwd.results.ogbench.robot import make
from lwd.results.ogbench.tasks import DOMAINS
from lwd.robot.sim.global_random import global_random

NOISE, SMOOTHING = 0.1, 0.5
_LARGEST_STACKING: Mapping[str, float] = {"cube-double": 0.25}
"""Stacking probability of an episode is drawn from 0 to this; 0.5 where cubes cannot be stacked and it means nothing."""
_CUBE = slice(14, 17)
"""Position of the scene's cube in qpos."""
_TRIES = 20
BLOCK = 50
"""Episodes that a cut generation loses at most."""
_DTYPES: Mapping[str, Any] = {"terminals": bool, "button_states": np.int64}


@dataclass(frozen=True, kw_only=True)
class PlaySettings:
    """How much play.

    Attributes:
        episodes, steps: number and length of the episodes; 1000 and 1001 in the published sets.
        seed: of all its randomness; an episode's depends on the seed and its number alone.
    """

    domain: str
    episodes: int = 1000
    steps: int = 1001
    seed: int = 0

    def __post_init__(self) -> None:
        if self.domain not in DOMAINS or self.episodes < 1 or self.steps < 2:
            raise ConfigError(
                f"PlaySettings: need a domain of {', '.join(DOMAINS)}, at least one episode and two steps, got {self}."
            )

    @property
    def file_name(self) -> str:
        """Names what is in it, so that no two settings share a file."""
        return f"{self.domain}-play-own-{self.episodes}x{self.steps}-seed{self.seed}.npz"


Arrays = dict[str, NDArray[Any]]


def write_play(settings: PlaySettings, path: Path, say: Callable[[str], None] = print) -> None:
    """Generate and write a data set in the published files' form; nothing appears under `path` before it is complete.

    What is done is kept beside it every `BLOCK` episodes: cut, it goes on from there, and ends with the same file.
    """
    parts = path.with_suffix(".parts")
    parts.mkdir(parents=True, exist_ok=True)
    blocks: list[Arrays] = []
    for first in range(0, settings.episodes, BLOCK):
        numbers = range(first, min(first + BLOCK, settings.episodes))
        part = parts / f"{numbers[0]}-{numbers[-1]}-of-{settings.steps}.npz"
        try:
            with np.load(part, allow_pickle=False) as file:
                blocks.append({name: file[name] for name in file.files})
        except FileNotFoundError:
            blocks.append(generate(settings, numbers))
            _write(part, blocks[-1])
        say(f"{settings.domain}: {numbers[-1] + 1} of {settings.episodes} episodes of play")
    note = np.array(json.dumps({"made_by": "lwd", **asdict(settings)}))
    _write(path, {**_joined(blocks), "note": note})
    shutil.rmtree(parts, ignore_errors=True)


def _write(path: Path, arrays: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)  # another run may have ended, and cleared it away
    part = path.with_name(f"{path.name}.{os.getpid()}.part.npz")  # two runs may both find it missing
    np.savez_compressed(part, **arrays)  # pyright: ignore
    part.rename(path)


def _joined(several: Sequence[Arrays]) -> Arrays:
    return {name: np.concatenate([arrays[name] for arrays in several]) for name in several[0]}


def generate(settings: PlaySettings, numbers: Sequence[int] | None = None) -> Arrays:
    """Episodes in a row: observations, actions, terminals, qpos, qvel, and button_states where there are buttons.

    Args:
        settings: how they are made.
        numbers: which of the settings' episodes; all for None.
    """
    env = make(
        f"{settings.domain}-v0",
        terminate_at_goal=False,
        mode="data_collection",
        max_episode_steps=settings.steps,
    )
    oracles = _oracles(settings.domain, env)
    wanted = range(settings.episodes) if numbers is None else numbers
    try:
        found = _joined([_healthy_episode(settings, env, oracles, number) for number in wanted])
    finally:
        env.close()
    return {name: column.astype(_DTYPES.get(name, np.float32)) for name, column in found.items()}


def _oracles(domain: str, env: Any) -> dict[str, Any]:
    how: dict[str, Any] = {"env": env, "noise": NOISE, "noise_smoothing": SMOOTHING}
    if domain.startswith("puzzle"):
        return {"button": ButtonPlanOracle(**how, gripper_always_closed=True)}
    cube = {"cube": CubePlanOracle(**how)}
    if domain.startswith("cube"):
        return cube
    return {
        **cube,
        "button": ButtonPlanOracle(**how),
        "drawer": DrawerPlanOracle(**how),
        "window": WindowPlanOracle(**how),
    }


def _healthy_episode(settings: PlaySettings, env: Any, oracles: Mapping[str, Any], number: int) -> Arrays:
    for attempt in range(_TRIES):
        entropy = np.random.SeedSequence([settings.seed, number, attempt]).generate_state(2)
        with global_random(int(entropy[0])):  # the oracles draw from NumPy's global state
            episode = _episode(settings, env, oracles, int(entropy[1]))
        if settings.domain != "scene" or within_reach(episode["qpos"]):
            return episode
    raise ConfigError(
        f"{settings.domain}: episode {number} pushed the cube out of reach in {_TRIES} attempts. Try another seed."
    )


def within_reach(qpos: NDArray[Any]) -> bool:
    """Whether the scene's cube stayed in view all the time: not far right, and far left only inside the drawer."""
    y, z = qpos[:, _CUBE][:, 1], qpos[:, _CUBE][:, 2]
    in_drawer = (z >= 0.06) & (z <= 0.08)
    return not bool(np.any(y >= 0.29) or np.any((y <= -0.3) & ~in_drawer))


def _episode(settings: PlaySettings, env: Any, oracles: Mapping[str, Any], seed: int) -> Arrays:
    observation, info = env.reset(seed=seed)
    stacking = float(np.random.uniform(0.0, largest)) if (largest := _stacking(settings.domain)) else 0.5
    oracle = oracles[info["privileged/target_task"]]
    oracle.reset(observation, info)
    rows: dict[str, list[Any]] = {}
    done = False
    while not done:
        action = np.clip(np.asarray(oracle.select_action(observation, info)), -1.0, 1.0)
        following, _, terminated, truncated, info = env.step(action)
        done = bool(terminated or truncated)
        if oracle.done:  # the step's info stays; only the sub-task is new
            fresh, about = env.unwrapped.set_new_target(p_stack=stacking)
            oracle = oracles[about["privileged/target_task"]]
            oracle.reset(fresh, about)
        row = {
            "observations": observation,
            "actions": action,
            "terminals": done,
            "qpos": info["prev_qpos"],
            "qvel": info["prev_qvel"],
        }
        if "prev_button_states" in info:
            row["button_states"] = info["prev_button_states"]
        for name, value in row.items():
            rows.setdefault(name, []).append(np.array(value))
        observation = following
    return {name: np.stack(column) for name, column in rows.items()}


def _stacking(domain: str) -> float:
    return _LARGEST_STACKING.get(domain, 0.0)
