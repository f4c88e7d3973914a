"""What the coordinator tells a robot that joins: plain values, so a robot computer needs neither recipes nor JAX."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from lwd.errors import ConfigError, SnapshotError
from lwd.robot.operator import TakeoverRule
from lwd.robot.sim.fleet_spec import EVERYWHERE, FleetSpec
from lwd.robot.sim.scene_conditions import Conditions
from lwd.robot.sim.style import ExpertStyle
from lwd.snapshot.announcement import announcement, parse_announcement
from lwd.snapshot.store import Snapshot
from lwd.spec import CameraSpec, RobotSpec, TaskSpec

CONFIG_VERSION = 1
RELEASES_VERSION = 2
"""Of an answer that says to follow releases. A robot that does not know them must not run whatever is announced instead."""
Follow = Literal["newest", "releases"]
NEWEST, RELEASES = "newest", "releases"
_FOLLOWS: Mapping[int, Follow] = {CONFIG_VERSION: NEWEST, RELEASES_VERSION: RELEASES}
SIMULATED = ("scene", "metaworld")
"""Tiers that may be named over the network. Code of one's own is named on the robot's command line only."""


@dataclass(frozen=True, kw_only=True)
class RobotConfig:
    """What one robot does in its fleet.

    Attributes:
        spec: the kind of robot; tasks: by name.
        fleet: how to simulate it, where it is simulated.
        takeover: when its operator takes over, None for never; a `GatingOperator` decides alone, unless None.
        instruction_dim: of the instruction's embedding.
        first_seed, last_seed: bounds of its episodes' seeds, apart from other sources' and the evaluation's.
        software: version of the coordinator.
        snapshot: the row of the newest snapshot of its kind, without metadata and not verified; None before the first. The
            broker keeps one announcement for all kinds, so a robot that joins may find another kind's there.
        follow: which snapshot it runs: "newest", the newest that is announced, or "releases", what a release allows it.
    """

    spec: RobotSpec
    tasks: Mapping[str, TaskSpec]
    fleet: FleetSpec
    takeover: TakeoverRule | None
    instruction_dim: int
    first_seed: int
    last_seed: int
    software: str
    snapshot: Snapshot | None = None
    follow: Follow = NEWEST

    def to_json(self) -> dict[str, Any]:
        """As a message, or a file."""
        version = (
            {"version": CONFIG_VERSION}
            if self.follow == NEWEST
            else {"version": RELEASES_VERSION, "follow": self.follow}
        )
        return {
            **version,
            "spec": asdict(self.spec),
            "tasks": [asdict(task) for task in self.tasks.values()],
            "fleet": asdict(self.fleet),
            "takeover": None if self.takeover is None else asdict(self.takeover),
            "instruction_dim": self.instruction_dim,
            "first_seed": self.first_seed,
            "last_seed": self.last_seed,
            "software": self.software,
            "snapshot": None if self.snapshot is None else announcement(replace(self.snapshot, meta={})),
        }

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> RobotConfig:
        """Read a message, trusting nothing in it.

        Raises:
            ConfigError: another version, or fields that do not fit.
        """
        follow = _FOLLOWS.get(_version(found))
        if follow is None or found.get("follow", NEWEST) != follow:
            raise ConfigError(
                f"the coordinator's configuration has version {found.get('version')!r:.20}, this robot reads "
                f"{CONFIG_VERSION} and {RELEASES_VERSION}. Install the same lwd on both ({found.get('software')!r:.40} runs "
                "there)."
            )
        try:
            spec = dict(found["spec"])
            spec["cameras"] = tuple(CameraSpec(**camera) for camera in spec["cameras"])
            tasks: list[TaskSpec] = [_filled(TaskSpec, task) for task in found["tasks"]]
            fleet = dict(found["fleet"])
            if fleet["tier"] not in SIMULATED:
                fleet["tier"] = SIMULATED[0]  # never imports what a message names
            fleet["conditions"] = _filled(Conditions, fleet["conditions"])
            fleet["styles"] = {name: _filled(ExpertStyle, style) for name, style in fleet["styles"].items()}
            fleet["cameras"] = tuple(CameraSpec(**camera) for camera in fleet.get("cameras", ()))
            fleet["starts"] = tuple(fleet.get("starts", EVERYWHERE))
            fleet["tasks"] = None if fleet["tasks"] is None else tuple(fleet["tasks"])
            takeover, snapshot = found["takeover"], found.get("snapshot")
            return RobotConfig(
                spec=RobotSpec(**spec),
                tasks={task.name: task for task in tasks},
                fleet=FleetSpec(**fleet),
                takeover=None if takeover is None else TakeoverRule(**takeover),
                instruction_dim=int(found["instruction_dim"]),
                first_seed=int(found["first_seed"]),
                last_seed=int(found["last_seed"]),
                software=str(found["software"]),
                snapshot=None if snapshot is None else parse_announcement(snapshot),
                follow=follow,
            )
        except (KeyError, TypeError, ValueError, AttributeError, SnapshotError) as error:
            raise ConfigError(
                f"the coordinator's configuration does not fit: {type(error).__name__}: {error}. "
                "Install the same lwd on robot and coordinator."
            ) from error


def _version(found: Mapping[str, Any]) -> int:
    """The version of a message, 0 if it names none."""
    version = found.get("version")
    return version if isinstance(version, int) else 0


def _filled(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """A flat dataclass of a JSON object: lists become tuples, unknown names are an error."""
    known = {field.name for field in dataclasses.fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise KeyError(f"{kind.__name__} has no {', '.join(unknown)}")
    return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})
