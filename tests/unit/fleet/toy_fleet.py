"""A robot on a line and an experiment on it that runs in seconds: for tests of the fleet's own code.

Worker processes and fleet processes import this module by name; conftest.py puts it on their path.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np

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
from lwd.episode import Outcome
from lwd.fleet.process import ProcessContext
from lwd.learner.clone import CloneConfig
from lwd.learner.divl import DivlConfig
from lwd.learner.method import Lwd
from lwd.learner.optimizers import OptimizerConfig
from lwd.learner.qam import QamConfig
from lwd.learner.stages import LoopConfig
from lwd.models.vla.config import GemmaConfig, PiConfig, SiglipConfig
from lwd.replay.rate import RateLimit
from lwd.robot.environment import Sensed
from lwd.robot.operator import TakeoverRule
from lwd.robot.sim.fleet_spec import FleetSpec
from lwd.spec import RobotSpec, TaskSpec

SPEC = RobotSpec(name="line", proprio_dim=2, action_dim=2, control_hz=10.0, chunk_steps=4)
TASKS = {
    "near": TaskSpec(
        name="near", instruction="Walk a little.", milestones=("there",), time_limit_steps=24, horizon="short"
    ),
    "far": TaskSpec(
        name="far", instruction="Walk far.", milestones=("half", "there"), time_limit_steps=40, horizon="long"
    ),
}
VLA = PiConfig(
    vision=SiglipConfig(image=28, patch=14, width=16, depth=1, mlp=24, heads=2),
    language=GemmaConfig(width=16, depth=1, mlp=24, heads=2, kv_heads=1, head_dim=8),
    expert=GemmaConfig(width=16, depth=1, mlp=24, heads=2, kv_heads=1, head_dim=8),
    vocabulary=260,
    action_dim=4,
    prompt="bytes",
    prompt_tokens=56,
)
"""A VLA for the robot that compiles in seconds."""
GOAL = {"near": 1.0, "far": 2.0}


class Line:
    """A point: action[0] moves it by 0.1 at most. The second proprio is drawn from the seed."""

    spec, tasks = SPEC, TASKS

    def reset(self, task: str, seed: int) -> Sensed:
        self.task, self.seed, self.x, self.k, self.best = task, seed, 0.0, 0, 0.0
        self.tag = float(np.random.default_rng(seed).random())
        return self._sensed()

    def apply(self, action: np.ndarray) -> Sensed:
        self.x += 0.1 * float(action[0])
        self.best, self.k = max(self.best, self.x + 1e-6), self.k + 1
        return self._sensed()

    def outcome(self) -> Outcome | None:
        if self.best >= GOAL[self.task]:
            return Outcome.SUCCESS
        return Outcome.FAILURE if self.k >= TASKS[self.task].time_limit_steps else None

    def milestones_reached(self) -> int:
        total = len(TASKS[self.task].milestones)
        return min(total, int(self.best / GOAL[self.task] * total))

    def close(self) -> None:
        pass

    def _sensed(self) -> Sensed:
        return Sensed(np.array([self.x, self.tag], np.float32))


class Walker:
    """Operator: forward, at a speed of its own."""

    def __init__(self, speed: float) -> None:
        self._speed = speed

    def begin(self, task: str, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def act(self) -> np.ndarray:
        return np.array([self._speed, self._rng.uniform(-1, 1)], np.float32)


class Player(Walker):
    """Plays without getting anywhere, except where the episode's seed is a multiple of three."""

    def __init__(self, environment: Line) -> None:
        super().__init__(0.0)
        self._env = environment

    def begin(self, task: str, seed: int) -> None:
        super().begin(task, seed)
        self._speed = 1.0 if self._env.seed % 3 == 0 else 0.0


def line(spec: FleetSpec) -> Any:
    robot = Line()
    operators = {"expert": Walker(1.0), "slow": Walker(0.7), "play": Player(robot)}
    return robot, operators


def nobody(spec: FleetSpec) -> Any:
    """A line without operators."""
    return Line(), {}


OTHER = replace(SPEC, name="other-line")


class OtherLine(Line):
    spec = OTHER


def other_line(spec: FleetSpec) -> Any:
    return OtherLine(), {"expert": Walker(1.0)}


def experiment(seed: int = 0, **changes: Any) -> Experiment:
    """Everything as small as it goes."""
    optimizer = OptimizerConfig(learning_rate=1e-3, decay_steps=1000)
    learner = Lwd(
        policy=optimizer,
        critic=optimizer,
        divl=DivlConfig(atoms=11),
        qam=QamConfig(flow_steps=3),
        batch=8,
        policy_batch=4,
    )
    fleet = FleetSpec(tier="toy_fleet:line")
    base = Experiment(
        name="toy",
        fleet=FleetConfig(deployed=fleet, demonstrated=fleet, robots=4, workers=1),
        collect=CollectConfig(demos={"expert": 2, "slow": 1}, play=3, rollouts=2, long_task_weight=2.0),
        model=ModelConfig(width=8, depth=2, instruction_dim=8, flow_steps=3),
        clone=CloneStage(
            learner=CloneConfig(policy=optimizer, batch=8), steps=20, loop=LoopConfig(block_steps=10)
        ),
        offline=OfflineStage(learner=learner, critic_steps=0, steps=10, loop=LoopConfig(block_steps=5)),
        online=OnlineStage(
            learner=replace(learner, divl=DivlConfig(atoms=11, tau_base=0.9)),
            control_steps=1000,
            rate=RateLimit(learner_steps_per_control_step=0.05, learner_slack_steps=10, actor_slack_steps=20),
            publish_every_learner_steps=5,
            takeover=TakeoverRule(stall_steps=12, max_steps=8),
            checkpoint_every_learner_steps=10,
        ),
        evaluate=EvaluateConfig(episodes=2),
        gamma=0.98,
        seed=seed,
    )
    return replace(base, **changes)


def in_turns(seed: int = 0) -> Experiment:
    """Robots and learner in two turns of 120 control steps and 12 learner steps each."""
    base = experiment(seed)
    rate = RateLimit(learner_steps_per_control_step=0.1)
    return replace(base, online=replace(base.online, control_steps=240, rounds=2, rate=rate))


def unattended(seed: int = 0) -> Experiment:
    """Nobody takes over."""
    base = experiment(seed)
    return replace(base, online=replace(base.online, takeover=None))


# ---- mains of processes, for the tests of lwd.fleet.process ----------------------------------------------------------


def until_stopped(context: ProcessContext, folder: str) -> None:
    """Writes its name into `order` when it has been told to stop."""
    stop = threading.Event()
    context.stop_sets(stop)
    context.say(pid=os.getpid(), flag=os.environ.get("TOY_FLAG"), waits_for="the end")
    stop.wait()
    with open(f"{folder}/order", "a") as file:
        file.write(f"{context.name}\n")


def ends_soon(context: ProcessContext, folder: str) -> None:
    context.say(pid=os.getpid(), done=1)


def crashes(context: ProcessContext, folder: str) -> None:
    context.say(pid=os.getpid())
    raise ValueError("the gripper fell off")


def crashes_when_stopped(context: ProcessContext, folder: str) -> None:
    context.say(pid=os.getpid())
    while not context.should_stop():
        time.sleep(0.01)
    raise ValueError("could not tidy up")


def killed(context: ProcessContext, folder: str) -> None:
    context.say(pid=os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)


def deaf(context: ProcessContext, folder: str) -> None:
    context.say(pid=os.getpid())
    time.sleep(600)


def slow_but_talking(context: ProcessContext, folder: str) -> None:
    """Takes almost twice the stop timeout of the test, but keeps saying where it is."""
    context.say(pid=os.getpid())
    while not context.should_stop():
        time.sleep(0.01)
    for i in range(15):
        time.sleep(0.5)
        context.say(left=15 - i)
