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
from lwd.episode import Source
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
from lwd.robot.sim.scene_conditions import DEMONSTRATED, DEPLOYED
from lwd.robot.sim.scene_tasks import SCENE_TASKS
from lwd.robot.sim.style import EXPERT, ExpertStyle

LEISURELY = ExpertStyle(noise=(0.1, 0.25), speed=(0.4, 1.0), pause_probability=0.01, pause_steps=(5, 10))
"""A demonstrator who takes time: moves slowly, stops now and then. A clone copies that; outcomes tell that haste pays."""
PACE = 0.7
"""The deployment's time limits, as a share of the tasks' own: 1.4 to 1.65 times what the expert needs on the long tasks."""
PATIENCE = 2
"""Demonstrations may take this many times the tasks' own limits: people take their time, a deployment does not."""


def scene(seed: int = 0) -> Experiment:
    """The demo: eight tasks of ogbench's scene, sixteen robots, under twenty minutes on two cores."""
    styles = {"expert": EXPERT, "leisurely": LEISURELY}
    limits = {name: task.spec.time_limit_steps for name, task in SCENE_TASKS.items()}
    pace = {name: round(PACE * limit) for name, limit in limits.items()}
    patience = {name: PATIENCE * limit for name, limit in limits.items()}
    policy = OptimizerConfig(learning_rate=1e-3, decay_steps=8_000, final_share=0.1)
    critic = OptimizerConfig(learning_rate=1.5e-3, decay_steps=16_000, final_share=0.2)
    return Experiment(
        name="scene",
        fleet=FleetConfig(
            deployed=FleetSpec(conditions=DEPLOYED, styles=styles, time_limits=pace),
            demonstrated=FleetSpec(conditions=DEMONSTRATED, styles=styles, time_limits=patience),
        ),
        collect=CollectConfig(demos={"leisurely": 72}, play=4, rollouts=40, rollout_noise=0.3),
        model=ModelConfig(flow_steps=5),
        clone=CloneStage(
            learner=CloneConfig(policy=OptimizerConfig(learning_rate=3e-3, decay_steps=30_000)),
            steps=30_000,
            loop=LoopConfig(block_steps=500, checkpoint_every_blocks=20),
        ),
        offline=OfflineStage(
            learner=Lwd(
                policy=policy,
                critic=critic,
                qam=QamConfig(temperature=0.03, flow_steps=5),
                batch=256,
                policy_batch=64,
            ),
            critic_steps=8_000,
            steps=16_000,
            mixture=Mixture(offline=Pool(n_long=10, balance="tasks")),
        ),
        online=OnlineStage(
            learner=Lwd(
                policy=OptimizerConfig(learning_rate=3e-4, decay_steps=13_000, final_share=0.1),
                critic=OptimizerConfig(learning_rate=6e-4, decay_steps=13_000, final_share=0.2),
                divl=DivlConfig(tau_base=0.6),
                qam=QamConfig(temperature=0.03, flow_steps=5),
                batch=256,
                policy_batch=64,
            ),
            control_steps=130_000,
            rate=RateLimit(
                learner_steps_per_control_step=0.1, learner_slack_steps=200, actor_slack_steps=800
            ),
            takeover=TakeoverRule(stall_steps=60, max_steps=100),
            mixture=Mixture(
                offline=Pool(balance="tasks", n_long=10),
                online=Pool(sources=(Source.ONLINE,), balance="tasks", n_long=10),
                online_share=0.5,
            ),
        ),
        evaluate=EvaluateConfig(episodes=50),
        gamma=0.995,
        seed=seed,
    )


def quick(seed: int = 0) -> Experiment:
    """The demo's robots and networks with hardly any steps: shows the loop turn in two minutes, learns nothing."""
    x = scene(seed)
    return replace(
        x,
        name="scene_quick",
        collect=replace(x.collect, demos={"leisurely": 2}, play=1, rollouts=1),
        clone=replace(x.clone, steps=500, loop=LoopConfig(block_steps=100)),
        offline=replace(x.offline, critic_steps=100, steps=200, loop=LoopConfig(block_steps=50)),
        online=replace(x.online, control_steps=4_000),
        evaluate=EvaluateConfig(episodes=1),
    )
