"""Images moved at random, of which the network is told how: augmentation that does not leak into what it draws.

    x_0, told = augment(x_0, keys, rate=0.12)

A network that sees moved images alone draws moved ones. One that is told of each move draws unmoved images where it is told
of none. [Jun et al. 2020; Karras et al. 2022, EDM, appendix F.2]
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

NUM_TOLD = 9  # numbers that say how an image was moved
SCALE_STD = 0.2  # of sizes, of the whole and of one direction: in powers of 2
SHIFT_STD = 1 / 8  # of the size of the image


class Moves(NamedTuple):
    """How one image is moved, in this order: mirrored, scaled, turned, stretched, shifted. All zero leaves it as it is."""

    flips: Array  # left to right, top to bottom: 0 or 1. # [2]
    scale: Array  # standard normal
    angle: Array  # in -pi .. pi, from the first axis to the second
    stretch: Array  # standard normal
    stretch_angle: Array  # of the direction that is stretched, in -pi .. pi
    shift: Array  # right, down: standard normal. # [2]


def augment(x: Array, keys: Array, *, rate: float) -> tuple[Array, Array]:
    """Returns (images moved at random, what a network is told of it: float32 [B, 9]).

    Half of the images are mirrored left to right. A mirror top to bottom has the probability rate / 2, each other move the
    rate. Every stretch has a direction of its own; in the authors' code half of them are along the rows.

    Args:
        x: images, [B, H, W, C].
        keys: one for each image, [B].
        rate: in 0 .. 1; Karras et al. take 0.12 for CIFAR-10 and 0.15 for faces.
    """
    moves = jax.vmap(functools.partial(draw, rate=rate))(keys)
    return jax.vmap(moved)(x, moves), jax.vmap(told)(moves)


def draw(key: Array, *, rate: float) -> Moves:
    """Returns random moves of one image."""
    key_flip, key_is_on, key_normal, key_angle = jax.random.split(key, 4)
    flips = jax.random.bernoulli(key_flip, 0.5, (2,)).astype(jnp.float32)
    flip, *is_on = jax.random.bernoulli(key_is_on, rate, (5,)).astype(jnp.float32)
    scale, stretch, *shift = jax.random.normal(key_normal, (4,))
    angle, stretch_angle = jax.random.uniform(key_angle, (2,), minval=-math.pi, maxval=math.pi)
    return Moves(
        flips * jnp.stack([jnp.ones(()), flip]),
        is_on[0] * scale,
        is_on[1] * angle,
        is_on[2] * stretch,
        is_on[2] * stretch_angle,
        is_on[3] * jnp.stack(shift),
    )


def told(moves: Moves) -> Array:
    """Returns the moves as numbers near 0, that are 0 where nothing is moved, and do not jump as an angle does. # [9]"""
    stretch = moves.stretch * jnp.stack([jnp.cos(moves.stretch_angle), jnp.sin(moves.stretch_angle)])
    turned = jnp.stack([moves.scale, jnp.cos(moves.angle) - 1, jnp.sin(moves.angle)])
    return jnp.concatenate([moves.flips, turned, stretch, moves.shift])


def moved(x: Array, moves: Moves) -> Array:
    """Returns one image, moved: linear between pixels, mirrored beyond its edges. # [H, W, C]

    Whatever falls on whole pixels, such as a mirror image, is exact.
    """
    size = jnp.asarray(x.shape[:2], jnp.float32)
    center = (size - 1) / 2
    rows_and_columns = jnp.stack(jnp.meshgrid(*map(jnp.arange, x.shape[:2]), indexing="ij"), axis=-1)
    came_from = (rows_and_columns - center - SHIFT_STD * size * moves.shift[::-1]) @ _backwards(moves).T + center
    take = functools.partial(jax.scipy.ndimage.map_coordinates, order=1, mode="mirror")
    return jax.vmap(take, in_axes=(-1, None), out_axes=-1)(x, list(jnp.moveaxis(came_from, -1, 0)))


def _backwards(moves: Moves) -> Array:
    """Returns what undoes all moves but the shift, of (row, column) from the center. # [2, 2]"""
    factor = 2.0 ** (SCALE_STD * moves.stretch)
    direction = _turn(moves.stretch_angle)
    unstretched = direction @ jnp.diag(jnp.stack([factor, 1 / factor])) @ direction.T
    mirrored = jnp.diag(1 - 2 * moves.flips[::-1])
    return 2.0 ** (-SCALE_STD * moves.scale) * mirrored @ _turn(moves.angle).T @ unstretched


def _turn(angle: Array) -> Array:
    """Returns the matrix that turns (row, column) by an angle, from columns (right) to rows (down). # [2, 2]"""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([jnp.stack([cos, sin]), jnp.stack([-sin, cos])])
