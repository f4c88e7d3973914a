"""Pictures as the vision tower wants them: square, padded with black, in [-1, 1]."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

Picture = UInt8[Array, "h w 3"] | Float[Array, "h w 3"]


def resize_with_padding(pixels: Float[Array, "h w 3"], side: int) -> Float[Array, "side side 3"]:
    """Scale the longer edge to `side`, keep the proportions, pad with black (-1) evenly on both ends; [-1, 1] in and out."""
    height, width = pixels.shape[:2]
    if (height, width) == (side, side):
        return pixels
    ratio = max(height, width) / side
    height, width = max(int(height / ratio), 1), max(int(width / ratio), 1)
    resized = jnp.clip(jax.image.resize(pixels, (height, width, 3), "linear"), -1.0, 1.0)
    above, left = (side - height) // 2, (side - width) // 2
    around = ((above, side - height - above), (left, side - width - left), (0, 0))
    return jnp.pad(resized, around, constant_values=-1.0)


def to_pixels(picture: Picture, side: int) -> Float[Array, "side side 3"]:
    """float32 in [-1, 1] of the tower's size, from bytes of any size or from floats already in [-1, 1]."""
    pixels = picture.astype(jnp.float32)
    if picture.dtype == jnp.uint8:
        pixels = pixels / 255.0 * 2.0 - 1.0
    return resize_with_padding(pixels, side)
