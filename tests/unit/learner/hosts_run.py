"""One of a learner's processes on synthetic episodes, as a program; `resumable_run.py` for any number of processes.

It trains value and critic alone, which compiles quickly; tests/unit/fleet/learner_hosts_run.py has the whole update.

Process 1 lags behind: its replay holds fewer manifests than that of process 0.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import jax
import numpy as np
import resumable_run as toy

from lwd.fleet.hosts import HostsConfig, joined
from lwd.fleet.metrics_log import MetricsLog
from lwd.fleet.training import StageRun
from lwd.instruction import InstructionEncoder
from lwd.learner.checkpoint import Checkpoints
from lwd.learner.sharding import MeshConfig
from lwd.learner.stages import LoopConfig, critic_stage
from lwd.models.arrays import to_arrays
from lwd.replay.mixture import Mixture
from lwd.replay.replay import Replay, ReplayConfig


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--until", type=int, required=True)
    parser.add_argument("--episodes", type=int, default=12)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--process-id", type=int, default=0)
    parser.add_argument("--address")
    parser.add_argument("--fsdp", type=int, default=1)
    parser.add_argument("--heartbeat", type=Path)
    return parser.parse_args()


def main(given: argparse.Namespace) -> None:
    jax.config.update("jax_disable_most_optimizations", True)
    hosts = HostsConfig(
        processes=given.processes, process_id=given.process_id, coordinator_address=given.address
    )
    mesh = MeshConfig(fsdp=given.fsdp, smallest=16)
    with joined(hosts, mesh, given.heartbeat) as team:
        name = team.replay_name("learner")
        replay = Replay(
            given.folder / f"replay-{os.getpid()}-{name}",
            toy.SPEC,
            [toy.TASK],
            InstructionEncoder(dim=8),
            ReplayConfig(gamma=0.9),
        )
        for number in range(given.episodes):
            replay.add(toy.episode(number))
        checkpoints = Checkpoints(given.folder / "checkpoints")
        state, _ = toy.start()
        with MetricsLog(given.folder / f"{name}.jsonl") as metrics:
            run = StageRun(
                "offline",
                seed=3,
                loop=LoopConfig(block_steps=toy.BLOCK, checkpoint_every_blocks=2),
                metrics=metrics,
                checkpoints=checkpoints,
                progress=lambda step, numbers: time.sleep(given.pause),
                team=team,
            )
            state = run.restore(state)
            began = int(state.step)
            print(f"starts at {began}", flush=True)
            manifest = team.agreement.least(replay.manifest)
            sampler = replay.sampler(replay.view(manifest), Mixture(), seed=3)
            state = run.train(
                critic_stage(toy.CONFIG), state, sampler, batch=toy.BATCH, until_step=given.until
            )
        checkpoints.close()
        replay.close()
        state = team.layout.whole(state)
        if team.leads:
            np.savez(
                given.folder / f"at-{given.until}.npz", began=began, manifest=manifest, **to_arrays(state)
            )


if __name__ == "__main__":
    main(options())
