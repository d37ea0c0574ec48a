"""Images between [-1, 1] and uint8, and on the way to a picture."""

import io

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data import codecs
from diffusion_jax.runs import pictures


def test_uint8_goes_to_the_whole_range_and_comes_back():
    levels = np.arange(256, dtype=np.uint8)
    x = codecs.from_uint8(levels)
    assert x[0] == -1 and x[-1] == 1 and x.dtype == jnp.float32
    np.testing.assert_array_equal(codecs.to_uint8(x), levels)


def test_values_are_rounded_and_clipped():
    """Truncation would darken every image by half a level."""
    x = jnp.array([-1.5, -1.0, 0.4 / 127.5 - 1, 0.6 / 127.5 - 1, 0.9999, 1.5])
    np.testing.assert_array_equal(codecs.to_uint8(x), [0, 0, 0, 1, 255, 255])


@pytest.mark.parametrize("num_columns", [3, 0])
def test_a_grid_shows_every_image_once_enlarged_on_white(num_columns):
    x = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((5, 8, 4, 1), np.uint8)
    grid = pictures.grid(x, num_columns=num_columns, pad=1, min_size=8)
    assert grid.shape == (2 * 17 + 1, 3 * 9 + 1, 1)
    for i in range(5):
        assert np.all(grid[1 + 17 * (i // 3) : 17 + 17 * (i // 3), 1 + 9 * (i % 3) : 9 + 9 * (i % 3)] == i)
    assert np.all(grid[:1] == 255) and np.all(grid[18:, 19:] == 255)
    assert [np.sum(grid == i) for i in range(5)] == [128] * 5


@pytest.mark.parametrize(("channels", "shown"), [(2, 1), (4, 3), (5, 3)])
def test_png_of_other_channels_shows_the_first(channels, shown):
    image = np.random.default_rng(0).integers(0, 256, (6, 5, channels), dtype=np.uint8)
    opened = np.asarray(Image.open(io.BytesIO(pictures.encode_png(image))))
    np.testing.assert_array_equal(opened.reshape(6, 5, shown), image[..., :shown])


def test_png_gives_the_image_back_in_grey_and_colour():
    for channels, mode in ((1, "L"), (3, "RGB")):
        image = np.random.default_rng(0).integers(0, 256, (6, 5, channels), dtype=np.uint8)
        opened = Image.open(io.BytesIO(pictures.encode_png(image)))
        assert opened.mode == mode
        np.testing.assert_array_equal(np.asarray(opened).reshape(image.shape), image)
