"""Behaviour cloning that goes on: RFT and HG-DAgger are this method on different mixtures.

RFT, rejection fine-tuning or filtered behaviour cloning, imitates whatever succeeded. HG-DAgger (Kelly et al., arXiv
1810.02890) imitates demonstrations and what an operator did after taking over. Which transitions these are is for the
mixture to say.
"""

from __future__ import annotations

from dataclasses import dataclass

import equinox as eqx
from jaxtyping import PRNGKeyArray

from lwd.learner.clone import CloneConfig, CloneState, init_clone
from lwd.learner.method import Acting
from lwd.learner.stages import Update, clone_stage
from lwd.learner.trainable import prepared
from lwd.models.networks import Networks
from lwd.models.protocols import LearnedPolicy
from lwd.models.vla.lora import merged


@dataclass(frozen=True, kw_only=True)
class Cloning(CloneConfig):
    """Flow matching from the reference on. There is no value to warm up: every learner step is the same."""

    def start(self, reference: LearnedPolicy, model: Networks, key: PRNGKeyArray) -> CloneState:
        """The reference, with a fresh optimiser. Published without a learner step it is the SFT policy."""
        return init_clone(self, reference)

    def continued(self, reference: LearnedPolicy, state: CloneState) -> CloneState:
        """A fresh optimiser on the same policy."""
        fresh = init_clone(self, state.policy)
        acting_policy = prepared(state.acting_policy, self.trainable)
        return eqx.tree_at(lambda s: s.acting_policy, fresh, acting_policy)

    def warm_up(self, reference: LearnedPolicy) -> Update[CloneState]:
        """As every learner step."""
        return clone_stage(self)

    def update(self, reference: LearnedPolicy) -> Update[CloneState]:
        """Flow matching on whatever the stage's mixture draws."""
        return clone_stage(self)

    def acting(self, state: CloneState) -> Acting:
        """The averaged policy, adapters merged."""
        return merged(state.acting_policy)
