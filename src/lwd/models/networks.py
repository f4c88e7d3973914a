"""Where networks come from: sizes for one robot, MLP or VLA, behind one protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import PRNGKeyArray
from numpy.typing import NDArray

from lwd.models.normalizer import Normalizer, Statistics
from lwd.models.protocols import LearnedCritic, LearnedPolicy

MakePrompts = Callable[[Sequence[str], NDArray[np.float32]], dict[str, NDArray[np.int32]]]
"""Instructions [B] and proprio [B, P] -> `Observation.prompts`, each [B, L]."""


@runtime_checkable
class Networks(Protocol):
    """Sizes of policy and critic for one robot: `MlpConfig` or `VlaNetworks`."""

    @property
    def statistics(self) -> Statistics:
        """How these networks want proprio scaled."""
        ...

    def make_policy(self, key: PRNGKeyArray, normalizer: Normalizer) -> LearnedPolicy:
        """The policy that behaviour cloning starts from."""
        ...

    def make_critic(self, key: PRNGKeyArray, normalizer: Normalizer, atoms: int) -> LearnedCritic:
        """Value (of so many outputs) and critic that reinforcement learning starts from."""
        ...

    def prompts(self, network: Any) -> MakePrompts | None:
        """What makes the prompts under this network's `normalizer`; None where networks read the embedded instruction."""
        ...

    def without_weights(self) -> Networks:
        """The same sizes, and nothing read from files: for templates."""
        ...

    def describe(self) -> dict[str, Any]:
        """What a snapshot says of its model: "model", its kind, and sizes that a reader must know."""
        ...
