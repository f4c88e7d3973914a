"""Learner steps per second of Algorithm 2, at the sizes of spec/qam.md part D: 10 flow steps, chunks of D = 25.

The public QAM code on this kind of machine does 50 steps/s at (2x256, batch 64) and 1.3 at (4x512, 10 critics, batch 256);
it is not committed here, so the ratios are to those figures and not within one run.
"""

from __future__ import annotations

import time
from dataclasses import replace

import jax
import numpy as np

from lwd.fleet.training import own
from lwd.learner.optimizers import OptimizerConfig
from lwd.learner.stages import critic_stage, rl_stage, run_block
from lwd.learner.state import LearnerConfig, init_state
from lwd.models.mlp import MlpConfig, MlpCritic, MlpPolicy, Normalizer
from lwd.transition import Observation, Transition

SIZES = {
    "2x256_batch_64": (256, 2, 2, 64, 100),
    "3x256_batch_256": (256, 3, 2, 256, 20),
    "4x512_10_critics_batch_256": (512, 4, 10, 256, 3),
}
PROPRIO, INSTRUCTION, CHUNK, ACTION = 40, 32, 5, 5
REPEATS = 3


def main() -> dict[str, float]:
    results: dict[str, float] = {}
    for name, (width, depth, heads, batch, block) in SIZES.items():
        model = MlpConfig(
            proprio_dim=PROPRIO,
            instruction_dim=INSTRUCTION,
            chunk_steps=CHUNK,
            action_dim=ACTION,
            width=width,
            depth=depth,
            heads=heads,
        )
        optimizer = OptimizerConfig(learning_rate=3e-4, decay_steps=10_000)
        config = LearnerConfig(policy=optimizer, critic=optimizer, batch=batch, policy_batch=batch)
        config = replace(config, divl=replace(config.divl, atoms=model.atoms))
        normalizer = Normalizer.identity(PROPRIO)
        policy = MlpPolicy.init(jax.random.key(0), model, normalizer)
        critic = MlpCritic.init(jax.random.key(1), model, normalizer)
        results[f"{name}_steps_per_s"] = _rate(rl_stage(config, policy), config, policy, critic, block)
        if name == "3x256_batch_256":
            results[f"{name}_critic_only_steps_per_s"] = _rate(
                critic_stage(config), config, policy, critic, 4 * block
            )
    results["2x256_batch_64_ratio_to_public_qam"] = results["2x256_batch_64_steps_per_s"] / 50.0
    results["4x512_ratio_to_public_qam"] = results["4x512_10_critics_batch_256_steps_per_s"] / 1.3
    return results


def _rate(update: object, config: LearnerConfig, policy: MlpPolicy, critic: MlpCritic, block: int) -> float:
    """Best of a few blocks, after one that compiles."""
    state, key = own(init_state(config, policy, critic)), jax.random.key(2)
    rates = []
    for _ in range(REPEATS + 1):
        batches = _batches(block, config.batch)
        began = time.perf_counter()
        state, metrics = run_block(update, state, batches, key)  # type: ignore[arg-type]
        jax.block_until_ready((state, metrics))
        rates.append(block / (time.perf_counter() - began))
    return max(rates[1:])


def _batches(count: int, batch: int) -> Transition:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=(count, batch, *shape)).astype(np.float32)

    def observation() -> Observation:
        return Observation(normal(PROPRIO), normal(INSTRUCTION), {})

    return Transition(
        observation=observation(),
        chunk=np.clip(normal(CHUNK, ACTION), -1, 1),
        valid=np.ones((count, batch, CHUNK), np.bool_),
        reward=np.zeros((count, batch), np.float32),
        discount=np.full((count, batch), 0.99, np.float32),
        next_observation=observation(),
        intervention=np.zeros((count, batch), np.bool_),
        exemplary=np.ones((count, batch), np.bool_),
        task=np.zeros((count, batch), np.int32),
    )
