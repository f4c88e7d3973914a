"""The experiment of the chaos run: a real learner as small as it goes, publishing and checkpointing every few seconds."""

from __future__ import annotations

from dataclasses import replace

from lwd.config import (
    CloneStage,
    CollectConfig,
    EvaluateConfig,
    Experiment,
    FleetConfig,
    ModelConfig,
    OfflineStage,
    OnlineStage,
)
from lwd.learner.clone import CloneConfig
from lwd.learner.divl import DivlConfig
from lwd.learner.method import Lwd
from lwd.learner.optimizers import OptimizerConfig
from lwd.learner.qam import QamConfig
from lwd.learner.stages import LoopConfig
from lwd.replay.rate import RateLimit
from lwd.robot.operator import TakeoverRule
from lwd.robot.sim.fleet_spec import FleetSpec

PUBLISH_EVERY, CHECKPOINT_EVERY = 5, 10
"""In learner steps."""


def experiment(seed: int = 0) -> Experiment:
    """About one learner step a second where sixteen robots make three episodes a second."""
    optimizer = OptimizerConfig(learning_rate=1e-3, decay_steps=10_000)
    qam, divl = QamConfig(flow_steps=3), DivlConfig(atoms=11)
    learner = Lwd(policy=optimizer, critic=optimizer, divl=divl, qam=qam, batch=8, policy_batch=4)
    fleet = FleetSpec(tier="benchmarks.chaos.toy:build")
    return Experiment(
        name="chaos",
        fleet=FleetConfig(deployed=fleet, demonstrated=fleet, robots=4, workers=1),
        collect=CollectConfig(demos={"expert": 2}, play=2, rollouts=1),
        model=ModelConfig(width=8, depth=2, instruction_dim=8, flow_steps=3),
        clone=CloneStage(
            learner=CloneConfig(policy=optimizer, batch=8), steps=4, loop=LoopConfig(block_steps=2)
        ),
        offline=OfflineStage(learner=learner, critic_steps=0, steps=4, loop=LoopConfig(block_steps=2)),
        online=OnlineStage(
            learner=replace(learner, divl=replace(divl, tau_base=0.9)),
            control_steps=10_000_000,
            rate=RateLimit(
                learner_steps_per_control_step=0.003, learner_slack_steps=20, actor_slack_steps=1000
            ),
            publish_every_learner_steps=PUBLISH_EVERY,
            takeover=TakeoverRule(stall_steps=40, max_steps=20),
            checkpoint_every_learner_steps=CHECKPOINT_EVERY,
        ),
        evaluate=EvaluateConfig(episodes=1),
        gamma=0.98,
        seed=seed,
    )
