"""Pictures: padding and range by hand, resizing against Pillow."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from lwd.models.vla.preprocess import resize_with_padding, to_pixels


def test_bytes_become_minus_one_to_one():
    picture = jnp.array([[[0, 255, 51]]], jnp.uint8)
    assert np.allclose(to_pixels(picture, 1), [[[-1.0, 1.0, -0.6]]])


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"),
    [
        (6, 12, slice(3, 9), slice(0, 12)),
        (12, 4, slice(0, 12), slice(4, 8)),
        (24, 14, slice(0, 12), slice(2, 9)),
    ],
)
def test_proportions_are_kept_and_the_rest_is_black(height, width, rows, columns):
    """12 x 12 from three shapes; an odd remainder puts the longer strip below or to the right."""
    pixels = resize_with_padding(jnp.full((height, width, 3), 0.5), 12)
    expected = np.full((12, 12, 3), -1.0)
    expected[rows, columns] = 0.5
    assert np.allclose(pixels, expected, atol=1e-6)


def test_resizing_is_that_of_pillow():
    """Robots may resize with Pillow before they send; both filters are triangular, widened where the picture shrinks."""
    coarse = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize((120, 90), Image.Resampling.BICUBIC))
    found = (np.asarray(to_pixels(jnp.asarray(picture), 56)) + 1.0) * 127.5
    expected = np.asarray(Image.fromarray(picture).resize((56, 42), Image.Resampling.BILINEAR))
    assert np.abs(found[7:49] - expected).max() < 1.5  # Pillow rounds after each of its two passes


def test_a_picture_of_the_right_size_is_left_alone():
    pixels = jnp.linspace(-1.0, 1.0, 48).reshape(4, 4, 3)
    assert np.array_equal(to_pixels(pixels, 4), pixels)
