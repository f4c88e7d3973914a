"""One stage of training on synthetic episodes, as a program: `python resumable_run.py FOLDER STEPS [PAUSE_S]`.

The test kills it and runs it again. PAUSE_S makes every logged block last, so that there is a middle to be killed in.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import jax
import numpy as np

from lwd.episode import Episode, EpisodeHeader, Outcome, Source, Verdict
from lwd.fleet.metrics_log import MetricsLog
from lwd.fleet.training import StageRun, own
from lwd.instruction import InstructionEncoder
from lwd.learner.checkpoint import Checkpoints
from lwd.learner.divl import DivlConfig
from lwd.learner.optimizers import OptimizerConfig
from lwd.learner.qam import QamConfig
from lwd.learner.stages import LoopConfig, rl_stage
from lwd.learner.state import LearnerConfig, init_state
from lwd.models.arrays import to_arrays
from lwd.models.mlp import MlpConfig, MlpCritic, MlpPolicy, Normalizer
from lwd.replay.mixture import Mixture
from lwd.replay.replay import Replay, ReplayConfig
from lwd.spec import RobotSpec, TaskSpec

BLOCK, BATCH = 5, 4
SPEC = RobotSpec(name="toy", proprio_dim=3, action_dim=2, control_hz=10.0, chunk_steps=2)
TASK = TaskSpec(
    name="pick", instruction="Pick it up.", milestones=("up",), time_limit_steps=20, horizon="short"
)
OPTIMIZER = OptimizerConfig(learning_rate=1e-2, decay_steps=200, warmup_steps=10)
CONFIG = LearnerConfig(
    policy=OPTIMIZER,
    critic=OPTIMIZER,
    divl=DivlConfig(atoms=11),
    qam=QamConfig(flow_steps=3),
    batch=BATCH,
    policy_batch=2,
)
SIZES = MlpConfig(proprio_dim=3, instruction_dim=8, chunk_steps=2, action_dim=2, width=8, depth=2, atoms=11)


def episode(number: int) -> Episode:
    rng = np.random.default_rng(number)
    steps = int(rng.integers(6, 20))
    header = EpisodeHeader(
        task=TASK.name,
        instruction=TASK.instruction,
        source=Source.DEMO,
        robot="r0",
        spec=SPEC.name,
        control_hz=SPEC.control_hz,
        snapshot=None,
        software="test",
        episode_id=f"episode-{number}",
    )
    success = bool(rng.random() < 0.5)
    return Episode(
        header=header,
        verdict=Verdict(outcome=Outcome.SUCCESS if success else Outcome.FAILURE, stage_score=float(success)),
        proprio=rng.normal(size=(steps + 1, 3)).astype(np.float32),
        actions=rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        interventions=np.zeros(steps, np.bool_),
        times_s=np.arange(steps + 1) / SPEC.control_hz,
    )


def start():
    """The state that the run begins from, and its frozen reference."""
    normalizer = Normalizer.identity(3)
    reference = MlpPolicy.init(jax.random.key(1), SIZES, normalizer)
    return init_state(CONFIG, reference, MlpCritic.init(jax.random.key(2), SIZES, normalizer)), reference


def main(folder: Path, steps: int, pause_s: float = 0.0) -> None:
    # Many small functions are compiled here to run a few times.
    jax.config.update("jax_disable_most_optimizations", True)
    replay = Replay(folder / "replay", SPEC, [TASK], InstructionEncoder(dim=8), ReplayConfig(gamma=0.9))
    for number in range(12):
        replay.add(episode(number))
    checkpoints = Checkpoints(folder / "checkpoints")
    state, reference = start()
    with MetricsLog(folder / "metrics.jsonl") as metrics:
        run = StageRun(
            "offline",
            seed=3,
            loop=LoopConfig(block_steps=BLOCK, checkpoint_every_blocks=2),
            metrics=metrics,
            checkpoints=checkpoints,
            progress=lambda step, numbers: time.sleep(pause_s),
        )
        state = run.restore(own(state))
        print(f"starts at {int(state.step)}", flush=True)
        sampler = replay.sampler(replay.view(12), Mixture(), seed=3)
        state = run.train(rl_stage(CONFIG, reference), state, sampler, batch=BATCH, until_step=steps)
    checkpoints.close()
    replay.close()
    np.savez(folder / "final.npz", **to_arrays(state))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *map(float, sys.argv[3:]))
