"""The fast tier: Meta-World through the same program as the demo, eight tasks or all fifty, for tests and sweeps."""

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
from lwd.robot.sim.metaworld_tasks import EIGHT_TASKS, EXPERT_STEPS, METAWORLD_TASKS
from lwd.robot.sim.style import EXPERT, ExpertStyle

UNHURRIED = ExpertStyle(noise=(0.1, 0.3), speed=(0.4, 1.0))
"""A demonstrator who takes the time it takes: a converged clone moves at the same mixture of speeds."""
PACE = 1.6
"""The deployment's time limits, in lengths of the expert's median episode."""


def _fleet(tasks: tuple[str, ...]) -> FleetConfig:
    styles = {"expert": EXPERT, "unhurried": UNHURRIED}
    pace = {name: round(PACE * EXPERT_STEPS[name]) for name in tasks}
    patience = {name: 2 * METAWORLD_TASKS[name].time_limit_steps for name in tasks}
    return FleetConfig(
        deployed=FleetSpec(tier="metaworld", styles=styles, time_limits=pace, tasks=tasks),
        demonstrated=FleetSpec(tier="metaworld", styles=styles, time_limits=patience, tasks=tasks),
    )


def _clone(steps: int) -> CloneStage:
    return CloneStage(
        learner=CloneConfig(policy=OptimizerConfig(learning_rate=3e-3, decay_steps=steps)),
        steps=steps,
        loop=LoopConfig(block_steps=500, checkpoint_every_blocks=20),
    )


def _offline(critic_steps: int, policy_steps: int) -> OfflineStage:
    steps = critic_steps + policy_steps
    return OfflineStage(
        learner=Lwd(
            policy=OptimizerConfig(learning_rate=3e-4, decay_steps=policy_steps, final_share=0.1),
            critic=OptimizerConfig(learning_rate=5e-4, decay_steps=steps, final_share=0.2),
            qam=QamConfig(temperature=0.04),
            batch=256,
            policy_batch=64,
        ),
        critic_steps=critic_steps,
        steps=steps,
        mixture=Mixture(offline=Pool(n_long=10, balance="tasks")),
    )


def _online(control_steps: int) -> OnlineStage:
    rate = RateLimit(learner_steps_per_control_step=0.1, actor_slack_steps=400)
    steps = round(rate.learner_steps_per_control_step * control_steps)
    return OnlineStage(
        learner=Lwd(
            policy=OptimizerConfig(learning_rate=1.5e-4, decay_steps=steps, final_share=0.1),
            critic=OptimizerConfig(learning_rate=3e-4, decay_steps=steps, final_share=0.2),
            divl=DivlConfig(tau_base=0.6),
            qam=QamConfig(temperature=0.04),
            batch=256,
            policy_batch=64,
        ),
        control_steps=control_steps,
        rate=rate,
        takeover=TakeoverRule(stall_steps=60, max_steps=60),
        mixture=Mixture(
            offline=Pool(n_long=10, balance="tasks"),
            online=Pool(sources=(Source.ONLINE,), n_long=10, balance="tasks"),
            online_share=0.5,
        ),
    )


def metaworld(seed: int = 0) -> Experiment:
    """Eight Meta-World tasks at a pace that the demonstrations did not keep; minutes on one core."""
    return Experiment(
        name="metaworld",
        fleet=_fleet(EIGHT_TASKS),
        collect=CollectConfig(demos={"unhurried": 40}, play=0, rollouts=32, rollout_noise=0.3),
        model=ModelConfig(width=128),
        clone=_clone(12_000),
        offline=_offline(critic_steps=6_000, policy_steps=3_000),
        online=_online(64_000),
        evaluate=EvaluateConfig(episodes=50),
        gamma=0.99,
        seed=seed,
    )


def metaworld_hours(seed: int = 0) -> Experiment:
    """`metaworld` with ten times its online budget: 2.2 robot-hours, and learner steps and their schedules as many times."""
    x = metaworld(seed)
    return replace(x, name="metaworld_hours", online=_online(10 * x.online.control_steps))


def metaworld50(seed: int = 0) -> Experiment:
    """The generalist: one policy for all fifty tasks of Meta-World, with a larger network and more of everything."""
    return replace(
        metaworld(seed),
        name="metaworld50",
        fleet=_fleet(tuple(METAWORLD_TASKS)),
        collect=CollectConfig(demos={"unhurried": 20}, play=0, rollouts=16, rollout_noise=0.3),
        model=ModelConfig(width=256, instruction_dim=64),
        clone=_clone(40_000),
        offline=_offline(critic_steps=12_000, policy_steps=6_000),
        online=_online(200_000),
        evaluate=EvaluateConfig(episodes=20),
    )
