"""QAM as its authors' released code has it: a critic ensemble bootstrapped from the policy, a reference that keeps learning.

Not what LWD does with QAM (docs/reference/ogbench.md lists the differences); it is here so that our adjoint matching can be
laid beside published numbers. Li & Levine, arXiv 2601.14234, numerics of the authors' repository at commit f93efd2. Symbols:
Q_k critic ensemble, Qbar_k its EMA, rho pessimism, v_b behaviour flow ("slow actor"), v_f policy ("fast actor").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lwd.errors import ConfigError
from lwd.learner.clone import clone_losses
from lwd.learner.divl import Metrics
from lwd.learner.flow import draw_chunk
from lwd.learner.method import Acting
from lwd.learner.optimizers import ema
from lwd.learner.qam import QamConfig, policy_loss
from lwd.learner.stages import Update
from lwd.learner.state import copied, trained_critic, trained_policy
from lwd.models.networks import Networks
from lwd.models.protocols import Critic, LearnedCritic, LearnedPolicy
from lwd.transition import Observation, Transition

# ---- equations -------------------------------------------------------------------------------------------------------


def pessimistic_mean(values: Float[Array, "*n heads"], rho: float) -> Float[Array, "*n"]:
    """mean_k - rho std_k of an ensemble's values; the deviation is that of the population."""
    return jnp.mean(values, axis=-1) - rho * jnp.std(values, axis=-1)


class EnsembleMean(eqx.Module):
    """A critic whose only head is the mean of another's: what QAM's terminal adjoint differentiates, without pessimism."""

    critic: Critic

    def encode(self, observation: Observation) -> Float[Array, " Z"]:
        """As the ensemble."""
        return self.critic.encode(observation)

    def value_logits(self, z: Float[Array, " Z"]) -> Float[Array, " K"]:
        """As the ensemble."""
        return self.critic.value_logits(z)

    def q(self, z: Float[Array, " Z"], chunk: Float[Array, "H A"]) -> Float[Array, " 1"]:
        """mean_k Q_k(s, a)."""
        return jnp.mean(self.critic.q(z, chunk), keepdims=True)


# ---- settings and state ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PublicQam:
    """Settings of the released code.

    Attributes:
        inverse_temperature: tau of pi ~ pi_b exp(tau Q), 1 / lambda.
        learning_rate: of Adam without a schedule, one for everything.
        clip_norm: bound on the global norm of all gradients together.
        rho: pessimism of the critic's target.
        ema_rate: of the target critics and of the behaviour flow's copy. Both follow the parameters from before the step.
    """

    inverse_temperature: float
    learning_rate: float = 3e-4
    clip_norm: float = 1.0
    rho: float = 0.5
    flow_steps: int = 10
    batch: int = 256
    ema_rate: float = 0.005

    def __post_init__(self) -> None:
        if self.inverse_temperature <= 0.0 or self.learning_rate <= 0.0 or self.clip_norm <= 0.0:
            raise ConfigError(
                "PublicQam: inverse_temperature, learning_rate and clip_norm must be positive, got "
                f"{self.inverse_temperature}, {self.learning_rate} and {self.clip_norm}."
            )
        if self.rho < 0.0 or self.batch < 1 or not 0.0 < self.ema_rate <= 1.0:
            raise ConfigError(
                "PublicQam: need rho >= 0, batch >= 1 and ema_rate in (0, 1], got "
                f"{self.rho}, {self.batch} and {self.ema_rate}."
            )

    @property
    def augment(self) -> None:
        """None: its tasks have no pictures."""

    @property
    def qam(self) -> QamConfig:
        """The same in QAM's own settings."""
        return QamConfig(temperature=1.0 / self.inverse_temperature, flow_steps=self.flow_steps)

    def start(self, reference: LearnedPolicy, model: Networks, key: PRNGKeyArray) -> PublicQamState:
        """Everything from scratch, the two flows independently of each other; of `reference` only the normaliser is used."""
        k_policy, k_behaviour, k_critic = jax.random.split(key, 3)
        policy = model.make_policy(k_policy, copied(reference.normalizer))
        behaviour = model.make_policy(k_behaviour, copied(reference.normalizer))
        critic = model.make_critic(k_critic, copied(reference.normalizer), 1)  # its value rests
        return _with_optimizer(self, _Learned(policy, behaviour, critic), copied(behaviour), copied(critic))

    def continued(self, reference: LearnedPolicy, state: PublicQamState) -> PublicQamState:
        """A fresh optimiser on the same networks."""
        return _with_optimizer(self, copied(state.learned), state.behaviour_average, state.target)

    def warm_up(self, reference: LearnedPolicy) -> Update[PublicQamState]:
        """As every learner step: there is no stage of the critic alone."""
        return self.update(reference)

    def update(self, reference: LearnedPolicy) -> Update[PublicQamState]:
        """One step on the sum of the three losses. The behaviour flow is in the state; `reference` is not used."""
        return eqx.Partial(update, self)  # pyright: ignore

    def acting(self, state: PublicQamState) -> Acting:
        """The live policy: no average of it is ever used."""
        return state.learned.policy


class _Learned(eqx.Module):
    """What the one optimiser trains."""

    policy: LearnedPolicy
    behaviour: LearnedPolicy
    critic: LearnedCritic


class PublicQamState(eqx.Module):
    """What a checkpoint holds."""

    step: Int[Array, ""]
    learned: _Learned
    optimizer: optax.OptState
    behaviour_average: LearnedPolicy
    target: LearnedCritic


def _optimizer(config: PublicQam) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optax.adam(config.learning_rate))


def _trained(learned: _Learned) -> _Learned:
    return _Learned(
        trained_policy(learned.policy), trained_policy(learned.behaviour), trained_critic(learned.critic)
    )


def _with_optimizer(
    config: PublicQam, learned: _Learned, behaviour_average: LearnedPolicy, target: LearnedCritic
) -> PublicQamState:
    memory = _optimizer(config).init(eqx.filter(learned, _trained(learned)))
    return PublicQamState(jnp.zeros((), jnp.int32), learned, memory, behaviour_average, target)


# ---- one learner step ------------------------------------------------------------------------------------------------


class _Keys(NamedTuple):
    target: PRNGKeyArray
    behaviour: PRNGKeyArray
    policy: PRNGKeyArray


def critic_target(
    config: PublicQam, policy: LearnedPolicy, target: Critic, batch: Transition, key: PRNGKeyArray
) -> Float[Array, " B"]:
    """Each y = reward + discount (mean_k - rho std_k) Qbar_k(s', a') with one a' of the policy; no gradient, no clipping."""
    shape = batch.chunk.shape[-2:]

    def values(observation: Observation, key: PRNGKeyArray) -> Float[Array, " heads"]:
        chunk = draw_chunk(policy, observation, key, (shape[0], shape[1]), config.flow_steps)
        return target.q(target.encode(observation), chunk)

    found = jax.vmap(values)(batch.next_observation, jax.random.split(key, batch.reward.shape[0]))
    return jax.lax.stop_gradient(batch.reward + batch.discount * pessimistic_mean(found, config.rho))


def losses(
    config: PublicQam, state: PublicQamState, learned: _Learned, batch: Transition, keys: _Keys
) -> tuple[Float[Array, ""], Metrics]:
    """L_Q + L_BC + L_AM. A chunk that an episode's end cut short counts in the last one only, which needs its state alone."""
    counts = jnp.all(batch.valid, axis=-1).astype(batch.reward.dtype)
    y = critic_target(config, state.learned.policy, state.target, batch, keys.target)
    q = jax.vmap(lambda o, a: learned.critic.q(learned.critic.encode(o), a))(batch.observation, batch.chunk)
    critic = jnp.mean(counts[:, None] * jnp.square(q - y[:, None]))
    cloning = jnp.mean(counts * clone_losses(learned.behaviour, batch, keys.behaviour))
    matching, metrics = policy_loss(
        learned.policy,
        state.behaviour_average,
        EnsembleMean(state.target),
        batch.observation,
        (batch.chunk.shape[-2], batch.chunk.shape[-1]),
        keys.policy,
        config.qam,
    )
    return critic + cloning + matching, {
        **metrics,
        "critic/loss": critic,
        "critic/q": jnp.mean(q),
        "critic/target": jnp.mean(y),
        "critic/head_gap": jnp.mean(jnp.max(q, axis=-1) - jnp.min(q, axis=-1)),
        "reference/flow_matching_loss": cloning,
        "replay/whole_chunks": jnp.mean(counts),
    }


def update(
    config: PublicQam, state: PublicQamState, batch: Transition, key: PRNGKeyArray
) -> tuple[PublicQamState, Metrics]:
    """One Adam step on everything at once; the two averages move towards the parameters from before it."""
    keys = _Keys(*jax.random.split(key, 3))
    loss: Callable[[_Learned], tuple[Float[Array, ""], Metrics]] = lambda learned: losses(  # noqa: E731
        config, state, learned, batch, keys
    )
    (_, metrics), gradients = eqx.filter_value_and_grad(loss, has_aux=True)(state.learned)
    mask = _trained(state.learned)
    gradients = eqx.filter(gradients, mask)
    changes, memory = _optimizer(config).update(gradients, state.optimizer, eqx.filter(state.learned, mask))
    moved = PublicQamState(
        step=state.step + 1,
        learned=eqx.apply_updates(state.learned, changes),
        optimizer=memory,
        behaviour_average=ema(state.behaviour_average, state.learned.behaviour, config.ema_rate),
        target=ema(state.target, state.learned.critic, config.ema_rate),
    )
    return moved, {**metrics, "gradient_norm": optax.global_norm(gradients)}
