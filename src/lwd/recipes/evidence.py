"""The benchmark behind the evidence (`lwd results`): the demo's fleet, offline data and online budget."""

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

HOURS = 5
"""Of the demo's online experience: what two and a half hours of one core allow."""

WIDE_POLICY, WIDE_CLONE_STEPS = 512, 60_000
"""Of `scene_wide`; the demo has 256 and 30,000."""


def scene_evidence(seed: int = 0) -> Experiment:
    """Eight tasks, sixteen robots, identical offline data and online budget for every method. One core per run."""
    x = scene(seed)
    return replace(_with_budget(x, x.online.control_steps), name="scene_evidence")


def scene_hours(seed: int = 0) -> Experiment:
    """`scene_evidence` with five times the experience and twice the learner steps: nine robot-hours.

    The learner steps begin at the offline stage's learning rates: training anew on what the fleet recorded succeeded more often
    than what the demo's gentler online stage ended with (decision 0028).
    """
    x = scene(seed)
    offline, online = x.offline.learner, x.online.learner
    assert isinstance(offline, Lwd)
    assert isinstance(online, Lwd)
    learner = replace(online, policy=offline.policy, critic=offline.critic)
    rate = replace(x.online.rate, learner_steps_per_control_step=0.04)
    x = replace(x, online=replace(x.online, learner=learner, rate=rate))
    return replace(_with_budget(x, HOURS * x.online.control_steps), name="scene_hours")


def scene_wide(seed: int = 0) -> Experiment:
    """`scene_hours` with a policy twice as wide that is cloned for twice as long (decision record 0034)."""
    x = scene_hours(seed)
    clone = replace(x.clone.learner, policy=lasting(x.clone.learner.policy, WIDE_CLONE_STEPS))
    return replace(
        x,
        name="scene_wide",
        model=replace(x.model, policy_width=WIDE_POLICY),
        clone=replace(x.clone, learner=clone, steps=WIDE_CLONE_STEPS),
    )


def scene_evidence_quick(seed: int = 0) -> Experiment:
    """The evidence's program with hardly any steps, for tests and for a first look; learns nothing."""
    return replace(_shrunk(scene(seed)), name="scene_evidence_quick")


def metaworld_quick(seed: int = 0) -> Experiment:
    """The same of the fast tier's eight tasks."""
    return replace(_shrunk(metaworld(seed)), name="metaworld_quick")


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
