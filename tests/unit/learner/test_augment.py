"""Augmentation: the identity at zero strength, hand-worked geometry, colours against colorsys, and draws that repeat."""

from __future__ import annotations

import colorsys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwd.errors import ConfigError
from lwd.learner.augment import AugmentConfig, augment, augment_batch, recolour, sample
from lwd.learner.stages import augmented
from lwd.transition import Observation, Transition

PICTURES = jnp.asarray(np.random.default_rng(0).integers(0, 256, (3, 12, 16, 3)), jnp.uint8)
NOTHING = AugmentConfig(crop=1.0, rotate_degrees=0.0, jitter_probability=0.0)
KEY = jax.random.key(3)


def test_zero_strength_changes_nothing() -> None:
    out = augment({"front": PICTURES}, KEY, NOTHING)["front"]
    assert out.dtype == jnp.uint8
    np.testing.assert_array_equal(out, PICTURES)


def test_geometry_by_hand() -> None:
    picture = jnp.zeros((4, 4, 3)).at[1, 2].set(1.0)
    one, none = jnp.ones(2), jnp.zeros(2)
    moved = sample(
        picture, jnp.array([1.0, 0.0]), one, jnp.array(0.0)
    )  # shows what lies one row further down
    assert float(moved[0, 2, 0]) == 1.0
    assert float(moved.sum()) == 3.0
    half = sample(picture, jnp.array([0.0, 0.5]), one, jnp.array(0.0))
    np.testing.assert_allclose(half[1, :, 0], [0.0, 0.5, 0.5, 0.0], atol=1e-6)
    # A quarter turn about the centre (1.5, 1.5): row i, column j shows row j, column 3 - i.
    turned = np.asarray(sample(picture, none, one, jnp.array(jnp.pi / 2)))[..., 0]
    np.testing.assert_allclose(turned, np.rot90(picture[..., 0], 1), atol=1e-5)
    flat = jnp.ones((6, 6, 3))
    np.testing.assert_allclose(
        sample(flat, none, 0.5 * one, jnp.array(0.3)), 1.0, atol=1e-6
    )  # enlarged: no black
    shrunk = np.asarray(sample(flat, none, 2 * one, jnp.array(0.0)))[..., 0]
    assert shrunk[0, 0] == 0.0  # black outside
    assert shrunk[3, 3] == 1.0


def test_colours_against_colorsys() -> None:
    image = PICTURES[0].astype(jnp.float32) / 255
    brightness, contrast, hue = 0.2, -0.3, 0.07
    found = np.asarray(recolour(image, jnp.array(brightness), jnp.array(contrast), jnp.array(hue)))
    slope = np.tan((1 + contrast) * np.pi / 4)
    knee = (slope - slope**2) / (2 * (1 - slope**2))
    for pixel, out in zip(image.reshape(-1, 3).tolist(), found.reshape(-1, 3), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        v = v * (1 - brightness) + brightness
        v = v / slope if v < knee else v / slope + 1 - 1 / slope if v > 1 - knee else slope * (v - 0.5) + 0.5
        np.testing.assert_allclose(out, colorsys.hsv_to_rgb((h + hue) % 1.0, s, v), atol=2e-5)
    unchanged = recolour(image, jnp.array(0.0), jnp.array(0.0), jnp.array(0.0))
    np.testing.assert_allclose(unchanged, image, atol=1e-5)


def test_wrist_cameras_keep_their_geometry() -> None:
    config = AugmentConfig(jitter_probability=0.0)
    out = augment({"left_wrist": PICTURES, "front": PICTURES}, KEY, config)
    np.testing.assert_array_equal(out["left_wrist"], PICTURES)
    assert (out["front"] != PICTURES).mean() > 0.5


def test_draws_repeat_and_differ_between_pictures() -> None:
    same = jnp.repeat(PICTURES[:1], 3, 0)
    first, again = (np.asarray(augment({"front": same}, KEY, AugmentConfig())["front"]) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (first[0] != first[1]).any()
    other = np.asarray(augment({"front": same}, jax.random.key(4), AugmentConfig())["front"])
    assert (first != other).any()


class Count(NamedTuple):
    step: int


def test_a_learner_step_sees_augmented_pictures_under_a_key_of_its_own() -> None:
    seen = Observation(np.zeros((3, 2), np.float32), np.zeros((3, 2), np.float32), {"front": PICTURES})
    number = np.zeros(3, np.float32)
    batch = Transition(
        seen, np.zeros((3, 1, 1)), np.ones((3, 1)), number, number, seen, number, number, number
    )
    given: list[tuple[Transition, jax.Array]] = []

    def step(state: Count, batch: Transition, key: jax.Array) -> tuple[Count, dict[str, jax.Array]]:
        given.append((batch, key))
        return Count(state.step + 1), {}

    assert augmented(step, None) is step
    config = AugmentConfig()
    assert augmented(step, config)(Count(1), batch, KEY) == (Count(2), {})
    k_augment, k_update = jax.random.split(KEY)
    expected = augment_batch(batch, k_augment, config)
    ((found, key),) = given
    now, then = found.observation.images["front"], found.next_observation.images["front"]
    np.testing.assert_array_equal(now, expected.observation.images["front"])
    np.testing.assert_array_equal(jax.random.key_data(key), jax.random.key_data(k_update))
    assert (now != then).any()


@pytest.mark.parametrize(
    "bad", [{"crop": 0.0}, {"crop": 1.1}, {"rotate_degrees": -1.0}, {"contrast": 1.0}, {"hue": 2.0}]
)
def test_settings_are_checked(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        AugmentConfig(**bad)
