"""The fast tier's experiment of the learning tests: four robots, two tasks, about a minute."""

from __future__ import annotations

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
from lwd.replay.mixture import Mixture, Pool
from lwd.replay.rate import RateLimit
from lwd.robot.operator import TakeoverRule
from lwd.robot.sim.fleet_spec import FleetSpec
from lwd.robot.sim.style import EXPERT, ExpertStyle

LIMITS = {"coffee-button": 50, "handle-press": 36}
"""Deployed robots get little time. The demonstrations were slow and of any speed, so a clone of them is often too late;
from outcomes and a discount one can learn that faster is better."""


def fast_experiment(seed: int = 0) -> Experiment:
    """Slow demonstrations, an SFT policy that is often too late, and a fleet that learns to be faster."""
    fleet = FleetSpec(
        tier="metaworld",
        styles={"expert": EXPERT, "slow": ExpertStyle(noise=(0.05, 0.1), speed=(0.15, 1.0))},
        tasks=tuple(LIMITS),
    )
    learner = Lwd(
        policy=OptimizerConfig(learning_rate=4e-4, decay_steps=6000),
        critic=OptimizerConfig(learning_rate=1e-3, decay_steps=5000),
        qam=QamConfig(temperature=0.003, flow_steps=5),
        batch=64,
        policy_batch=32,
        ema_rate=0.02,
        policy_ema_rate=0.02,
    )
    return Experiment(
        name="fast",
        fleet=FleetConfig(
            deployed=FleetSpec(tier=fleet.tier, styles=fleet.styles, tasks=fleet.tasks, time_limits=LIMITS),
            demonstrated=fleet,
            robots=4,
            workers=1,
        ),
        collect=CollectConfig(demos={"slow": 12}, play=0, rollouts=15),
        model=ModelConfig(width=64, depth=2, instruction_dim=8, flow_steps=5),
        clone=CloneStage(
            learner=CloneConfig(
                policy=OptimizerConfig(learning_rate=2e-3, decay_steps=4000), batch=128, policy_ema_rate=0.01
            ),
            steps=2000,
            loop=LoopConfig(block_steps=250, checkpoint_every_blocks=100),
        ),
        offline=OfflineStage(  # the critic alone: the policy learns from what its own fleet brings in
            learner=learner,
            critic_steps=800,
            steps=800,
            mixture=Mixture(offline=Pool()),
            loop=LoopConfig(block_steps=100, checkpoint_every_blocks=100),
        ),
        online=OnlineStage(
            learner=Lwd(**{**vars(learner), "divl": DivlConfig(tau_base=0.9)}),
            control_steps=5000,
            rate=RateLimit(learner_steps_per_control_step=0.5, actor_slack_steps=500),
            takeover=TakeoverRule(stall_steps=25, max_steps=40),
        ),
        evaluate=EvaluateConfig(episodes=40),
        gamma=0.98,
        seed=seed,
    )
