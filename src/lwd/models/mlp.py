"""Policy and critic as multilayer perceptrons, for state observations. Every test, the demo and every table run on these."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lwd.errors import ConfigError
from lwd.models.normalizer import Normalizer, Statistics
from lwd.transition import Observation


@dataclass(frozen=True, kw_only=True)
class MlpConfig:
    """Sizes of the MLP policy and critic.

    Attributes:
        proprio_dim, instruction_dim: P and E of the observation.
        chunk_steps, action_dim: H and A of an action chunk.
        width, depth: of every hidden stack.
        policy_width: of the policy's, None for `width`. Flow matching on much data fits better with a wide one (decision
            record 0034), and a wide critic costs far more.
        heads: critic heads; their minimum is used wherever one scalar is needed (2 in the paper).
        atoms: K, size of the value's support (201 in the paper); 1 for a scalar value.
    """

    proprio_dim: int
    instruction_dim: int
    chunk_steps: int
    action_dim: int
    width: int = 256
    depth: int = 3
    heads: int = 2
    atoms: int = 201
    policy_width: int | None = None

    def __post_init__(self) -> None:
        for field in (
            "proprio_dim",
            "instruction_dim",
            "chunk_steps",
            "action_dim",
            "width",
            "heads",
            "atoms",
        ):
            if getattr(self, field) < 1:
                raise ConfigError(f"MlpConfig.{field} must be at least 1, got {getattr(self, field)}.")
        if self.policy_width is not None and self.policy_width < 1:
            raise ConfigError(f"MlpConfig.policy_width must be at least 1, got {self.policy_width}.")
        if self.depth < 2:
            raise ConfigError(f"MlpConfig.depth must be at least 2, got {self.depth}.")

    @property
    def statistics(self) -> Statistics:
        """See `Networks`."""
        return "mean_std"

    def make_policy(self, key: PRNGKeyArray, normalizer: Normalizer) -> MlpPolicy:
        """See `Networks`."""
        return MlpPolicy.init(key, replace(self, width=self.policy_width or self.width), normalizer)

    def make_critic(self, key: PRNGKeyArray, normalizer: Normalizer, atoms: int) -> MlpCritic:
        """See `Networks`."""
        return MlpCritic.init(key, replace(self, atoms=atoms), normalizer)

    def prompts(self, network: object) -> None:
        """See `Networks`: an MLP reads the embedded instruction."""

    def without_weights(self) -> MlpConfig:
        """See `Networks`."""
        return self

    def describe(self) -> dict[str, Any]:
        """See `Networks`."""
        return {"model": "mlp", "width": self.policy_width or self.width, "depth": self.depth}


class Linear(eqx.Module):
    """x W + b, weights stored [in, out] so that a vmapped batch is one plain matrix product."""

    weight: Float[Array, "i o"]
    bias: Float[Array, " o"]

    @staticmethod
    def init(key: PRNGKeyArray, inputs: int, outputs: int, scale: float = 1.0) -> Linear:
        """Xavier-uniform weights times `scale`, zero bias."""
        bound = scale * (6.0 / (inputs + outputs)) ** 0.5
        return Linear(
            jax.random.uniform(key, (inputs, outputs), minval=-bound, maxval=bound), jnp.zeros(outputs)
        )

    def __call__(self, x: Float[Array, " i"]) -> Float[Array, " o"]:
        """One example."""
        return x @ self.weight + self.bias


def layer_norm(x: Float[Array, " n"]) -> Float[Array, " n"]:
    """Zero mean and unit variance; no learned gain, which the next layer's weights can express."""
    x = x - jnp.mean(x)
    return x * jax.lax.rsqrt(jnp.mean(x * x) + 1e-5)


class MlpPolicy(eqx.Module):
    """Flow policy f(s, a^w, w). The observation enters once, as the first layer's pre-activation."""

    normalizer: Normalizer
    observe: Linear
    act: Linear
    hidden: tuple[Linear, ...]
    out: Linear

    @staticmethod
    def init(key: PRNGKeyArray, config: MlpConfig, normalizer: Normalizer) -> MlpPolicy:
        """A new policy; the last layer starts small, so that the first velocities are near zero."""
        keys = jax.random.split(key, config.depth + 2)
        flat = config.chunk_steps * config.action_dim
        return MlpPolicy(
            normalizer=normalizer,
            observe=Linear.init(keys[0], config.proprio_dim + config.instruction_dim, config.width),
            act=Linear.init(keys[1], flat + 1, config.width),
            hidden=tuple(Linear.init(k, config.width, config.width) for k in keys[2 : config.depth + 1]),
            out=Linear.init(keys[-1], config.width, flat, scale=0.1),
        )

    def encoder_parts(self) -> tuple[()]:
        """See `LearnedPolicy`: no backbone. What `encode` reads is half of the first layer."""
        return ()

    def encode(self, observation: Observation) -> Float[Array, " width"]:
        """The part of the first layer that does not depend on the flow."""
        return self.observe(self.normalizer.observe(observation))

    def velocity(
        self, context: Float[Array, " width"], a_w: Float[Array, "H A"], w: Float[Array, ""]
    ) -> Float[Array, "H A"]:
        """Velocity of the flow at a^w and flow time w."""
        x = jax.nn.gelu(context + self.act(jnp.append(a_w.ravel(), w)))
        for layer in self.hidden:
            x = jax.nn.gelu(layer(x))
        return self.out(x).reshape(a_w.shape)


class Stack(eqx.Module):
    """Hidden layers with layer norm, and a linear output."""

    layers: tuple[Linear, ...]
    out: Linear

    @staticmethod
    def init(
        key: PRNGKeyArray, inputs: int, outputs: int, config: MlpConfig, out_scale: float = 1.0
    ) -> Stack:
        """A new stack of `depth` hidden layers."""
        keys = jax.random.split(key, config.depth + 1)
        sizes = [inputs] + [config.width] * config.depth
        layers = tuple(Linear.init(k, i, o) for k, i, o in zip(keys, sizes[:-1], sizes[1:], strict=False))
        return Stack(layers, Linear.init(keys[-1], config.width, outputs, out_scale))

    def __call__(self, x: Float[Array, " i"]) -> Float[Array, " o"]:
        """One example."""
        for layer in self.layers:
            x = layer_norm(jax.nn.gelu(layer(x)))
        return self.out(x)


class MlpValue(eqx.Module):
    """A value without a critic beside it: logits over the atoms of the normalised observation."""

    normalizer: Normalizer
    value: Stack

    @staticmethod
    def init(key: PRNGKeyArray, config: MlpConfig, normalizer: Normalizer) -> MlpValue:
        """A new value, near uniform over its atoms."""
        state = config.proprio_dim + config.instruction_dim
        return MlpValue(normalizer, Stack.init(key, state, config.atoms, config, out_scale=0.1))

    def encode(self, observation: Observation) -> Float[Array, " Z"]:
        """State representation z_t: standardised proprio and instruction."""
        return self.normalizer.observe(observation)

    def value_logits(self, z: Float[Array, " Z"]) -> Float[Array, " K"]:
        """Logits over the atoms."""
        return self.value(z)


class MlpCritic(eqx.Module):
    """Value and critic side by side. Their common state representation z is the normalised observation itself.

    A VLA shares a pretrained backbone between the two (Section 6). For a state vector there is nothing to share, and behind a
    shared stack the chunk's few numbers drown among z's many: decision record 0007 has the measurement.
    """

    normalizer: Normalizer
    value: Stack
    heads: Stack

    @staticmethod
    def init(key: PRNGKeyArray, config: MlpConfig, normalizer: Normalizer) -> MlpCritic:
        """A new critic; `heads` is one Stack whose arrays carry a leading axis of heads."""
        k_value, k_heads = jax.random.split(key)
        state = config.proprio_dim + config.instruction_dim
        chunk = config.chunk_steps * config.action_dim
        make_head = eqx.filter_vmap(lambda k: Stack.init(k, state + chunk, 1, config))
        return MlpCritic(
            normalizer=normalizer,
            value=Stack.init(k_value, state, config.atoms, config, out_scale=0.1),
            heads=make_head(jax.random.split(k_heads, config.heads)),
        )

    def value_parts(self) -> tuple[Stack, ...]:
        """See `LearnedCritic`."""
        return (self.value,)

    def critic_parts(self) -> tuple[Stack, ...]:
        """See `LearnedCritic`."""
        return (self.heads,)

    def encode(self, observation: Observation) -> Float[Array, " Z"]:
        """State representation z_t: standardised proprio and instruction."""
        return self.normalizer.observe(observation)

    def value_logits(self, z: Float[Array, " Z"]) -> Float[Array, " K"]:
        """Logits over the atoms."""
        return self.value(z)

    def q(self, z: Float[Array, " Z"], chunk: Float[Array, "H A"]) -> Float[Array, " heads"]:
        """All heads at once."""
        x = jnp.concatenate([z, chunk.ravel()])
        return eqx.filter_vmap(lambda head: head(x)[0])(self.heads)
