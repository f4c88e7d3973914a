"""An option beyond the paper: LWD whose reference goes on learning from what is worth imitating.

The paper freezes pi_beta after the demonstrations, so a skill that it lacks can never be tilted into being. The public QAM
keeps training its behaviour flow on all of its data; here it learns from demonstrations, successes and corrections.
Everything else is Algorithm 2. Decision record 0021.
"""

from __future__ import annotations

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lwd.learner.clone import CloneConfig, CloneState, clone_losses, clone_step, init_clone
from lwd.learner.divl import Metrics
from lwd.learner.method import Acting, from_scratch, go_on
from lwd.learner.stages import Update
from lwd.learner.state import LearnerConfig, LearnerState
from lwd.learner.trainable import prepared
from lwd.learner.update import update, update_critic
from lwd.models.networks import Networks
from lwd.models.protocols import LearnedCritic, LearnedPolicy, Policy
from lwd.models.vla.lora import merged
from lwd.transition import Transition


class RefitState(eqx.Module):
    """LWD's state and the reference's own; the averaged copy of the reference is pi_beta."""

    lwd: LearnerState
    reference: CloneState

    @property
    def step(self) -> Int[Array, ""]:
        """Learner steps done."""
        return self.lwd.step

    @property
    def critic(self) -> LearnedCritic:
        """LWD's value and critic."""
        return self.lwd.critic


def exemplary_loss(
    policy: Policy, batch: Transition, key: PRNGKeyArray
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Flow-matching loss, mean over the batch's exemplary transitions; and their share."""
    losses = clone_losses(policy, batch, key)
    share = jnp.mean(batch.exemplary.astype(losses.dtype))
    return jnp.mean(jnp.where(batch.exemplary, losses, 0.0)) / jnp.maximum(share, 1e-3), share


def fit_reference(
    config: CloneConfig, state: CloneState, batch: Transition, key: PRNGKeyArray
) -> tuple[CloneState, Metrics]:
    """One step of the reference on the exemplary part of the batch; its averaged copy follows."""

    def loss(policy: LearnedPolicy) -> tuple[Float[Array, ""], Metrics]:
        value, share = exemplary_loss(policy, batch, key)
        return value, {"reference/flow_matching_loss": value, "reference/exemplary_share": share}

    return clone_step(config, state, loss)


@dataclass(frozen=True, kw_only=True)
class RefitLwd(LearnerConfig):
    """LWD with a reference that is refitted in every learner step.

    Attributes:
        reference: optimiser and averaging of the reference; its batch is the method's.
    """

    reference: CloneConfig

    def start(self, reference: LearnedPolicy, model: Networks, key: PRNGKeyArray) -> RefitState:
        """LWD's start, and a reference that starts from the demonstrations' clone."""
        lwd = from_scratch(self, reference, model, key, self.divl.atoms)
        return RefitState(lwd, init_clone(self.reference, reference))

    def continued(self, reference: LearnedPolicy, state: LearnerState | RefitState) -> RefitState:
        """Fresh optimisers on the same networks. After plain LWD the reference begins as the demonstrations' clone."""
        if isinstance(state, LearnerState):
            state = RefitState(state, init_clone(self.reference, reference))
        lwd = go_on(self, reference, state.lwd)
        return RefitState(lwd, init_clone(self.reference, state.reference.acting_policy))

    def warm_up(self, reference: LearnedPolicy) -> Update[RefitState]:  # pyright: ignore - a defect of its order
        """Value, critic and reference; the policy is the reference until Algorithm 2 moves it."""
        return eqx.Partial(_warm_up, self)  # pyright: ignore

    def update(self, reference: LearnedPolicy) -> Update[RefitState]:
        """The reference, then Algorithm 2 against its averaged copy."""
        return eqx.Partial(_update, self)  # pyright: ignore

    def acting(self, state: RefitState) -> Acting:
        """The averaged policy, adapters merged."""
        return merged(state.lwd.acting_policy)


def _warm_up(
    config: RefitLwd, state: RefitState, batch: Transition, key: PRNGKeyArray
) -> tuple[RefitState, Metrics]:
    k_reference, k_critic = jax.random.split(key)
    reference, reference_metrics = fit_reference(config.reference, state.reference, batch, k_reference)
    lwd, metrics = update_critic(config, state.lwd, batch, k_critic)
    policy = prepared(reference.acting_policy, config.trainable)
    lwd = eqx.tree_at(lambda s: (s.policy, s.acting_policy), lwd, (policy, policy))
    return RefitState(lwd, reference), {**reference_metrics, **metrics}


def _update(
    config: RefitLwd, state: RefitState, batch: Transition, key: PRNGKeyArray
) -> tuple[RefitState, Metrics]:
    k_reference, k_lwd = jax.random.split(key)
    reference, reference_metrics = fit_reference(config.reference, state.reference, batch, k_reference)
    lwd, metrics = update(config, reference.acting_policy, state.lwd, batch, k_lwd)
    return RefitState(lwd, reference), {**reference_metrics, **metrics}
