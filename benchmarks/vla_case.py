"""A learner step of the VLA on random weights and pictures, by the learner's own functions: what `bench_vla_step` times and
what the tests of `lwd plan` count.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import numpy as np

from lwd.learner.clone import CloneConfig, CloneState, clone_update, init_clone
from lwd.learner.optimizers import OptimizerConfig
from lwd.learner.plan.networks import Stage
from lwd.learner.qam import QamConfig
from lwd.learner.state import LearnerConfig, LearnerState, init_state
from lwd.learner.trainable import Trainable
from lwd.learner.update import update
from lwd.models.mlp import Normalizer
from lwd.models.vla.config import PiConfig, VlaCriticConfig
from lwd.models.vla.critic import VlaCritic
from lwd.models.vla.pi05 import PiPolicy
from lwd.transition import Observation, Transition

OPTIMIZER = OptimizerConfig(learning_rate=2e-5, decay_steps=40_000)
CLONE = CloneConfig(policy=OPTIMIZER, policy_ema_rate=0.005)


def settings(stage: Stage, batch: int = 1, flow_steps: int = 10) -> LearnerConfig:
    """Algorithm 2 on whole batches; online only the action expert trains."""
    return LearnerConfig(
        policy=OPTIMIZER,
        critic=OPTIMIZER,
        qam=QamConfig(flow_steps=flow_steps),
        batch=batch,
        policy_batch=batch,
        trainable=Trainable(policy="expert" if stage == "online" else "all"),
    )


def start(policy: PiPolicy, critic: VlaCritic, stage: Stage) -> CloneState | LearnerState:
    """Where a stage begins; the SFT stage has no critic."""
    return init_clone(CLONE, policy) if stage == "sft" else init_state(settings(stage), policy, critic)


def learner_step(
    state: Any, reference: PiPolicy, batch: Transition, key: jax.Array, *, stage: Stage, flow_steps: int
) -> tuple[Any, dict[str, jax.Array]]:
    """One learner step: flow matching, or Algorithm 2."""
    if stage == "sft":
        return clone_update(CLONE, state, batch, key)
    return update(settings(stage, batch.reward.shape[0], flow_steps), reference, state, batch, key)


def random_batch(policy: PiConfig, critic: VlaCriticConfig, size: int, prompt_tokens: int) -> Transition:
    """Pictures of every camera and full prompts, so that no token is padding."""
    rng = np.random.default_rng(0)
    steps, action_dim, side = critic.chunk_steps, critic.action_dim, policy.vision.image
    lengths = {critic.prompt: (prompt_tokens, critic.vocabulary)}
    lengths |= {policy.prompt: (policy.prompt_tokens, policy.vocabulary)}

    def observation() -> Observation:
        return Observation(
            proprio=rng.normal(size=(size, critic.proprio_dim)).astype(np.float32),
            instruction=np.zeros((size, 1), np.float32),
            images={
                camera: rng.integers(0, 256, (size, side, side, 3)).astype(np.uint8)
                for camera in policy.cameras
            },
            prompts={
                name: rng.integers(1, vocabulary, (size, length)).astype(np.int32)
                for name, (length, vocabulary) in lengths.items()
            },
        )

    return Transition(
        observation=observation(),
        chunk=rng.uniform(-1, 1, (size, steps, action_dim)).astype(np.float32),
        valid=np.ones((size, steps), np.bool_),
        reward=np.zeros(size, np.float32),
        discount=np.full(size, 0.99, np.float32),
        next_observation=observation(),
        intervention=np.zeros(size, np.bool_),
        exemplary=np.ones(size, np.bool_),
        task=np.zeros(size, np.int32),
    )


def make_policy(config: PiConfig, proprio_dim: int) -> PiPolicy:
    """Random weights, made on the device."""
    return eqx.filter_jit(PiPolicy.init)(jax.random.key(0), config, Normalizer.identity(proprio_dim))


def make_critic(config: VlaCriticConfig) -> VlaCritic:
    """Random weights, made on the device."""
    return eqx.filter_jit(VlaCritic.init)(jax.random.key(1), config, Normalizer.identity(config.proprio_dim))
