"""The replay as its users see it: episodes in, views and samplers out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lwd.episode import Episode
from lwd.errors import ConfigError, StoreError
from lwd.replay.mixture import Mixture
from lwd.replay.sampler import MakePrompts, Sampler
from lwd.replay.store import Store
from lwd.replay.view import Embed, SummaryRow, View, embed_all, summary
from lwd.spec import RobotSpec, TaskSpec


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """Settings of the replay.

    Attributes:
        gamma: discount per control step; the paper's 0.9999 at 30 Hz, 0.998 for the simulated fleet's short
            episodes.
        takeover_fails: whether a takeover ends the return of the policy's chunks before it as a failure.
        image_side: pictures of a batch are [side, side, 3], resized with padding (224 for pi0.5); None: as
            recorded.
        decode_threads: that read and decode pictures beside the learner, None for one per core (at most 16).
            Batches do not depend on it. For users of this class only: no Experiment and no command sets it.
    """

    gamma: float = 0.998
    takeover_fails: bool = False
    image_side: int | None = None
    decode_threads: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 1:
            raise ConfigError(f"ReplayConfig: gamma must lie in (0, 1], got {self.gamma}.")
        for name in ("image_side", "decode_threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"ReplayConfig: {name} must be at least 1 or None, got {value}.")


class Replay:
    """A folder of episodes of one robot kind, its growing manifests, and the samplers over them.

    Args:
        folder: of the step arrays; a cache that can be rebuilt from the log.
        spec: the robot kind.
        tasks: the fleet's tasks, in the order of `Transition.task`.
        embed: instruction text -> float32 [E].
        config: how returns are made.
    """

    def __init__(
        self,
        folder: Path | str,
        spec: RobotSpec,
        tasks: Sequence[TaskSpec],
        embed: Embed,
        config: ReplayConfig | None = None,
    ) -> None:
        self.config = config or ReplayConfig()
        self.store = Store(folder, spec, tasks, self.config.image_side, self.config.decode_threads)
        self._embed = embed
        self._manifest = self.store.complete_manifest
        self._vectors = np.empty((0, 0), np.float32)

    @property
    def manifest(self) -> int:
        """The newest manifest that is here completely."""
        return self._manifest

    def add(self, episode: Episode) -> bool:
        """Append an episode without a log: it becomes a manifest of its own. True if new, False if its id is
        here already.

        Raises:
            EpisodeError: it does not fit the spec or the tasks.
            StoreError: the disk refuses.
        """
        number = self.last_number + 1
        added = self.store.append(episode, number, self._manifest + 1)
        self._manifest += added
        return added

    @property
    def last_number(self) -> int:
        """The log's number of the newest episode, 0 without one."""
        return int(self.store.episodes[-1]["number"]) if self.store.count else 0

    def complete(self, manifest: int) -> None:
        """Note that all episodes of manifests up to this one have been appended (the reader calls it)."""
        self._manifest = max(self._manifest, manifest)

    def view(self, manifest: int | None = None) -> View:
        """The replay frozen at a manifest, by default the newest. The same number gives the same view, before
        and after growth.

        Raises:
            StoreError: that manifest is not here yet.
        """
        manifest = self._manifest if manifest is None else manifest
        if not 0 <= manifest <= self._manifest:
            raise StoreError(
                f"Manifest {manifest} is not in the replay {self.store.folder}, whose newest is "
                f"{self._manifest}. Refresh the reader first."
            )
        episodes = self.store.episodes
        return View(
            manifest=manifest,
            spec=self.store.spec,
            tasks=self.store.tasks,
            gamma=self.config.gamma,
            takeover_fails=self.config.takeover_fails,
            episodes=episodes[: int(np.searchsorted(episodes["manifest"], manifest, "right"))],
            columns=self.store.columns(),
            instructions=self._instructions(),
            sentences=tuple(self.store.instructions),
            pictures=self.store.all_pictures,
        )

    def sampler(
        self, view: View, mixture: Mixture, seed: int, prompts: MakePrompts | None = None, stream: int = 0
    ) -> Sampler:
        """A sampler over a view; n is part of the mixture's pools, `prompts` of a network that reads them. See `Sampler`."""
        return Sampler(view, mixture, seed, prompts, stream)

    def summary(self, view: View | None = None) -> list[SummaryRow]:
        """Episodes, hours and success per task and source."""
        return summary(view or self.view())

    def close(self) -> None:
        """Release the folder. Views of state tasks stay usable; views with cameras do not."""
        self.store.close()

    def _instructions(self) -> NDArray[np.float32]:
        """Vectors of all sentences, embedding only those that are new."""
        sentences = self.store.instructions
        known = len(self._vectors)
        if len(sentences) > known:
            new = embed_all(sentences[known:], self._embed)
            self._vectors = np.concatenate((self._vectors, new)) if known else new
        return self._vectors
