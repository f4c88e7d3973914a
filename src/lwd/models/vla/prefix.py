"""What policy and critic read of an observation: pictures through a vision tower, then the prompt's tokens."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lwd.errors import ConfigError
from lwd.models.vla.gemma import embed
from lwd.models.vla.layers import Dense
from lwd.models.vla.preprocess import to_pixels
from lwd.models.vla.siglip import Siglip
from lwd.transition import Observation

Tokens = Float[Array, "T W"]


def embed_pictures(
    vision: Siglip,
    project: Dense,
    observation: Observation,
    cameras: tuple[str, ...],
    compute: str,
    remat: bool,
) -> Tokens:
    """Tokens of the cameras that the observation has, in this order. [pictures * tokens per picture, width].

    Leaving a camera out is the same as masking it: positions count what is seen only.

    Raises:
        ConfigError: the observation has a camera that the network does not know.
    """
    unknown = sorted(set(observation.images) - set(cameras))
    if unknown:
        raise ConfigError(
            f"The observation has pictures of {', '.join(unknown)}, the network knows {', '.join(cameras)}: "
            "name the robot's cameras in the network's configuration."
        )
    pictures = [observation.images[camera] for camera in cameras if camera in observation.images]
    sides = vision.config.image
    tokens = [project(vision(to_pixels(picture, sides), compute, remat)) for picture in pictures]
    return jnp.concatenate(tokens) if tokens else jnp.zeros((0, project.weight.shape[-1]), compute)


def embed_prompt(
    table: Float[Array, "V W"], observation: Observation, prompt: str, compute: str
) -> tuple[Tokens, Bool[Array, " T"]]:
    """The prompt's tokens [T, W], and which of them are no padding [T].

    Raises:
        ConfigError: the observation has no such prompt.
    """
    ids = prompt_of(observation, prompt)
    return embed(table, ids, compute), ids != 0


def prompt_of(observation: Observation, prompt: str) -> Int[Array, " T"]:
    """Token ids under this key; ConfigError where there are none."""
    prompts = observation.prompts or {}
    if prompt not in prompts:
        raise ConfigError(
            f"The observation has no prompt {prompt!r} (it has: {', '.join(sorted(prompts)) or 'none'}). "
            "Tokenise its instruction with lwd.models.vla.tokenizer and put the ids into Observation.prompts."
        )
    return prompts[prompt]
