"""What a network may be shown of an image, made from the image itself. Each function takes x_0 in [-1, 1], [B, H, W, C].

A condition lies in [-1, 1] too, so that zeros can mean that nothing is shown.
"""

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax import operators

SMALLEST, LARGEST = 0.25, 0.75  # sides of a hidden rectangle, relative to those of the image


def low_resolution(x_0: Array, factor: int) -> Array:
    """Returns images averaged over squares, each average repeated over its square. # [B, H, W, C]

    Args:
        x_0: images.
        factor: side of a square in pixels; UserError where it does not divide those of the images.
    """
    averaging = operators.averaging(factor)
    return averaging.pseudoinverse(averaging.apply(x_0))


def grey(x_0: Array) -> Array:
    """Returns the brightness of images of three colours; UserError for others. # [B, H, W, 1]"""
    return operators.grey().apply(x_0)


def edges(x_0: Array) -> Array:
    """Returns how steep images are: -1 where they are of one colour, 1 at a step from black to white. # [B, H, W, 1]

    It is the length of Sobel's gradient, in the channel where that is longest; what is beyond 1 is 1.
    """
    padded = jnp.pad(x_0, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    across, down = _sobel(padded), _sobel(padded.swapaxes(1, 2)).swapaxes(1, 2)
    return jnp.minimum(jnp.max(jnp.hypot(across, down), axis=-1, keepdims=True) - 1, 1)


def _sobel(padded: Array) -> Array:
    """Returns how images rise from left to right, 2 at a step from -1 to 1, without the padding of one pixel."""
    smooth = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    return smooth[:, :, 2:] - smooth[:, :, :-2]


def random_mask(x_0: Array, keys: Array) -> Array:
    """Returns images as `masked` does, a rectangle of each hidden, whose sides are 1/4 to 3/4 of the image's.

    Args:
        x_0: images.
        keys: of the images, [B]; each decides its rectangle.
    """
    height, width = x_0.shape[1:3]

    def rectangle(key: Array) -> Array:
        key_rows, key_columns = jax.random.split(key)
        return _stretch(key_rows, height)[:, None, None] & _stretch(key_columns, width)[:, None]

    return masked(x_0, jax.vmap(rectangle)(keys))


def _stretch(key: Array, size: int) -> Array:
    """Returns which of the rows, or columns, a random rectangle has. # bool [size]"""
    key_length, key_first = jax.random.split(key)
    length = jax.random.randint(key_length, (), max(1, round(SMALLEST * size)), round(LARGEST * size) + 1)
    first = jax.random.randint(key_first, (), 0, size - length + 1)
    return (jnp.arange(size) >= first) & (jnp.arange(size) < first + length)


def masked(x_0: Array, mask: Array) -> Array:
    """Returns images of which a part is hidden, 0 there, and where that is as last channel: 1, elsewhere -1.

    Args:
        x_0: images.
        mask: 1 where a pixel is hidden, 0 where it is shown, [B, H, W, 1].

    Returns:
        [B, H, W, C + 1].
    """
    return jnp.concatenate([operators.known(mask).apply(x_0), 2 * mask.astype(x_0.dtype) - 1], axis=-1)
