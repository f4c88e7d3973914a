from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lwd.instruction import InstructionEncoder
from lwd.replay import Replay, ReplayConfig
from lwd.spec import RobotSpec
from tests.unit.replay.replay_cases import SPEC, TASKS


@pytest.fixture
def new_replay(tmp_path: Path) -> Iterator[Callable[..., Replay]]:
    opened: list[Replay] = []

    def make(
        name: str = "replay", *, gamma: float = 0.9, spec: RobotSpec = SPEC, tasks: object = TASKS
    ) -> Replay:
        replay = Replay(tmp_path / name, spec, tasks, InstructionEncoder(), ReplayConfig(gamma=gamma))  # type: ignore[arg-type]
        opened.append(replay)
        return replay

    yield make
    for replay in opened:
        replay.close()
