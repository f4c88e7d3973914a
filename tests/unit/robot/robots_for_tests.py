"""Small robots that need no simulator; also what a worker process imports for a FleetSpec of one's own."""

import os
import time

import numpy as np

from lwd.episode import Outcome
from lwd.robot.button import ButtonOperator
from lwd.robot.environment import Sensed
from lwd.spec import RobotSpec, TaskSpec

LINE = RobotSpec(name="line", proprio_dim=2, action_dim=2, control_hz=10.0, chunk_steps=4)
TASKS = {
    "walk": TaskSpec(
        name="walk", instruction="Walk.", milestones=("half", "there"), time_limit_steps=60, horizon="short"
    )
}


class Line:
    """A point on a line from -1 to +4: action[0] moves it by 0.1; milestones at 1 and 2. The second proprio is the seed's."""

    spec, tasks = LINE, TASKS

    def reset(self, task: str, seed: int) -> Sensed:
        self.x, self.k, self.best = 0.0, 0, 0
        self.tag = float(np.random.default_rng(seed).random())
        return self._sensed()

    def apply(self, action: np.ndarray) -> Sensed:
        self.x += 0.1 * float(action[0])
        self.k += 1
        self.best = max(self.best, (self.x > 0.999) + (self.x > 1.999))
        return self._sensed()

    def outcome(self) -> Outcome | None:
        if self.best == 2:
            return Outcome.SUCCESS
        return Outcome.FAILURE if self.k >= 60 else None

    def milestones_reached(self) -> int:
        return self.best

    def close(self) -> None:
        pass

    def _sensed(self) -> Sensed:
        return Sensed(np.array([self.x, self.tag], np.float32))


class Pusher:
    """Operator: forward at full speed; its second action coordinate is drawn from its seed."""

    def begin(self, task: str, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def act(self) -> np.ndarray:
        return np.array([1.0, self.rng.uniform(-1, 1)], np.float32)


class Decider(Pusher):
    """Operator: wants to command these control steps of its robot; `asked` is before which it was asked, `seeds` its begins."""

    def __init__(self, robot: Line, *steps: int) -> None:
        self.robot, self.steps = robot, steps
        self.asked: list[int] = []
        self.seeds: list[int] = []

    def begin(self, task: str, seed: int) -> None:
        super().begin(task, seed)
        self.seeds.append(seed)

    def wants_control(self) -> bool:
        self.asked.append(self.robot.k)
        return self.robot.k in self.steps


class Raising(Line):
    def apply(self, action: np.ndarray) -> Sensed:
        raise ValueError("the gripper fell off")


class Dying(Line):
    def apply(self, action: np.ndarray) -> Sensed:
        os._exit(7)


class Hanging(Line):
    def apply(self, action: np.ndarray) -> Sensed:
        time.sleep(30)
        return self._sensed()


def line(spec):
    return Line(), {"expert": Pusher()}


def decided(spec):
    robot = Line()
    return robot, {"expert": Decider(robot, 2, 9)}


def with_enter(spec):
    return Line(), {"expert": ButtonOperator(Pusher())}


def raising(spec):
    return Raising(), {"expert": Pusher()}


def dying(spec):
    return Dying(), {"expert": Pusher()}


def hanging(spec):
    return Hanging(), {"expert": Pusher()}


def without_argument():
    return Line(), {}


def without_operators(spec):
    return Line()
