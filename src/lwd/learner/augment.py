"""Augmentation of pictures on the device, as openpi trains pi0.5 (`preprocess_observation`, through augmax 0.4.1).

Per picture: a camera that is not on a wrist is cropped to 95 % at a random place, scaled back and turned by up to 5 degrees,
in one bilinear sampling with black outside; then, every other time, the colours of any camera are jittered in HSV.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from lwd.errors import ConfigError
from lwd.transition import Transition

Image = Float[Array, "h w 3"]


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Strengths; the defaults are the published ones.

    Attributes:
        crop: share of height and width that a crop keeps; 1 for no crop.
        rotate_degrees: largest turn either way.
        brightness, contrast, hue: largest change either way, of the HSV value, its contrast, and the colour circle (of
            circumference 1). openpi asks for a saturation of 0.5 too, but augmax 0.4.1 draws it and throws it away, and
            leaves hue, which openpi does not name, at 0.1; this is what was trained with.
        jitter_probability: how often colours are jittered at all.
        wrist: cameras with this in their name keep their geometry; "" for all of them.
    """

    crop: float = 0.95
    rotate_degrees: float = 5.0
    brightness: float = 0.3
    contrast: float = 0.4
    hue: float = 0.1
    jitter_probability: float = 0.5
    wrist: str = "wrist"

    def __post_init__(self) -> None:
        if not 0.0 < self.crop <= 1.0:
            raise ConfigError(f"AugmentConfig.crop must be in (0, 1], got {self.crop}.")
        if not 0.0 <= self.rotate_degrees <= 180.0:
            raise ConfigError(f"AugmentConfig.rotate_degrees must be in [0, 180], got {self.rotate_degrees}.")
        for name in ("brightness", "contrast"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"AugmentConfig.{name} must be in [0, 1), got {getattr(self, name)}.")
        for name in ("hue", "jitter_probability"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"AugmentConfig.{name} must be in [0, 1], got {getattr(self, name)}.")


def augment_batch(batch: Transition, key: PRNGKeyArray, config: AugmentConfig) -> Transition:
    """A batch [B] with the pictures of both observations augmented, every one with a draw of its own."""
    k_now, k_next = jax.random.split(key)
    observations = (batch.observation, k_now), (batch.next_observation, k_next)
    now, then = (seen._replace(images=augment(seen.images, k, config)) for seen, k in observations)
    return batch._replace(observation=now, next_observation=then)


def augment(
    images: Mapping[str, UInt8[Array, "B _ _ 3"]], key: PRNGKeyArray, config: AugmentConfig
) -> dict[str, UInt8[Array, "B _ _ 3"]]:
    """Augmented pictures, rounded to uint8 again, so that a network sees one kind of picture in training and on the robot.

    A camera's draw follows from the key and its place in the sorted names.
    """
    out: dict[str, UInt8[Array, "B _ _ 3"]] = {}
    for index, name in enumerate(sorted(images)):
        pictures = images[name]
        keys = jax.random.split(jax.random.fold_in(key, index), pictures.shape[0])
        moves = not config.wrist or config.wrist not in name

        def one(
            picture: UInt8[Array, "h w 3"], k: PRNGKeyArray, moves: bool = moves
        ) -> UInt8[Array, "h w 3"]:
            k_move, k_jitter = jax.random.split(k)
            image = picture.astype(jnp.float32) / 255.0
            image = move(image, k_move, config) if moves else image
            image = jitter(image, k_jitter, config)
            return jnp.round(jnp.clip(image, 0.0, 1.0) * 255.0).astype(jnp.uint8)

        out[name] = jax.vmap(one)(pictures, keys)
    return out


def move(image: Image, key: PRNGKeyArray, config: AugmentConfig) -> Image:
    """Crop at a random place, scale back, turn about the centre."""
    height, width = image.shape[:2]
    crop_h, crop_w = int(height * config.crop), int(width * config.crop)
    spare = jnp.array([height - crop_h, width - crop_w]) / 2
    largest = math.radians(config.rotate_degrees)
    k_crop, k_turn = jax.random.split(key)
    shift = jax.random.uniform(k_crop, (2,), minval=-1.0, maxval=1.0) * spare
    angle = jax.random.uniform(k_turn, minval=-largest, maxval=largest)
    return sample(image, shift, jnp.array([crop_h / height, crop_w / width]), angle)


def sample(
    image: Image, shift: Float[Array, "2"], scale: Float[Array, "2"], angle: Float[Array, ""]
) -> Image:
    """The picture of the same size whose pixel p shows `image` at centre + shift + scale * (p - centre turned by angle).

    Args:
        image: [h, w, 3].
        shift: rows and columns.
        scale: of rows and columns; below 1 enlarges.
        angle: radians.

    Returns:
        Bilinear between pixels, black outside.
    """
    height, width = image.shape[:2]
    rows = jnp.arange(height, dtype=jnp.float32)[:, None] - (height - 1) / 2
    columns = jnp.arange(width, dtype=jnp.float32)[None, :] - (width - 1) / 2
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    y = (height - 1) / 2 + shift[0] + scale[0] * (cos * rows + sin * columns)
    x = (width - 1) / 2 + shift[1] + scale[1] * (cos * columns - sin * rows)
    y0, x0 = jnp.floor(y), jnp.floor(x)

    def corner(dy: int, dx: int) -> Image:
        r, c = (y0 + dy).astype(jnp.int32), (x0 + dx).astype(jnp.int32)
        weight = (1 - jnp.abs(y - r)) * (1 - jnp.abs(x - c))
        inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
        pixels = image[jnp.clip(r, 0, height - 1), jnp.clip(c, 0, width - 1)]
        return pixels * jnp.where(inside, weight, 0.0)[..., None]

    return corner(0, 0) + corner(0, 1) + corner(1, 0) + corner(1, 1)


def jitter(image: Image, key: PRNGKeyArray, config: AugmentConfig) -> Image:
    """Change brightness, contrast and hue of the whole picture, or nothing."""
    k_whether, k_brightness, k_contrast, k_hue = jax.random.split(key, 4)

    def amount(k: PRNGKeyArray, largest: float) -> Float[Array, ""]:
        return jax.random.uniform(k, minval=-largest, maxval=largest)

    changed = recolour(
        image,
        amount(k_brightness, config.brightness),
        amount(k_contrast, config.contrast),
        amount(k_hue, config.hue),
    )
    return jnp.where(jax.random.bernoulli(k_whether, config.jitter_probability), changed, image)


def recolour(
    image: Image, brightness: Float[Array, ""], contrast: Float[Array, ""], hue: Float[Array, ""]
) -> Image:
    """HSV with another value and hue.

    Args:
        image: [h, w, 3] in [0, 1].
        brightness: in (-1, 1); below 0 scales the value towards 0, above 0 towards 1.
        contrast: in (-1, 1); a line of slope tan((1 + contrast) pi / 4) through the middle, bent at both ends so that 0 and
            1 stay where they are.
        hue: turn of the colour circle, of circumference 1.
    """
    value, low = image.max(-1), image.min(-1)
    spread = value - low
    towards = jnp.where(brightness < 0, 0.0, 1.0)
    new = value + jnp.abs(brightness) * (towards - value)
    slope = jnp.tan((contrast + 1.0) * (jnp.pi / 4))
    knee = slope / (2 * (1 + slope))
    middle = slope * (new - 0.5) + 0.5
    new = jnp.where(new < knee, new / slope, jnp.where(new > 1 - knee, 1 - (1 - new) / slope, middle))
    # Saturation stays; each channel is value * (1 - saturation * a trapezoid of the hue).
    saturation = jnp.where(value > 0, spread / jnp.where(value > 0, value, 1.0), 0.0)
    sixth = 6.0 * (_hue(image, value, spread) + hue)
    k = jnp.mod(jnp.array([5.0, 3.0, 1.0]) + sixth[..., None], 6.0)
    trapezoid = jnp.clip(jnp.minimum(k, 4.0 - k), 0.0, 1.0)
    return new[..., None] * (1.0 - saturation[..., None] * trapezoid)


def _hue(image: Image, value: Float[Array, "h w"], spread: Float[Array, "h w"]) -> Float[Array, "h w"]:
    """Place on the colour circle in [-1/6, 5/6]; 0 for grey."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    safe = jnp.where(spread > 0, spread, 1.0)
    by_red, by_green, by_blue = (green - blue) / safe, 2.0 + (blue - red) / safe, 4.0 + (red - green) / safe
    hue = jnp.where(value == red, by_red, jnp.where(value == green, by_green, by_blue))
    return jnp.where(spread > 0, hue / 6.0, 0.0)
