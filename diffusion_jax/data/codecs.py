"""How stored data becomes x_0 and comes back: uint8 pixels <-> [-1, 1]."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from diffusion_jax import errors


class Codec(NamedTuple):
    """What is stored <-> x_0, as a `media.Medium` says; or latents, where `compose.coding` has an autoencoder."""

    encode: Callable[[Array], Array]  # stored arrays, such as uint8 images [B, H, W, C] -> x_0 [B, *shape]
    decode: Callable[[Array], Array]  # x_0 -> what is stored
    shape: tuple[int, ...]  # of one x_0


def from_uint8(images: Array) -> Array:
    """Returns uint8 images in [-1, 1] as x / 127.5 - 1. [Ho et al. 2020, section 3.3]

    Raises:
        ValueError: for an array of another type.
    """
    if getattr(images, "dtype", None) != jnp.uint8:
        raise ValueError(f"from_uint8 takes arrays of uint8; found {errors.shown(images)}.")
    return images.astype(jnp.float32) / 127.5 - 1


def to_uint8(x: Array) -> Array:
    """Returns images in [-1, 1] as the nearest uint8; values outside are clipped.

    Raises:
        ValueError: for an array of another type than floating-point numbers.
    """
    if not jnp.issubdtype(getattr(x, "dtype", object), jnp.floating):
        raise ValueError(f"to_uint8 takes arrays of floating-point numbers in [-1, 1]; found {errors.shown(x)}.")
    return jnp.clip(jnp.round((x + 1) * 127.5), 0, 255).astype(jnp.uint8)
