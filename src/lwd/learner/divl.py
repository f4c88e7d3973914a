"""DIVL, distributional implicit value learning (Section 4 of the paper, Eq 11-24).

Symbols: p_psi(v|s) categorical value over K atoms, Q critic, Qbar its EMA target, tau quantile level, Hn normalised entropy.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from lwd.errors import ConfigError
from lwd.models.protocols import Critic, Value
from lwd.transition import Observation, Transition

Metrics = dict[str, Float[Array, ""]]


@dataclass(frozen=True, kw_only=True)
class DivlConfig:
    """Settings of DIVL.

    Attributes:
        atoms, value_low, value_high: the support of p_psi (201 atoms on [-0.1, 1.1] in the paper).
        tau_base, alpha: Eq 18; in the paper 0.6 offline, 0.9 online, alpha 0.3.
        tau_min, tau_max: the clip of Eq 18, not published; decision record 0005.
    """

    atoms: int = 201
    value_low: float = -0.1
    value_high: float = 1.1
    tau_base: float = 0.6
    alpha: float = 0.3
    tau_min: float = 0.05
    tau_max: float = 0.99

    def __post_init__(self) -> None:
        if self.atoms < 2:
            raise ConfigError(f"DivlConfig: atoms must be at least 2, got {self.atoms}.")
        if self.value_low >= self.value_high:
            raise ConfigError(
                f"DivlConfig: value_low {self.value_low} must be below value_high {self.value_high}."
            )
        if not 0.0 < self.tau_min <= self.tau_max < 1.0:
            raise ConfigError(
                f"DivlConfig: need 0 < tau_min <= tau_max < 1, got {self.tau_min} and {self.tau_max}."
            )
        if not 0.0 < self.tau_base <= 1.0:
            raise ConfigError(f"DivlConfig: tau_base must be in (0, 1], got {self.tau_base}.")

    def support(self) -> Float[Array, " K"]:
        """The K atoms, evenly spaced."""
        return jnp.linspace(self.value_low, self.value_high, self.atoms)


# ---- equations: one example, no parameters ---------------------------------------------------------------------------


def project(q: Float[Array, ""], atoms: Float[Array, " K"]) -> Float[Array, " K"]:
    """Split a scalar over its two neighbouring atoms, after clipping it to the support.

    Paper: Eq 12, 20, 21 (the C51 projection of a point mass). Sums to 1; its mean is the clipped q.
    """
    last = atoms.shape[0] - 1
    position = jnp.clip((q - atoms[0]) / (atoms[-1] - atoms[0]) * last, 0.0, last)
    return jnp.clip(1.0 - jnp.abs(jnp.arange(last + 1) - position), 0.0, 1.0)


def quantile(
    probabilities: Float[Array, " K"], tau: Float[Array, ""], atoms: Float[Array, " K"]
) -> Float[Array, ""]:
    """The first atom whose cumulative probability reaches tau.

    Paper: Eq 13, 16, 22, 23. In float32 the cumulative sum may end a little below 1, where a tau near 1 would fall off the end
    (or onto an atom without mass); dividing by its last entry makes it reach exactly 1 at the last atom with mass.
    """
    cumulative = jnp.cumsum(probabilities)
    return atoms[jnp.argmax(cumulative / cumulative[-1] >= jnp.minimum(tau, 1.0))]


def normalized_entropy(log_probabilities: Float[Array, " K"]) -> Float[Array, ""]:
    """Hn = -sum p log p / log K, in [0, 1]. Paper: Eq 17, 24."""
    p = jnp.exp(log_probabilities)
    plogp = jnp.where(p > 0.0, p * log_probabilities, 0.0)
    return -jnp.sum(plogp) / jnp.log(log_probabilities.shape[0])


def adaptive_tau(entropy: Float[Array, ""], config: DivlConfig) -> Float[Array, ""]:
    """tau(s) = clip(tau_base - alpha Hn(s), tau_min, tau_max), no gradient. Paper: Eq 18."""
    tau = jnp.clip(config.tau_base - config.alpha * entropy, config.tau_min, config.tau_max)
    return jax.lax.stop_gradient(tau)


def read_value(
    logits: Float[Array, " K"], config: DivlConfig
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """The scalar that DIVL bootstraps from, with its tau and entropy. Paper: Eq 13, 16 (fit, then read), 17, 18."""
    log_p = jax.nn.log_softmax(logits)
    entropy = normalized_entropy(log_p)
    tau = adaptive_tau(entropy, config)
    return quantile(jnp.exp(log_p), tau, config.support()), tau, entropy


# ---- losses: parameters in, scalar and metrics out -------------------------------------------------------------------


def pessimistic_q(critic: Critic, observation: Observation, chunk: Float[Array, "H A"]) -> Float[Array, ""]:
    """Minimum over the critic's heads: clipped double-Q."""
    return jnp.min(critic.q(critic.encode(observation), chunk))


def fill_tail(
    chunk: Float[Array, "H A"], valid: Bool[Array, " H"], key: PRNGKeyArray, scale: float = 0.1
) -> Float[Array, "H A"]:
    """Blur the tail of a chunk that the episode's end cut short, for the critic.

    After the end nothing is executed, so every tail has the same return; a constant tail would let the critic read
    "the end is near" off the padding. Decision record 0009.
    """
    noise = scale * jax.random.normal(key, chunk.shape)
    return jnp.where(valid[:, None], chunk, jnp.clip(chunk + noise, -1.0, 1.0))


def target_values(target: Critic, batch: Transition) -> Float[Array, " B"]:
    """What the value learns from: the target critic's pessimistic value of every replay action, no gradient."""
    values = jax.vmap(pessimistic_q, (None, 0, 0))(target, batch.observation, batch.chunk)
    return jax.lax.stop_gradient(values)


def cross_entropy(
    value: Value, observation: Observation, labels: Float[Array, " B"], atoms: Float[Array, " K"]
) -> Float[Array, ""]:
    """Between scalars projected onto the atoms and the value's distribution, mean over a batch. Paper: Eq 12, 20, 21."""
    projected = jax.vmap(project, (0, None))(labels, atoms)
    logits = jax.vmap(lambda o: value.value_logits(value.encode(o)))(observation)
    return -jnp.mean(jnp.sum(projected * jax.nn.log_softmax(logits), axis=-1))


def value_loss(
    critic: Critic, target: Critic, batch: Transition, config: DivlConfig
) -> tuple[Float[Array, ""], Metrics]:
    """Cross entropy between the projected target-critic value of the replay action and p_psi. Paper: Eq 12, 20, 21."""
    labels = target_values(target, batch)
    loss = cross_entropy(critic, batch.observation, labels, config.support())
    return loss, {"value/cross_entropy": loss, "value/label": jnp.mean(labels)}


def bootstrap_target(
    critic: Critic, batch: Transition, config: DivlConfig
) -> tuple[Float[Array, " B"], Metrics]:
    """y_Q = reward + discount * Quant_tau(V(s')), with the live value. Paper: Eq 14, 17, 18, 19."""
    logits = jax.vmap(lambda o: critic.value_logits(critic.encode(o)))(batch.next_observation)
    value, tau, entropy = jax.vmap(read_value, (0, None))(logits, config)
    y = jax.lax.stop_gradient(batch.reward + batch.discount * value)
    return y, {
        "value/quantile": jnp.mean(value),
        "value/tau": jnp.mean(tau),
        "value/entropy": jnp.mean(entropy),
        "critic/target": jnp.mean(y),
    }


def critic_loss(critic: Critic, batch: Transition, y: Float[Array, " B"]) -> tuple[Float[Array, ""], Metrics]:
    """Squared error of every head to the same target, mean over heads and batch. Paper: Eq 15."""
    q = jax.vmap(lambda o, a: critic.q(critic.encode(o), a))(batch.observation, batch.chunk)
    error = q - y[:, None]
    loss = jnp.mean(jnp.square(error))
    return loss, {
        "critic/loss": loss,
        "critic/td_error": jnp.mean(jnp.abs(error)),
        "critic/q": jnp.mean(q),
        "critic/head_gap": jnp.mean(jnp.max(q, axis=-1) - jnp.min(q, axis=-1)),
    }
