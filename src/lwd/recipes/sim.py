"""Experiments on the simulated fleets. Each is a function that returns an Experiment; variants use `dataclasses.replace`."""

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
from lwd.learner.optimizers import OptimizerConfig
from lwd.learner.qam import QamConfig
from lwd.learner.stages import LoopConfig
from lwd.learner.state import LearnerConfig
from lwd.replay.mixture import Mixture, Pool
from lwd.replay.rate import RateLimit
from lwd.robot.operator import TakeoverRule
from lwd.robot.sim.fleet_spec import FleetSpec
from lwd.robot.sim.scene_conditions import DEMONSTRATED, DEPLOYED
from lwd.robot.sim.scene_tasks import SCENE_TASKS
from lwd.robot.sim.style import EXPERT, ExpertStyle

CAREFUL = ExpertStyle(noise=(0.1, 0.2))
"""A practised demonstrator."""
HESITANT = ExpertStyle(
    noise=(0.1, 0.2),
    speed=(0.6, 1.0),
    pause_probability=0.006,
    detour_probability=0.12,
    mistake_probability=0.08,
)
"""A demonstrator who hesitates, takes detours and corrects mistakes: a clone copies that, a learner from outcomes drops it."""
PATIENCE = 3
"""Demonstrations may take this many times the deployed time limit."""


def scene(seed: int = 0) -> Experiment:
    """The demo: eight tasks of ogbench's scene, sixteen robots, about twenty minutes on two cores."""
    styles = {"expert": EXPERT, "careful": CAREFUL, "hesitant": HESITANT}
    patience = {name: PATIENCE * task.spec.time_limit_steps for name, task in SCENE_TASKS.items()}
    policy = OptimizerConfig(learning_rate=2e-4, decay_steps=6_000, final_share=0.1)
    critic = OptimizerConfig(learning_rate=3e-4, decay_steps=12_000, final_share=0.3)
    return Experiment(
        name="scene",
        fleet=FleetConfig(
            deployed=FleetSpec(conditions=DEPLOYED, styles=styles),
            demonstrated=FleetSpec(conditions=DEMONSTRATED, styles=styles, time_limits=patience),
        ),
        collect=CollectConfig(demos={"careful": 30, "hesitant": 30}, play=20, rollouts=20),
        model=ModelConfig(),
        clone=CloneStage(
            learner=CloneConfig(policy=OptimizerConfig(learning_rate=1e-3, decay_steps=40_000)),
            steps=40_000,
            loop=LoopConfig(block_steps=500, checkpoint_every_blocks=20),
        ),
        offline=OfflineStage(
            learner=LearnerConfig(
                policy=policy, critic=critic, qam=QamConfig(temperature=0.03), batch=256, policy_batch=64
            ),
            critic_steps=6_000,
            steps=9_000,
            mixture=Mixture(offline=Pool(n_long=10)),
        ),
        online=OnlineStage(
            learner=LearnerConfig(
                policy=OptimizerConfig(learning_rate=1e-4, decay_steps=8_000, final_share=0.1),
                critic=OptimizerConfig(learning_rate=2e-4, decay_steps=8_000, final_share=0.3),
                divl=DivlConfig(tau_base=0.9),
                qam=QamConfig(temperature=0.03),
                batch=256,
                policy_batch=64,
            ),
            control_steps=60_000,
            rate=RateLimit(learner_steps_per_control_step=0.05, actor_slack_steps=400),
            takeover=TakeoverRule(),
        ),
        evaluate=EvaluateConfig(episodes=40),
        seed=seed,
    )


def quick(seed: int = 0) -> Experiment:
    """The demo's robots and networks with hardly any steps: shows the loop turn in two minutes, learns nothing."""
    x = scene(seed)
    return replace(
        x,
        name="scene_quick",
        collect=replace(x.collect, demos={"careful": 2}, play=1, rollouts=1),
        clone=replace(x.clone, steps=500, loop=LoopConfig(block_steps=100)),
        offline=replace(x.offline, critic_steps=100, steps=200, loop=LoopConfig(block_steps=50)),
        online=replace(x.online, control_steps=4_000),
        evaluate=EvaluateConfig(episodes=1),
    )
