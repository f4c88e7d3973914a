"""A VLA of a few thousand numbers, batches for it, and its three stages: for tests of the learner."""

from __future__ import annotations

import functools
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from lwd.learner.divl import DivlConfig
from lwd.learner.method import Lwd
from lwd.learner.optimizers import OptimizerConfig
from lwd.learner.qam import QamConfig
from lwd.learner.trainable import Trainable
from lwd.models.normalizer import Normalizer
from lwd.models.vla.config import GemmaConfig, PiConfig, SiglipConfig
from lwd.models.vla.networks import VlaModel
from lwd.spec import CameraSpec, RobotSpec
from lwd.transition import Observation, Transition

SPEC = RobotSpec(
    name="seer",
    proprio_dim=3,
    action_dim=2,
    control_hz=10.0,
    chunk_steps=3,
    cameras=(CameraSpec(name="front", height=28, width=28),),
)
MODEL = VlaModel(
    policy=PiConfig(
        vision=SiglipConfig(image=28, patch=14, width=16, depth=2, mlp=24, heads=2),
        language=GemmaConfig(width=24, depth=2, mlp=40, heads=4, kv_heads=1, head_dim=8),
        expert=GemmaConfig(width=16, depth=2, mlp=32, heads=4, kv_heads=1, head_dim=8),
        vocabulary=260,
        action_dim=4,
        prompt="bytes",
        prompt_tokens=48,
    ),
    flow_steps=3,
)
NETWORKS = MODEL.for_robot(SPEC)
NORMALIZER = Normalizer(jnp.array([0.1, 0.0, -0.1]), jnp.array([1.0, 2.0, 0.5]))
OPTIMIZER = OptimizerConfig(learning_rate=3e-3, decay_steps=1000, warmup_steps=1)
OFFLINE = Lwd(
    policy=OPTIMIZER,
    critic=OPTIMIZER,
    divl=DivlConfig(atoms=11),
    qam=QamConfig(flow_steps=2),
    batch=4,
    policy_batch=2,
    ema_rate=0.1,
    policy_ema_rate=0.1,
)
ONLINE = replace(OFFLINE, divl=DivlConfig(atoms=11, tau_base=0.9), trainable=Trainable(policy="expert"))


@functools.cache
def policy(seed=0):
    """Random, with the expert's gates open: closed ones let no gradient through. Made in one compiled function."""
    made = eqx.filter_jit(lambda key: NETWORKS.make_policy(key, NORMALIZER))(jax.random.key(seed))
    rng = np.random.default_rng(seed)

    def open_gates(leaf):
        drawn = 0.3 * rng.standard_normal(leaf.shape)
        return leaf if np.any(leaf) else jnp.asarray(drawn, leaf.dtype)

    return eqx.tree_at(lambda n: n.normalizer, jax.tree.map(open_gates, made), NORMALIZER)


@functools.cache
def critic(seed=9):
    """Value of 11 atoms, and critic."""
    return eqx.filter_jit(lambda key: NETWORKS.make_critic(key, NORMALIZER, 11))(jax.random.key(seed))


def batches(steps, size, seed=0):
    """Pictures, prompts and chunks; chunks are all at 0.7 or all at -0.7, and the picture is brighter on that side."""
    rng = np.random.default_rng(seed)
    axes = (steps, size)
    side = rng.integers(0, 2, axes)
    prompts = NETWORKS.prompts(policy())

    def observation(side):
        proprio = rng.standard_normal((*axes, 3)).astype(np.float32)
        pictures = rng.integers(0, 60, (*axes, 28, 28, 3)).astype(np.uint8)
        pictures[..., :14, :] += (150 * side).astype(np.uint8)[..., None, None, None]
        pictures[..., 14:, :] += (150 * (1 - side)).astype(np.uint8)[..., None, None, None]
        ids = prompts(["go"] * side.size, proprio.reshape(-1, 3))["bytes"].reshape(*axes, -1)
        return Observation(proprio, np.zeros((*axes, 8), np.float32), {"front": pictures}, {"bytes": ids})

    direction = np.where(side == 1, 0.7, -0.7)[..., None, None]
    chunk = np.broadcast_to(direction, (*axes, 3, 2)).astype(np.float32)
    drawn = Transition(
        observation=observation(side),
        chunk=chunk,
        valid=np.ones((*axes, 3), bool),
        reward=(side * 0.5).astype(np.float32),
        discount=np.full(axes, 0.5, np.float32),
        next_observation=observation(side),
        intervention=np.zeros(axes, bool),
        exemplary=np.ones(axes, bool),
        task=np.zeros(axes, np.int32),
    )
    return jax.tree.map(jnp.asarray, drawn)


def one_batch(size=4, seed=0):
    return jax.tree.map(lambda x: x[0], batches(1, size, seed))
