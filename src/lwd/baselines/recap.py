"""RECAP (pi*0.6, arXiv 2511.14759): a value of the data's returns, and a policy conditioned on whether an action beat it.

Symbols: V(s) mean of the value's distribution, R return to the end of the episode, A advantage over the mixture's window,
epsilon_k threshold of task k. What is like the paper and what is not: docs/reference/methods/recap.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from lwd.baselines.conditioned import AdvantagePolicy, unconditioned
from lwd.errors import ConfigError
from lwd.learner.divl import Metrics, cross_entropy
from lwd.learner.flow import flow_matching_loss
from lwd.learner.method import Acting
from lwd.learner.optimizers import OptimizerConfig, all_leaves, ema, make_optimizer, step
from lwd.learner.stages import Update
from lwd.learner.state import copied, trained_policy
from lwd.models.mlp import MlpConfig, MlpPolicy, MlpValue
from lwd.models.networks import Networks
from lwd.models.protocols import LearnedPolicy, Value
from lwd.transition import Observation, Transition

# ---- equations -------------------------------------------------------------------------------------------------------


def mean_value(value: Value, observation: Observation, atoms: Float[Array, " K"]) -> Float[Array, ""]:
    """V(s) = sum_c p_c(s) atom_c."""
    return jax.nn.softmax(value.value_logits(value.encode(observation))) @ atoms


def returns(value: Value, batch: Transition, atoms: Float[Array, " K"]) -> Float[Array, " B"]:
    """The return over the window and what follows it, reward + discount * V(s'), no gradient.

    With windows that reach to the end of the episode this is R itself: `discount` is 0 there, except where an episode ended
    without a verdict. With short windows it is the first half of the advantage.
    """
    following = jax.vmap(mean_value, (None, 0, None))(value, batch.next_observation, atoms)
    return jax.lax.stop_gradient(batch.reward + batch.discount * following)


def advantages(value: Value, batch: Transition, atoms: Float[Array, " K"]) -> Float[Array, " B"]:
    """A = reward + discount * V(s') - V(s) over the window of the batch's transitions, no gradient."""
    here = jax.vmap(mean_value, (None, 0, None))(value, batch.observation, atoms)
    return returns(value, batch, atoms) - jax.lax.stop_gradient(here)


def indicators(
    advantage: Float[Array, " B"], threshold: Float[Array, " tasks"], batch: Transition
) -> Bool[Array, " B"]:
    """Positive where A exceeds its task's threshold, and wherever a human demonstrates or corrects.

    Play is commanded by a human too, but meant to fail: it is not `exemplary`, so its advantage decides.
    """
    return (advantage > threshold[batch.task]) | (batch.intervention & batch.exemplary)


def track_thresholds(
    threshold: Float[Array, " tasks"],
    task: Int[Array, " B"],
    advantage: Float[Array, " B"],
    counted: Bool[Array, " B"],
    positive_share: float,
    rate: float,
) -> Float[Array, " tasks"]:
    """One step towards the thresholds that `positive_share` of each task's counted advantages exceed.

    epsilon_k moves by rate * (share above it - positive_share); at the quantile the mean step is 0 (Robbins and Monro). A task
    without a counted advantage in the batch stays where it is.
    """
    member = (task[:, None] == jnp.arange(threshold.shape[0])) & counted[:, None]
    above = jnp.sum(member & (advantage[:, None] > threshold), axis=0)
    count = jnp.sum(member, axis=0)
    moved = rate * (above / jnp.maximum(count, 1) - positive_share)
    return threshold + jnp.where(count > 0, moved, 0.0)


# ---- settings and state ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Recap:
    """Settings of RECAP. The warm-up fits the value and nothing else, the update fits the policy and nothing else.

    Attributes:
        policy, value: optimisers.
        tasks: how many tasks the fleet has: a threshold each.
        atoms, value_low, value_high: support of the value, as LWD's.
        positive_share: of the advantages of what the policy did by itself, how many exceed the threshold.
        threshold_rate: step of the threshold's tracker, in units of the value.
        dropout: probability with which training hides the indicator.
        guidance: strength of classifier-free guidance when acting; 1 only conditions.
        batch: transitions per learner step.
        policy_ema_rate: of the policy copy that is published.
    """

    policy: OptimizerConfig
    value: OptimizerConfig
    tasks: int
    atoms: int = 201
    value_low: float = -0.1
    value_high: float = 1.1
    positive_share: float = 0.4
    threshold_rate: float = 1e-3
    dropout: float = 0.3
    guidance: float = 1.0
    batch: int = 256
    policy_ema_rate: float = 0.002

    def __post_init__(self) -> None:
        if min(self.tasks, self.batch) < 1 or self.atoms < 2:
            raise ConfigError("Recap: tasks and batch must be at least 1, atoms at least 2.")
        if self.value_low >= self.value_high:
            raise ConfigError(
                f"Recap: value_low {self.value_low} must be below value_high {self.value_high}."
            )
        if not 0.0 < self.positive_share < 1.0 or not 0.0 <= self.dropout < 1.0:
            raise ConfigError(
                "Recap: need 0 < positive_share < 1 and 0 <= dropout < 1, got "
                f"{self.positive_share} and {self.dropout}."
            )
        if self.threshold_rate <= 0.0 or self.guidance < 0.0 or not 0.0 < self.policy_ema_rate <= 1.0:
            raise ConfigError(
                "Recap: need threshold_rate > 0, guidance >= 0 and policy_ema_rate in (0, 1], got "
                f"{self.threshold_rate}, {self.guidance} and {self.policy_ema_rate}."
            )

    @property
    def augment(self) -> None:
        """None: its networks have no way for pictures to come in."""

    def support(self) -> Float[Array, " K"]:
        """The atoms, evenly spaced."""
        return jnp.linspace(self.value_low, self.value_high, self.atoms)

    def start(self, reference: LearnedPolicy, model: Networks, key: PRNGKeyArray) -> RecapState:
        """Value from scratch, thresholds at 0, policy from the reference.

        Raises:
            ConfigError: the networks are no MLPs.
        """
        if not isinstance(model, MlpConfig):
            raise ConfigError(
                f"Recap conditions the first layer of an MLP on the advantage; it has no way into a {type(model).__name__}. "
                "Use another method, or ModelConfig."
            )
        value = MlpValue.init(key, replace(model, atoms=self.atoms), reference.normalizer)
        return init_recap(self, _mlp(reference), value, jnp.zeros(self.tasks))

    def continued(self, reference: LearnedPolicy, state: RecapState) -> RecapState:
        """The value goes on; the policy starts from the reference again, as in every round of the paper."""
        return init_recap(self, _mlp(reference), state.value, state.threshold)

    def warm_up(self, reference: LearnedPolicy) -> Update[RecapState]:
        """The value, from windows that reach to the end of the episode."""
        return eqx.Partial(fit_value, self)  # pyright: ignore

    def update(self, reference: LearnedPolicy) -> Update[RecapState]:
        """The policy; the value rests."""
        return eqx.Partial(fit_policy, self)  # pyright: ignore

    def acting(self, state: RecapState) -> Acting:
        """The averaged policy, told "positive"."""
        return state.acting_policy


class RecapState(eqx.Module):
    """What a checkpoint holds."""

    step: Int[Array, ""]
    value: MlpValue
    value_opt: optax.OptState
    policy: AdvantagePolicy
    policy_opt: optax.OptState
    acting_policy: AdvantagePolicy
    threshold: Float[Array, " tasks"]


def _mlp(reference: LearnedPolicy) -> MlpPolicy:
    """Narrowed; `start` has refused everything else."""
    assert isinstance(reference, MlpPolicy)
    return reference


def trained_parts(policy: AdvantagePolicy) -> AdvantagePolicy:
    """Mask of the policy's trained leaves: all but the normaliser."""
    return eqx.tree_at(lambda p: p.base, all_leaves(policy), trained_policy(policy.base))


def trained_value(value: MlpValue) -> MlpValue:
    """Mask of the value's trained leaves: all but the normaliser."""
    mask = jax.tree.map(lambda _: False, value)
    return eqx.tree_at(lambda v: v.value, mask, all_leaves(value.value))


def init_recap(
    config: Recap, reference: MlpPolicy, value: MlpValue, threshold: Float[Array, " tasks"]
) -> RecapState:
    """Fresh optimisers, the policy from the reference, the value as it is."""
    policy = unconditioned(reference, config.guidance)
    return RecapState(
        step=jnp.zeros((), jnp.int32),
        value=copied(value),
        value_opt=make_optimizer(config.value).init(eqx.filter(value, trained_value(value))),
        policy=copied(policy),
        policy_opt=make_optimizer(config.policy).init(eqx.filter(policy, trained_parts(policy))),
        acting_policy=copied(policy),
        threshold=jnp.copy(threshold),
    )


# ---- one learner step ------------------------------------------------------------------------------------------------


def fit_value(
    config: Recap, state: RecapState, batch: Transition, key: PRNGKeyArray
) -> tuple[RecapState, Metrics]:
    """One step of cross entropy between the projected returns and the value's distribution."""
    atoms = config.support()
    labels = returns(state.value, batch, atoms)
    loss, gradients = eqx.filter_value_and_grad(cross_entropy)(state.value, batch.observation, labels, atoms)
    value, value_opt = step(
        make_optimizer(config.value), state.value, trained_value(state.value), gradients, state.value_opt
    )
    state = eqx.tree_at(lambda s: (s.step, s.value, s.value_opt), state, (state.step + 1, value, value_opt))
    return state, {"value/cross_entropy": loss, "value/return": jnp.mean(labels)}


def conditioned_loss(
    policy: AdvantagePolicy,
    batch: Transition,
    positive: Bool[Array, " B"],
    kept: Bool[Array, " B"],
    key: PRNGKeyArray,
) -> Float[Array, ""]:
    """Flow-matching loss over a batch, every transition under its own indicator, mean."""

    def one(
        positive: Bool[Array, ""], kept: Bool[Array, ""], example: Transition, key: PRNGKeyArray
    ) -> Float[Array, ""]:
        told = policy.told(positive, kept)
        return flow_matching_loss(told, example.observation, example.chunk, example.valid, key)

    keys = jax.random.split(key, positive.shape[0])
    return jnp.mean(jax.vmap(one)(positive, kept, batch, keys))


def fit_policy(
    config: Recap, state: RecapState, batch: Transition, key: PRNGKeyArray
) -> tuple[RecapState, Metrics]:
    """Indicators by the resting value, one step of flow matching under them; then the thresholds move."""
    k_keep, k_flow = jax.random.split(key)
    advantage = advantages(state.value, batch, config.support())
    positive = indicators(advantage, state.threshold, batch)
    kept = jax.random.bernoulli(k_keep, 1.0 - config.dropout, positive.shape)
    loss, gradients = eqx.filter_value_and_grad(conditioned_loss)(state.policy, batch, positive, kept, k_flow)
    policy, policy_opt = step(
        make_optimizer(config.policy), state.policy, trained_parts(state.policy), gradients, state.policy_opt
    )
    acting_policy = ema(state.acting_policy, policy, config.policy_ema_rate)
    threshold = track_thresholds(
        state.threshold,
        batch.task,
        advantage,
        ~batch.intervention,
        config.positive_share,
        config.threshold_rate,
    )
    state = eqx.tree_at(
        lambda s: (s.step, s.policy, s.policy_opt, s.acting_policy, s.threshold),
        state,
        (state.step + 1, policy, policy_opt, acting_policy, threshold),
    )
    return state, {
        "policy/flow_matching_loss": loss,
        "policy/advantage": jnp.mean(advantage),
        "policy/positive_share": jnp.mean(positive.astype(jnp.float32)),
        "policy/threshold": jnp.mean(threshold[batch.task]),
    }
