"""OGBench's environment as a robot: chunks of the policy carried out open loop, and episodes that are judged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import gymnasium
import jax
import numpy as np
import ogbench.manipspace  # noqa: F401  # pyright: ignore  # registers the environments
from gymnasium import logger
from jaxtyping import PRNGKeyArray

from lwd.learner.flow import draw_chunk
from lwd.models.protocols import LearnedPolicy
from lwd.results.ogbench.data import observed
from lwd.results.ogbench.tasks import CHUNK_STEPS, Task
from lwd.transition import Observation

Act = Callable[[Any, PRNGKeyArray], Any]
"""Observation [P] and key to a chunk [H, A] in [-1, 1]."""


def make(name: str, **how: Any) -> Any:
    """One of OGBench's environments. Gymnasium's warnings are turned off: each look at an action space would print one."""
    logger.min_level = logger.ERROR
    return gymnasium.make(name, disable_env_checker=True, **how)


def make_environment(task: Task) -> Any:
    """The single-task environment: it ends with success, which is judged before the step."""
    return make(task.environment)


@eqx.filter_jit
def _chunk(
    policy: LearnedPolicy, observation: Observation, key: PRNGKeyArray, actions: int, flow_steps: int
) -> Any:
    return draw_chunk(policy, observation, key, (CHUNK_STEPS, actions), flow_steps)


def acting(policy: LearnedPolicy, actions: int, flow_steps: int) -> Act:
    """The policy as a robot runs it."""
    return lambda proprio, key: np.asarray(_chunk(policy, observed(proprio), key, actions, flow_steps))


def evaluate(env: Any, act: Act, episodes: int, first_seed: int) -> int:
    """How many of the episodes ended in success; always from the same starts, with the same noise."""
    successes = 0
    for seed in range(first_seed, first_seed + episodes):
        proprio, _ = env.reset(seed=seed)
        key, done, info = jax.random.key(seed), False, {"success": False}
        step = 0
        while not done:
            for action in act(proprio, jax.random.fold_in(key, step)):
                proprio, _, terminated, truncated, info = env.step(action)
                step += 1
                if done := bool(terminated or truncated):
                    break
        successes += bool(info["success"])
    return successes
