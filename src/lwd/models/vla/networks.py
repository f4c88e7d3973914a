"""The VLA as an experiment's model: which sizes, which weights, which tokenizers, and what follows for one robot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from lwd.errors import ConfigError
from lwd.models.normalizer import Normalizer, Statistics
from lwd.models.vla.config import DUMMY, PiConfig, VlaCriticConfig, critic_270m, critic_dummy
from lwd.models.vla.critic import VlaCritic
from lwd.models.vla.pi05 import PiPolicy
from lwd.models.vla.tokenizer import BYTES, Prompter, Prompts, Tokenizer, make_tokenizer
from lwd.spec import RobotSpec

_CRITICS = {"dummy": critic_dummy, "270m": critic_270m}


@dataclass(frozen=True, kw_only=True)
class VlaModel:
    """Policy and critic as vision-language-action models; in an experiment it stands where `ModelConfig` may.

    Attributes:
        policy: sizes and variant of the policy: `DUMMY`, `PI05`, `PI0`, or one of them with changes.
        critic: size of the critic's backbone.
        cameras: which of the robot's cameras the networks see, in the order of pi0.5's base and wrists; None for all.
        tokenizers: key of a prompt -> sentencepiece model file; only the key "bytes", of `DUMMY` networks, needs none.
        critic_prompt_tokens: length of the critic's prompt, where it has a tokenizer of its own.
        weights: files of `lwd weights import` that training starts from, "policy" and "critic"; random without.
        statistics: how proprio is scaled; pi0.5's weights were trained on quantiles.
        instruction_dim: of the embedded instruction, which these networks do not read.
        flow_steps: with which robots integrate the flow.
    """

    policy: PiConfig = DUMMY
    critic: Literal["dummy", "270m"] = "dummy"
    cameras: tuple[str, ...] | None = None
    tokenizers: Mapping[str, Path] = field(default_factory=dict[str, Path])
    critic_prompt_tokens: int = 64
    weights: Mapping[str, Path] = field(default_factory=dict[str, Path])
    statistics: Statistics = "quantile"
    instruction_dim: int = 8
    flow_steps: int = 10

    def __post_init__(self) -> None:
        unknown = sorted(set(self.weights) - {"policy", "critic"})
        if unknown:
            raise ConfigError(f'VlaModel.weights has {unknown}, it may have "policy" and "critic".')

    @property
    def image_side(self) -> int:
        """Networks see pictures of [side, side, 3]."""
        return self.policy.vision.image

    def for_robot(self, spec: RobotSpec) -> VlaNetworks:
        """Sizes for this robot.

        Raises:
            ConfigError: the robot lacks a camera, or acts in more coordinates than the policy; a prompt has no tokenizer.
        """
        own = tuple(camera.name for camera in spec.cameras)
        cameras = own if self.cameras is None else self.cameras
        missing = sorted(set(cameras) - set(own))
        if missing:
            raise ConfigError(
                f"VlaModel.cameras names {', '.join(missing)}; robot {spec.name!r} has "
                f"{', '.join(own) or 'no camera'}."
            )
        vectors = (spec.action_dim, spec.proprio_dim) if self.policy.variant == "pi0" else (spec.action_dim,)
        if max(vectors) > self.policy.action_dim:
            raise ConfigError(
                f"robot {spec.name!r} has {spec.action_dim} action and {spec.proprio_dim} proprio coordinates, the "
                f"policy's vector has {self.policy.action_dim}. Raise PiConfig.action_dim."
            )
        critic = _CRITICS[self.critic](spec.chunk_steps, spec.action_dim, spec.proprio_dim)
        unread = sorted({self.policy.prompt, critic.prompt} - {BYTES} - set(self.tokenizers))
        if unread:
            raise ConfigError(
                f"VlaModel.tokenizers has no file for the prompt {' and '.join(map(repr, unread))}. Give the tokenizer.model "
                f'that belongs to the weights; only the prompt "{BYTES}" is read without one.'
            )
        return VlaNetworks(
            model=self,
            policy=replace(self.policy, cameras=cameras),
            critic=replace(critic, cameras=cameras),
        )


@dataclass(frozen=True, kw_only=True)
class VlaNetworks:
    """A `VlaModel` for one robot; see `Networks`."""

    model: VlaModel
    policy: PiConfig
    critic: VlaCriticConfig

    @property
    def statistics(self) -> Statistics:
        """See `Networks`."""
        return self.model.statistics

    def make_policy(self, key: PRNGKeyArray, normalizer: Normalizer) -> PiPolicy:
        """See `Networks`: from the weights file, or random.

        Raises:
            WeightsError, SnapshotError: the file is missing, or of another network.
        """
        return self._made("policy", partial(PiPolicy.init, key, self.policy, normalizer), normalizer)

    def make_critic(self, key: PRNGKeyArray, normalizer: Normalizer, atoms: int) -> VlaCritic:
        """See `Networks`; heads and pooling of a weights file are those of the file."""
        config = replace(self.critic, atoms=atoms)
        return self._made("critic", partial(VlaCritic.init, key, config, normalizer), normalizer)

    def prompts(self, network: Any) -> Prompts:
        """See `Networks`.

        Raises:
            ConfigError: a tokenizer cannot be read, or has more ids than a network that reads them has rows.
        """
        normalizer: Normalizer = network.normalizer
        policy = Prompter(
            tokenizer=self._tokenizer(self.policy.prompt),
            length=self.policy.prompt_tokens,
            variant=self.policy.variant,
        )
        prompters = {self.policy.prompt: policy}
        if (
            self.critic.prompt not in prompters
        ):  # the critic has a proprio token, so its prompt needs no state
            prompters[self.critic.prompt] = Prompter(
                tokenizer=self._tokenizer(self.critic.prompt),
                length=self.model.critic_prompt_tokens,
                variant="pi0",
            )
        return Prompts(
            prompters=prompters, mean=np.asarray(normalizer.mean), scale=np.asarray(normalizer.scale)
        )

    def without_weights(self) -> VlaNetworks:
        """See `Networks`."""
        return replace(self, model=replace(self.model, weights={}))

    def describe(self) -> dict[str, Any]:
        """See `Networks`."""
        return {
            "model": self.policy.variant,
            "width": self.policy.language.width,
            "depth": self.policy.language.depth,
            "cameras": list(self.policy.cameras),
            "statistics": self.statistics,
        }

    def _tokenizer(self, prompt: str) -> Tokenizer:
        """That of a prompt; its size is checked here, since JAX reads the table's last row for an id beyond it."""
        tokenizer = make_tokenizer(self.model.tokenizers.get(prompt))
        rows = min(config.vocabulary for config in (self.policy, self.critic) if config.prompt == prompt)
        if tokenizer.size > rows:
            raise ConfigError(
                f"The tokenizer of prompt {prompt!r} has {tokenizer.size} ids, the network's token table has {rows} rows. "
                "Give the tokenizer that belongs to the weights, or raise `vocabulary` in the network's configuration."
            )
        return tokenizer

    def _made(self, name: str, init: Any, normalizer: Normalizer) -> Any:
        path = self.model.weights.get(name)
        if path is None:
            return init()
        from lwd.models.weights.transfer import load_network  # only who loads weights needs their readers

        network = load_network(eqx.filter_eval_shape(init), path)
        return eqx.tree_at(lambda n: n.normalizer, network, jax.tree.map(lambda x: x, normalizer))
