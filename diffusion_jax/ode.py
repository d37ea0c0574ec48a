"""Ordinary differential equations for a batch, each image with its own step size. [Dormand & Prince 1980, RK5(4)7M]"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax import errors, process

# Stage i is taken at t + C[i] h from the slopes before it, weighted by A[i]. The last stage is the new point itself, whose
# slope begins the next step; ERROR is the difference of the solutions of fifth and of fourth order. JAX caches the
# rounded copy of a NumPy array, so each use first casts the table to its own precision.
C = np.array([0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1])
A = np.array(
    [
        [0, 0, 0, 0, 0, 0, 0],
        [1 / 5, 0, 0, 0, 0, 0, 0],
        [3 / 40, 9 / 40, 0, 0, 0, 0, 0],
        [44 / 45, -56 / 15, 32 / 9, 0, 0, 0, 0],
        [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729, 0, 0, 0],
        [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656, 0, 0],
        [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0],
    ]
)
ERROR = np.array([71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40])

SAFETY, SLOWEST, FASTEST = 0.9, 0.2, 5.0  # of the next step size: what the error suggests, and how fast it may change


class Solution(NamedTuple):
    """Where each image arrived, and what it cost."""

    y: Any  # pytree of [B, ...]
    num_evaluations: Array  # of the slope, int32 [B]
    reached_end: Array  # whether `max_steps` were enough, bool [B]


class _Walk(NamedTuple):
    t: Array  # [B]
    h: Array  # the step to try, [B]
    y: Any
    slope: Any  # at (t, y)
    num_steps: Array  # tried so far, int32 [B]


def integrate(
    slope: Callable[[Array, Any], Any],
    y: Any,
    start: Array | float,
    end: Array | float,
    *,
    rtol: float,
    atol: float,
    max_steps: int = 1000,
) -> Solution:
    """Returns y(end) of dy/dt = slope(t, y) with y(start) given.

    A step is kept where the root mean square, over the values of an image, of error / (atol + rtol |y|) is at most 1.

    Args:
        slope: (t [B], y) -> dy/dt; image i of the result depends on image i alone.
        y: pytree of [B, ...].
        end: where to arrive, above `start` or below.
        max_steps: after which an image stops where it is.

    Raises:
        UserError: for a tolerance that is not above 0.
    """
    for tolerance in (rtol, atol):
        if not tolerance > 0:
            raise errors.UserError(f"tolerance = {errors.shown(tolerance)} is not allowed; it must be above 0.")
    [num_images] = {leaf.shape[0] for leaf in jax.tree.leaves(y)}
    dtype, sign = jax.tree.leaves(y)[0].dtype, jnp.sign(end - start)
    slope, start, end = _rising(slope, sign), sign * start, sign * end
    t = jnp.full(num_images, start, dtype)
    walk = _Walk(t, jnp.full(num_images, (end - start) / 100, dtype), y, slope(t, y), jnp.zeros(num_images, jnp.int32))

    def going(walk: _Walk) -> Array:
        return (walk.t < end) & (walk.num_steps < max_steps)

    def step(walk: _Walk) -> _Walk:
        h = jnp.where(going(walk), jnp.minimum(walk.h, end - walk.t), 0)
        slopes, new = _stages(slope, walk, h)
        error = _norm(_combined(ERROR.astype(h.dtype), slopes, h), walk.y, new, rtol, atol)
        error = jnp.where(jnp.isnan(error), jnp.inf, error)  # a step that went astray is tried again, shorter
        kept = (error <= 1) & going(walk)
        arrived = jnp.where(walk.h >= end - walk.t, end, walk.t + h)
        factor = jnp.clip(SAFETY * jnp.maximum(error, 1e-10) ** -0.2, SLOWEST, FASTEST)
        return _Walk(
            jnp.where(kept, arrived, walk.t),
            jnp.where(going(walk), h * factor, walk.h),
            _where(kept, new, walk.y),
            _where(kept, jax.tree.map(lambda leaf: leaf[-1], slopes), walk.slope),
            walk.num_steps + going(walk),
        )

    walk = jax.lax.while_loop(lambda walk: jnp.any(going(walk)), step, walk)
    return Solution(walk.y, 1 + 6 * walk.num_steps, walk.t >= end)


def _rising(slope: Callable[[Array, Any], Any], sign: Array) -> Callable[[Array, Any], Any]:
    """Returns the slope by sign * t, which rises from start to end."""
    return lambda t, y: jax.tree.map(lambda dy: sign * dy, slope(sign * t, y))


def _stages(slope: Callable[[Array, Any], Any], walk: _Walk, h: Array) -> tuple[Any, Any]:
    """Returns the seven slopes of a step, stacked, and the point it leads to. A loop, so that the slope is compiled once."""
    slopes = jax.tree.map(lambda leaf: jnp.zeros((len(C), *leaf.shape), leaf.dtype).at[0].set(leaf), walk.slope)

    def stage(i: Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        slopes, _ = carry
        point = jax.tree.map(jnp.add, walk.y, _combined(jnp.asarray(A.astype(h.dtype))[i], slopes, h))
        new = slope(walk.t + jnp.asarray(C.astype(h.dtype))[i] * h, point)
        return jax.tree.map(lambda all_, one: all_.at[i].set(one), slopes, new), point

    return jax.lax.fori_loop(1, len(C), stage, (slopes, walk.y))


def _combined(weights: Array, slopes: Any, h: Array) -> Any:
    """Returns h times the weighted sum of stacked slopes."""
    return jax.tree.map(lambda leaf: process.expand(h, leaf[0]) * jnp.tensordot(weights, leaf, 1), slopes)


def _norm(error: Any, old: Any, new: Any, rtol: float, atol: float) -> Array:
    """Returns the root mean square of an image's errors, each over its tolerance. # [B]"""

    def squares(error: Array, old: Array, new: Array) -> Array:
        ratio = error / (atol + rtol * jnp.maximum(jnp.abs(old), jnp.abs(new)))
        return jnp.sum(ratio**2, axis=process.value_axes(ratio))

    num_values = sum(leaf[0].size for leaf in jax.tree.leaves(old))
    return jnp.sqrt(sum(jax.tree.leaves(jax.tree.map(squares, error, old, new))) / num_values)


def _where(mask: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda new, old: jnp.where(process.expand(mask, new), new, old), new, old)
