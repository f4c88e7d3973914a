"""What the learner sees of a network. MLP and VLA versions share these, so a laptop runs the learner of pi0.5.

Every method takes ONE example; callers `vmap`. Flow time w runs 0 = noise, 1 = action.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float, PRNGKeyArray

from lwd.models.normalizer import Normalizer
from lwd.transition import Observation

Context = Any
"""Whatever `Policy.encode` returns: an array for an MLP, keys and values of the prefix for a VLA."""


@runtime_checkable
class Policy(Protocol):
    """A flow policy: pi_theta, or its frozen reference pi_beta."""

    def encode(self, observation: Observation) -> Context:
        """The part that does not depend on the flow: once per observation, reused by every flow step."""
        ...

    def velocity(
        self, context: Context, a_w: Float[Array, "H A"], w: Float[Array, ""]
    ) -> Float[Array, "H A"]:
        """f(s, a^w, w) of Section 3: the flow's velocity at flow time w."""
        ...


@runtime_checkable
class LearnedPolicy(Policy, Protocol):
    """A policy that a learner trains: a pytree that says which of its parameters only `encode` reads."""

    @property
    def normalizer(self) -> Normalizer:
        """Statistics of proprio; never trained."""
        ...

    def encoder_parts(self) -> tuple[Any, ...]:
        """The vision-language backbone: everything that `encode` reads, and nothing else does.

        Empty where there is no such thing, as in an MLP; then nothing can be frozen.
        """
        ...


@runtime_checkable
class ChunkSampler(Protocol):
    """Something that makes a robot's chunk in a way of its own, such as the best of several by the critic."""

    def sample(
        self, observation: Observation, key: PRNGKeyArray, chunk_shape: tuple[int, int], flow_steps: int
    ) -> Float[Array, "H A"]:
        """The chunk for one observation, in [-1, 1]; all randomness follows from `key`."""
        ...


@runtime_checkable
class Value(Protocol):
    """A distributional value of states."""

    def encode(self, observation: Observation) -> Float[Array, " Z"]:
        """The state representation z_t."""
        ...

    def value_logits(self, z: Float[Array, " Z"]) -> Float[Array, " K"]:
        """Logits of p_psi(v | s) over the K atoms. Paper: Eq 11."""
        ...


@runtime_checkable
class Critic(Value, Protocol):
    """Value and critic on one backbone."""

    def q(self, z: Float[Array, " Z"], chunk: Float[Array, "H A"]) -> Float[Array, " heads"]:
        """The scalar critic's heads Q(s, a)."""
        ...


@runtime_checkable
class LearnedCritic(Critic, Protocol):
    """A critic that a learner trains: a pytree that says what each of the two losses trains. Shared parts are in both."""

    @property
    def normalizer(self) -> Normalizer:
        """Statistics of proprio; never trained."""
        ...

    def value_parts(self) -> tuple[Any, ...]:
        """What the value's loss trains. Paper: Eq 12."""
        ...

    def critic_parts(self) -> tuple[Any, ...]:
        """What the critic's loss trains. Paper: Eq 15."""
        ...
