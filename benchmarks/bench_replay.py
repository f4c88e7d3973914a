"""Transitions per second out of a memory-mapped replay, and the share of its time that a learner waits for data."""

from __future__ import annotations

import tempfile
import time

import jax
import numpy as np

from benchmarks.episodes import random_episode
from lwd.episode import Source
from lwd.fleet.training import own
from lwd.instruction import InstructionEncoder
from lwd.learner.optimizers import OptimizerConfig
from lwd.learner.stages import rl_stage, run_block
from lwd.learner.state import LearnerConfig, init_state
from lwd.models.mlp import MlpConfig, MlpCritic, MlpPolicy, Normalizer
from lwd.replay import Replay, ReplayConfig, online_rl
from lwd.replay.prefetch import Prefetcher
from lwd.replay.sampler import Sampler
from lwd.spec import RobotSpec, TaskSpec

SPEC = RobotSpec(name="bench", proprio_dim=40, action_dim=5, control_hz=20.0, chunk_steps=5)
TASKS = [
    TaskSpec(
        name=f"task{i}",
        instruction=f"do task {i}",
        milestones=("done",),
        time_limit_steps=300,
        horizon="long",
    )
    for i in range(8)
]
EPISODES, STEPS, SECONDS = 1000, 200, 2.0


def main() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        replay = Replay(folder, SPEC, TASKS, InstructionEncoder(), ReplayConfig())
        _fill(replay)
        sampler = replay.sampler(replay.view(), online_rl(), 0)
        results: dict[str, float] = {"transitions": float(EPISODES * STEPS)}
        for batch in (64, 256, 1024):
            results[f"batch_{batch}_transitions_per_s"] = _rate(sampler, batch)
        results["learner_wait_share"] = _wait_share(sampler)
        replay.close()
    return results


def _rate(sampler: Sampler, batch: int, count: int = 10) -> float:
    drawn, step, began = 0, 0, time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        sampler.draw(step, count, batch)
        step, drawn = step + count, drawn + count * batch
    return drawn / (time.perf_counter() - began)


def _wait_share(sampler: Sampler) -> float:
    """While Algorithm 2 runs at the demo's size (3x256, batch 256, 64 paths)."""
    model = MlpConfig(proprio_dim=40, instruction_dim=32, chunk_steps=5, action_dim=5)
    optimizer = OptimizerConfig(learning_rate=3e-4, decay_steps=10_000)
    config = LearnerConfig(policy=optimizer, critic=optimizer, batch=256, policy_batch=64)
    normalizer = Normalizer.identity(40)
    policy = MlpPolicy.init(jax.random.key(0), model, normalizer)
    critic = MlpCritic.init(jax.random.key(1), model, normalizer)
    state, update, key = own(init_state(config, policy, critic)), rl_stage(config, policy), jax.random.key(2)
    with Prefetcher(sampler, step=0, count=50, batch=256) as prefetch:
        for block in range(7):
            batch = prefetch.next().batch
            state, metrics = run_block(update, state, batch, key)
            jax.block_until_ready(metrics)
            if block == 0:
                prefetch.reset_wait()  # compilation is not waiting
        return prefetch.wait_fraction


def _fill(replay: Replay) -> None:
    rng = np.random.default_rng(0)
    for i in range(EPISODES):
        task = TASKS[i % len(TASKS)]
        source = Source.ONLINE if i % 2 else Source.DEMO
        replay.add(random_episode(SPEC, task, STEPS, rng, source=source))
