"""Gates before a candidate meets a robot: does it load as robots load it, and does it move as the stable one does? No JAX.

Gates are cheap and see no consequences: what passes them is tested on canaries.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwd.errors import ConfigError, EpisodeError, SnapshotError
from lwd.instruction import InstructionEncoder
from lwd.log.catalogue import Catalogue
from lwd.log.codec import decode
from lwd.log.objects import MissingObjectError, ObjectStore
from lwd.robot.state_policy import StatePolicy
from lwd.snapshot.store import KIND, Snapshot
from lwd.spec import RobotSpec

log = logging.getLogger(__name__)

Chunks = NDArray[np.float32]
"""Action chunks [N, H, A], one per observation."""
MODEL = "mlp"
"""The model that a robot's computer runs by itself, in NumPy, and so can this one."""


@dataclass(frozen=True, kw_only=True)
class GateLimits:
    """What a candidate must keep to.

    Attributes:
        episodes: how many of the newest recorded episodes observations are taken from; observations: how many of them.
        saturated_at: an action coordinate of this size or more is at the end of its range of [-1, 1].
        saturated_more: how much larger the share of such coordinates may be than under the stable policy.
        distance: largest root mean square, over coordinates, of candidate minus stable under the same noise. Two policies
            that have nothing to do with each other are 0.8 apart (uniform actions).
    """

    episodes: int = 20
    observations: int = 200
    saturated_at: float = 0.999
    saturated_more: float = 0.2
    distance: float = 0.5

    def __post_init__(self) -> None:
        if min(self.episodes, self.observations, self.saturated_at, self.saturated_more, self.distance) <= 0:
            raise ConfigError(f"GateLimits: all must be positive, got {self}.")


@dataclass(frozen=True)
class Seen:
    """One recorded observation: proprio float32 [P], and the sentence."""

    proprio: NDArray[np.float32]
    instruction: str


@dataclass(frozen=True)
class Report:
    """What the gates found: `refused` says why, None if it passed; `said` what was looked at."""

    refused: str | None
    said: str


Content = tuple[Mapping[str, NDArray[Any]], Snapshot]
"""A verified snapshot's arrays, and its row with the metadata of its file: what `SnapshotStore.load` returns."""


def examine(
    candidate: Content,
    stable: Content | None,
    spec: RobotSpec,
    encoder: InstructionEncoder,
    seen: Sequence[Seen],
    limits: GateLimits,
) -> Report:
    """Put a candidate through all gates.

    Args:
        candidate: what is examined.
        stable: what it is compared with; None for the first of all, which only has to load and move.
        spec: the kind of robot.
        encoder: the robots' instruction encoder.
        seen: recorded observations.
        limits: what it must keep to.

    Raises:
        SnapshotError: the stable policy cannot be loaded.
    """
    row = candidate[1]
    if row.meta.get(KIND) != spec.name:
        return Report(f"it is for robots of kind {row.meta.get(KIND)!r:.80}, not {spec.name!r}", "its kind")
    model = row.meta.get("model")
    if model != MODEL:
        return Report(None, f"its kind only: this computer does not run a {model!r:.40} policy")
    try:
        policy = _policy(candidate, spec, encoder)
    except SnapshotError as error:
        return Report(str(error), "whether it loads")
    before, said = None, f"its chunks on {len(seen)} recorded observations"
    if stable is not None and stable[1].meta.get("model") == MODEL:
        before = chunks_of(_policy(stable, spec, encoder), encoder, seen)
    try:
        chunks = chunks_of(policy, encoder, seen)
    except Exception as error:  # whatever it is, on a robot it would be the same
        return Report(f"it fails on recorded observations: {type(error).__name__}: {error!s:.200}", said)
    return Report(refusal(chunks, before, limits), said)


def refusal(candidate: Chunks, stable: Chunks | None, limits: GateLimits) -> str | None:
    """Why these chunks are refused, beside the stable policy's on the same observations and noise; None if they pass."""
    if not len(candidate):
        return None
    bad = ~np.isfinite(candidate)
    if bad.any():
        return f"{np.mean(bad.any(axis=(1, 2))):.0%} of its chunks hold NaN or infinity"
    largest = float(np.abs(candidate).max())
    if largest > 1:
        return f"its largest action is {largest:.3g}; expected -1 to 1"
    if stable is None:
        return None
    shares = [float(np.mean(np.abs(chunks) >= limits.saturated_at)) for chunks in (candidate, stable)]
    if shares[0] > shares[1] + limits.saturated_more:
        return (
            f"{shares[0]:.0%} of its action coordinates are at the end of their range, {shares[1]:.0%} of the stable one's; "
            f"allowed are {limits.saturated_more:.0%} more"
        )
    distance = float(np.sqrt(np.mean((candidate.astype(np.float64) - stable) ** 2)))
    if distance > limits.distance:
        return (
            f"its chunks are {distance:.2f} (RMS) away from the stable one's; allowed are {limits.distance:g}"
        )
    return None


def chunks_of(policy: StatePolicy, encoder: InstructionEncoder, seen: Sequence[Seen]) -> Chunks:
    """A policy's chunk for each observation; the noise follows from the observation's place, so it is the same for all."""
    with np.errstate(all="ignore"):  # a policy that overflows is refused for what comes of it
        found = [
            policy.chunk(one.proprio, encoder(one.instruction), index, 0) for index, one in enumerate(seen)
        ]
    return np.stack(found) if found else np.zeros((0, 1, 1), np.float32)


def observations(
    catalogue: Catalogue, objects: ObjectStore, spec: RobotSpec, limits: GateLimits
) -> list[Seen]:
    """States at which a chunk begins, evenly from the newest episodes of a kind of robot.

    Raises:
        StoreError: catalogue or store cannot be reached.
    """
    rows = [
        row for row in catalogue.episodes(limit=10 * limits.episodes, newest=True) if row.spec == spec.name
    ]
    found: list[Seen] = []
    for row in rows[-limits.episodes :]:
        try:
            episode = decode(objects.get(row.key))
        except (EpisodeError, MissingObjectError) as error:  # `lwd log verify` is about that
            log.warning("episode_not_read episode=%s cause=%r", row.episode_id, str(error))
            continue
        starts = episode.proprio[: -1 : spec.chunk_steps]
        found += [Seen(proprio, episode.header.instruction) for proprio in starts]
    every = max(1, -(-len(found) // limits.observations))
    return found[::every]


def _policy(content: Content, spec: RobotSpec, encoder: InstructionEncoder) -> StatePolicy:
    arrays, row = content
    return StatePolicy(arrays, row.meta, spec, encoder.version, f"snapshot {row.number}")
