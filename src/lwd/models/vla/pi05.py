"""pi0.5 (arXiv 2504.16054) and pi0 (arXiv 2410.24164) as policies of this project.

Prefix: pictures and prompt through SigLIP and Gemma 2B, each token seeing all of it. Suffix: the noisy chunk (pi0: behind a
state token) through the action expert, which sees the prefix's keys and values and itself. `encode` runs the prefix once;
every flow step runs the suffix alone.

Flow time: everywhere in this project w = 0 is noise and w = 1 is action. The published networks count the other way and
predict noise - action; `PiPolicy.velocity` is the one place that turns both round.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from lwd.errors import ConfigError
from lwd.models.normalizer import Normalizer
from lwd.models.vla.config import PiConfig
from lwd.models.vla.gemma import Gemma
from lwd.models.vla.layers import Dense, KeysValues, cast
from lwd.models.vla.prefix import embed_pictures, embed_prompt
from lwd.models.vla.siglip import Siglip
from lwd.transition import Observation

_SHORTEST, _LONGEST = 4e-3, 4.0
"""Periods of the flow time's sines and cosines, as published."""


class Prefix(NamedTuple):
    """What a flow step needs of the observation.

    Attributes:
        past: keys and values of the prefix, [layers, S, kv_heads, head_dim].
        valid: [S], False on the prompt's padding.
        state: [W] of the expert, the state token of pi0; None in pi0.5, whose state is in the prompt.
    """

    past: KeysValues
    valid: Bool[Array, " S"]
    state: Float[Array, " W"] | None


class TimeMlp(eqx.Module):
    """Two layers with swish: the condition of pi0.5's norms, or pi0's mix of actions and flow time."""

    first: Dense
    second: Dense

    @staticmethod
    def init(key: PRNGKeyArray, inputs: int, outputs: int) -> TimeMlp:
        """Random weights, zero biases."""
        first, second = jax.random.split(key)
        return TimeMlp(
            Dense.init(first, inputs, outputs, bias=True), Dense.init(second, outputs, outputs, bias=True)
        )

    def __call__(self, x: Float[Array, "*n i"]) -> Float[Array, "*n o"]:
        """Without an activation at the end."""
        return self.second(jax.nn.swish(self.first(x)))


class PiPolicy(eqx.Module):
    """Flow policy f(s, a^w, w). `state` exists in pi0 only."""

    normalizer: Normalizer
    vision: Siglip
    project: Dense
    tokens: Float[Array, "V W"]
    language: Gemma
    expert: Gemma
    action_in: Dense
    time: TimeMlp
    state: Dense | None
    action_out: Dense
    config: PiConfig = eqx.field(static=True)

    @staticmethod
    def init(key: PRNGKeyArray, config: PiConfig, normalizer: Normalizer) -> PiPolicy:
        """Random weights; pi0.5's expert starts with closed gates and the last layer small.

        Statistics stay in float32 whatever the parameters' type. For the full size, give this to `jax.eval_shape` or
        `eqx.filter_eval_shape` and fill it from published weights.
        """
        k_vision, k_project, k_tokens, k_language, k_expert, k_in, k_time, k_state, k_out = jax.random.split(
            key, 9
        )
        width, mixed = config.expert.width, config.variant == "pi0"
        policy = PiPolicy(
            normalizer=Normalizer.identity(normalizer.mean.shape[0]),
            vision=Siglip.init(k_vision, config.vision),
            project=Dense.init(k_project, config.vision.width, config.language.width, bias=True),
            tokens=config.language.width**-0.5
            * jax.random.normal(k_tokens, (config.vocabulary, config.language.width)),
            language=Gemma.init(k_language, config.language),
            expert=Gemma.init(k_expert, config.expert, None if mixed else width),
            action_in=Dense.init(k_in, config.action_dim, width, bias=True),
            time=TimeMlp.init(k_time, 2 * width if mixed else width, width),
            state=Dense.init(k_state, config.action_dim, width, bias=True) if mixed else None,
            action_out=Dense.init(k_out, width, config.action_dim, bias=True, scale=0.1),
            config=config,
        )
        return eqx.tree_at(lambda p: p.normalizer, cast(policy, config.parameters), normalizer)

    def encoder_parts(self) -> tuple[Any, ...]:
        """See `LearnedPolicy`; with pi0's state projection, which only the prefix's state token goes through."""
        parts = (self.vision, self.project, self.tokens, self.language)
        return parts if self.state is None else (*parts, self.state)

    def encode(self, observation: Observation) -> Prefix:
        """Keys and values of the prefix, computed once per observation.

        Reads `images` (uint8, or float in [-1, 1]), the prompt named in the configuration and, in pi0, `proprio`.
        """
        config = self.config
        prompt, written = embed_prompt(self.tokens, observation, config.prompt, config.compute)
        pictures = embed_pictures(
            self.vision, self.project, observation, config.cameras, config.compute, config.remat
        )
        valid = jnp.concatenate([jnp.ones(pictures.shape[0], bool), written])
        x, positions = jnp.concatenate([pictures, prompt]), jnp.cumsum(valid) - 1
        mask = jnp.broadcast_to(valid, (valid.shape[0], valid.shape[0]))
        _, past = self.language(x, positions, mask, remat=config.remat)
        return Prefix(past, valid, None if self.state is None else self._state_token(self.state, observation))

    def velocity(self, context: Prefix, a_w: Float[Array, "H A"], w: Float[Array, ""]) -> Float[Array, "H A"]:
        """Velocity of the flow at a^w and flow time w, float32. A may be smaller than the published width.

        The other coordinates are 0, in training and in acting. openpi and LeRobot draw noise in them: a policy of theirs sees
        here what it was not trained on, and one of ours is exported deaf to them (`lwd.models.weights.transfer`).

        Raises:
            ConfigError: A is larger than the published width.
        """
        missing = self.config.action_dim - a_w.shape[-1]
        if missing < 0:
            raise ConfigError(
                f"The chunk has {a_w.shape[-1]} action coordinates, the policy's vector has {self.config.action_dim}. "
                "Raise PiConfig.action_dim, or give the robot's own action_dim."
            )
        padded = jnp.pad(a_w.astype(jnp.float32), ((0, 0), (0, missing)))
        return -self.published_velocity(context, padded, 1.0 - w)[:, : a_w.shape[-1]]

    def published_velocity(
        self, context: Prefix, noisy: Float[Array, "H D"], t: Float[Array, ""]
    ) -> Float[Array, "H D"]:
        """The network as published: noise - action at flow time t, 1 = noise and 0 = action; D is the full action width."""
        suffix, condition = self._suffix(context, noisy, t)
        before, own = context.valid.shape[0], suffix.shape[0]
        # Suffix tokens see each other; pi0's state token, the first, sees no action.
        among = jnp.ones((own, own), bool)
        if context.state is not None:
            among = among.at[0, 1:].set(False)
        mask = jnp.concatenate([jnp.broadcast_to(context.valid, (own, before)), among], axis=1)
        positions = jnp.sum(context.valid) + jnp.arange(own)
        x, _ = self.expert(
            suffix.astype(self.config.compute),
            positions,
            mask,
            past=context.past,
            condition=condition,
            remat=self.config.remat,
        )
        return self.action_out(x[-noisy.shape[0] :].astype(jnp.float32))

    def _suffix(
        self, context: Prefix, noisy: Float[Array, "H D"], t: Float[Array, ""]
    ) -> tuple[Float[Array, "T W"], Float[Array, " W"] | None]:
        """The suffix's tokens and the condition of the adaptive norms, float32."""
        actions, when = self.action_in(noisy), time_embedding(t, self.config.expert.width)
        if context.state is None:
            return actions, jax.nn.swish(self.time(when))
        mixed = self.time(jnp.concatenate([actions, jnp.broadcast_to(when, actions.shape)], axis=-1))
        return jnp.concatenate([context.state[None], mixed]), None

    def _state_token(self, project: Dense, observation: Observation) -> Float[Array, " W"]:
        """pi0's state: standardised, padded with zeros to the published width, projected."""
        state = self.normalizer(observation.proprio)
        return project(jnp.pad(state, (0, self.config.action_dim - state.shape[0])))


def time_embedding(t: Float[Array, ""], width: int) -> Float[Array, " width"]:
    """Sines, then cosines, of t at `width` / 2 periods from 0.004 to 4, evenly spaced in the logarithm; float32."""
    periods = _SHORTEST * (_LONGEST / _SHORTEST) ** jnp.linspace(0.0, 1.0, width // 2)
    angles = 2.0 * jnp.pi / periods * t.astype(jnp.float32)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)])
