"""The benchmarks behind the evidence (`lwd results`) on the demo's tasks, robots and offline data."""

from __future__ import annotations

from dataclasses import replace

from lwd.config import EvaluateConfig, Experiment
from lwd.learner.method import Lwd
from lwd.learner.stages import LoopConfig
from lwd.recipes.fast import metaworld
from lwd.recipes.methods import lasting
from lwd.recipes.sim import scene

LONGEST_BLOCK = 250
"""Learner steps between snapshots in the slowest ablation. Every learner may be this far ahead, so that none differs in it."""

EXPERIENCE, LEARNER_STEPS_PER_CONTROL_STEP = 2, 0.06
"""Of `scene_evidence`: twice the demo's online experience, 1.2 times its learner steps."""
POLICY_WIDTH, CLONE_STEPS, CLONE_RATE = 512, 60_000, 1.5e-3
"""Of `scene_evidence`: a clone that has converged (decision record 0035); the demo has 256, 30,000 and 3e-3."""
PATIENCE_STEPS = 80
"""Of its operators: the expert goes for up to 75 control steps without a milestone (decision record 0033)."""

HOURS = 5
"""Times the demo's online experience in `scene_hours`."""


def scene_evidence(seed: int = 0) -> Experiment:
    """Eight tasks, sixteen robots, identical offline data and online budget for every method. One core per run.

    The demo's with a clone that has converged, operators who let a perfect attempt be, 3.7 robot-hours in place of 1.8, and an
    online stage that begins at the offline stage's learning rates.
    """
    x = _at_offline_rates(scene(seed), LEARNER_STEPS_PER_CONTROL_STEP)
    cloning, takeover = x.clone.learner, x.online.takeover
    assert takeover is not None  # the demo's
    policy = replace(lasting(cloning.policy, CLONE_STEPS), learning_rate=CLONE_RATE)
    x = replace(
        x,
        name="scene_evidence",
        model=replace(x.model, policy_width=POLICY_WIDTH),
        clone=replace(x.clone, learner=replace(cloning, policy=policy), steps=CLONE_STEPS),
        online=replace(x.online, takeover=replace(takeover, stall_steps=PATIENCE_STEPS)),
    )
    return _with_budget(x, EXPERIENCE * x.online.control_steps)


def scene_hours(seed: int = 0) -> Experiment:
    """The demo with five times the experience and twice the learner steps: nine robot-hours. Superseded by `scene_evidence`."""
    x = _at_offline_rates(scene(seed), 0.04)
    return replace(_with_budget(x, HOURS * x.online.control_steps), name="scene_hours")


def scene_evidence_quick(seed: int = 0) -> Experiment:
    """The evidence's program with hardly any steps, for tests and for a first look; learns nothing."""
    return replace(_shrunk(scene(seed)), name="scene_evidence_quick")


def metaworld_quick(seed: int = 0) -> Experiment:
    """The fast tier's eight tasks with hardly any steps, for tests and for a first look; learns nothing."""
    return replace(_shrunk(metaworld(seed)), name="metaworld_quick")


def _at_offline_rates(x: Experiment, learner_steps_per_control_step: float) -> Experiment:
    """The online stage begins at the offline stage's learning rates.

    Training anew on what the fleet recorded succeeded more often than what the demo's gentler online stage ended with
    (decision record 0028).
    """
    offline, online = x.offline.learner, x.online.learner
    assert isinstance(offline, Lwd)
    assert isinstance(online, Lwd)
    learner = replace(online, policy=offline.policy, critic=offline.critic)
    rate = replace(x.online.rate, learner_steps_per_control_step=learner_steps_per_control_step)
    return replace(x, online=replace(x.online, learner=learner, rate=rate))


def _shrunk(x: Experiment) -> Experiment:
    """The same stages with hardly any steps, networks of hardly any size, four robots."""
    x = _with_budget(x, 600)
    return replace(
        x,
        fleet=replace(x.fleet, robots=4),
        collect=replace(
            x.collect, demos=dict.fromkeys(x.collect.demos, 1), play=min(x.collect.play, 1), rollouts=1
        ),
        model=replace(x.model, width=16, depth=2, instruction_dim=8),
        clone=replace(x.clone, steps=40, loop=LoopConfig(block_steps=20)),
        offline=replace(x.offline, critic_steps=10, steps=20, loop=LoopConfig(block_steps=10)),
        online=replace(
            x.online,
            publish_every_learner_steps=10,
            rate=replace(x.online.rate, learner_steps_per_control_step=0.05, actor_slack_steps=400),
        ),
        evaluate=EvaluateConfig(episodes=1),
    )


def _with_budget(x: Experiment, control_steps: int) -> Experiment:
    """That much online experience, with the learning rates' schedules as long as the learner steps it is worth."""
    steps = round(control_steps * x.online.rate.learner_steps_per_control_step)
    learner = x.online.learner
    assert isinstance(learner, Lwd)  # the scene's recipe; other methods take their schedules from it
    learner = replace(learner, policy=lasting(learner.policy, steps), critic=lasting(learner.critic, steps))
    rate = replace(x.online.rate, learner_slack_steps=max(x.online.rate.learner_slack_steps, LONGEST_BLOCK))
    return replace(
        x,
        fleet=replace(x.fleet, workers=1),
        online=replace(x.online, learner=learner, control_steps=control_steps, rate=rate),
    )
