"""Episodes whose numbers tell where they come from."""

from __future__ import annotations

import numpy as np

from lwd.episode import Episode, EpisodeHeader, Outcome, Source, Verdict
from lwd.spec import RobotSpec, TaskSpec

H, P, A = 4, 3, 2
SPEC = RobotSpec(name="toy", proprio_dim=P, action_dim=A, control_hz=20.0, chunk_steps=H)
TASKS = (
    TaskSpec(
        name="pick", instruction="pick the cube", milestones=("a",), time_limit_steps=50, horizon="short"
    ),
    TaskSpec(
        name="tea", instruction="make the tea", milestones=("a", "b"), time_limit_steps=500, horizon="long"
    ),
    TaskSpec(
        name="box", instruction="pack the box", milestones=("a", "b"), time_limit_steps=500, horizon="long"
    ),
)
INSTRUCTION = {task.name: task.instruction for task in TASKS}


def make_episode(
    T: int,
    outcome: str = "success",
    *,
    source: str = "demo",
    task: str = "pick",
    human: object = (),
    mark: float = 0.0,
    spec: RobotSpec = SPEC,
    episode_id: str | None = None,
) -> Episode:
    """Row t of the proprio is (mark, t, ...), of the actions mark + t / 1000."""
    interventions = np.zeros(T, np.bool_)
    interventions[list(human)] = True  # type: ignore[call-overload]
    proprio = np.zeros((T + 1, spec.proprio_dim), np.float32)
    proprio[:, 0], proprio[:, 1] = mark, np.arange(T + 1)
    actions = np.broadcast_to((mark + np.arange(T) / 1000)[:, None], (T, spec.action_dim)).astype(np.float32)
    extra = {} if episode_id is None else {"episode_id": episode_id}
    header = EpisodeHeader(
        task=task,
        instruction=INSTRUCTION[task],
        source=Source(source),
        robot="r0",
        spec=spec.name,
        control_hz=spec.control_hz,
        snapshot=None if source == "demo" else 7,
        software="test",
        **extra,
    )
    return Episode(
        header=header,
        verdict=Verdict(outcome=Outcome(outcome), stage_score=1.0 if outcome == "success" else 0.5),
        proprio=proprio,
        actions=actions,
        interventions=interventions,
        times_s=np.arange(T + 1) / spec.control_hz,
    )
