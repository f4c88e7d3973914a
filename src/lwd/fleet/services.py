"""What an experiment makes of a run's folder: robot and tasks, coordinator, replay."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager

from lwd.config import Experiment
from lwd.errors import ConfigError
from lwd.fleet.folder import Services
from lwd.instruction import InstructionEncoder
from lwd.log.coordinator import Coordinator
from lwd.replay.reader import Reader
from lwd.replay.replay import Replay, ReplayConfig
from lwd.robot.sim.describe import describe
from lwd.spec import RobotSpec, TaskSpec


def fleet_description(experiment: Experiment) -> tuple[RobotSpec, Mapping[str, TaskSpec]]:
    """Robot and tasks of the deployed fleet, without starting a simulator."""
    return describe(experiment.fleet.deployed)


def encoder(experiment: Experiment) -> InstructionEncoder:
    """The instruction's embedding."""
    return InstructionEncoder(dim=experiment.model.instruction_dim)


def make_coordinator(experiment: Experiment | Sequence[Experiment], services: Services) -> Coordinator:
    """The coordinator of this fleet.

    Raises:
        ConfigError: two kinds of robots have different tasks of one name.
    """
    specs: dict[str, RobotSpec] = {}
    tasks: dict[str, TaskSpec] = {}
    for one in [experiment] if isinstance(experiment, Experiment) else experiment:
        spec, found = fleet_description(one)
        for name, task in found.items():
            if tasks.setdefault(name, task) != task:
                raise ConfigError(
                    f"two kinds of robots have different tasks {name!r}; a fleet's tasks need names of their own."
                )
        specs[spec.name] = spec
    return Coordinator(services.catalogue, services.bus, services.objects, specs, tasks)


@contextmanager
def open_replay(experiment: Experiment, services: Services, name: str) -> Generator[tuple[Replay, Reader]]:
    """The learner's replay and the reader that fills it from the log."""
    spec, tasks = fleet_description(experiment)
    folder = services.folder.path / "replay" / name
    config = ReplayConfig(
        gamma=experiment.gamma,
        takeover_fails=experiment.takeover_fails,
        image_side=experiment.model.image_side,
    )
    replay = Replay(folder, spec, list(tasks.values()), encoder(experiment), config)
    try:
        yield replay, Reader(services.catalogue, services.objects, replay)
    finally:
        replay.close()
