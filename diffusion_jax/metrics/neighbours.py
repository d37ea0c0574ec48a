"""Nearest neighbours and closed balls in sets of points, block by block on the device. Distances are Euclidean.

The device's |x|^2 + |y|^2 - 2 x.y only finds candidates: near duplicates cancel in it. What is found, and whatever is close
to a ball's edge, is computed again from the differences of the points. So results depend neither on blocks nor on devices.
"""

import functools
import operator
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax.errors import UserError

MOST_ROWS = 2048  # of a block of points
MOST_BYTES = 2**26  # of it
NUM_SPARE = 8  # candidates more than asked for: rounding may put some of a set of near duplicates in another order
NUM_ROUNDINGS = 64  # of |x|^2 + |y|^2, by which a distance of the device may be wrong


class Neighbours(NamedTuple):
    """The nearest points of another set, the nearest first; -1 and inf where there are fewer than asked for."""

    indices: np.ndarray  # int [N, k]
    distances: np.ndarray  # float64 [N, k]


def flat(name: str, points: np.ndarray) -> np.ndarray:
    """Returns points as rows, float64 where they are and float32 where not. # [N, D]

    Args:
        name: of the set in a sentence, such as "real images".
        points: [N, ...].

    Raises:
        UserError: where there is none, or a number is not finite.
    """
    points = np.asarray(points)
    if points.ndim < 2 or not points.size:
        raise UserError(f"{name} have the shape {list(points.shape)}; it must be [N, D], or [N, H, W, C] of pixels.")
    dtype = np.float64 if points.dtype == np.float64 else np.float32
    rows = points.reshape(len(points), -1).astype(dtype, copy=False)
    if not np.all(np.isfinite(rows)):
        count = f"{np.sum(~np.isfinite(rows)):,} of {rows.size:,}"
        raise UserError(f"{name} hold numbers that are not finite, {count}; all must be finite.")
    return rows


def nearest(points: np.ndarray, others: np.ndarray, num_neighbours: int, *, own: np.ndarray | None = None) -> Neighbours:
    """Returns the nearest of `others` for each point.

    Args:
        points: [N, D], as `flat` makes them.
        others: [M, D].
        num_neighbours: k. Of equally near ones, those of the lowest index.
        own: int [N], where in `others` each point itself is, which is not its neighbour; -1 for nowhere.
    """
    own = np.full(len(points), -1) if own is None else own
    centre, found = np.mean(others, axis=0, dtype=np.float64), []
    for rows, x in _blocks(points, centre):
        candidates = _candidates(x, others, num_neighbours, _padded(own[rows], len(x)), centre)
        found.append(_sorted(points[rows], others, candidates[: len(points[rows])], num_neighbours))
    return Neighbours(*map(np.concatenate, zip(*found, strict=True)))


def num_inside(points: np.ndarray, centres: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Returns how many closed balls contain each point, for each set of radii. # int [N, R]

    Args:
        points: [N, D], as `flat` makes them.
        centres: of the balls, [M, D].
        radii: [M, R]; a negative one is that of no ball.
    """
    centre = np.mean(centres, axis=0, dtype=np.float64)
    counts = np.zeros((len(points), radii.shape[1]), np.int64)
    for rows, x in _blocks(points, centre):
        for balls, y in _blocks(centres, centre):
            surely, is_unsure = _inside(x, y, _padded(radii[balls], len(y)))
            counts[rows] += np.asarray(surely)[: len(points[rows])]
            row, ball = np.nonzero(np.asarray(is_unsure)[: len(points[rows])])
            exact = _between(points[rows], centres[balls], row, ball)
            np.add.at(counts[rows], row, exact[:, None] <= radii[balls][ball])
    return counts


def _blocks(points: np.ndarray, centre: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields (which points, they about a centre), all blocks of equal size: the last one has points of zeros besides.

    The size is a multiple of 64, so that sets of nearly equal size share a program.
    """
    most = max(1, min(MOST_ROWS, MOST_BYTES // (points.itemsize * points.shape[1])) // 64) * 64
    size = -(-len(points) // -(-len(points) // most) // 64) * 64
    for first in range(0, len(points), size):
        rows = slice(first, min(first + size, len(points)))
        yield rows, _padded((points[rows] - centre).astype(points.dtype), size, value=0)


def _padded(rows: np.ndarray, size: int, value: float = -1) -> np.ndarray:
    """Returns rows, and rows of a value, `size` in all."""
    return np.pad(rows, [(0, size - len(rows)), *[(0, 0)] * (rows.ndim - 1)], constant_values=value)


def _candidates(x: np.ndarray, others: np.ndarray, num_neighbours: int, own: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Returns the others that may be the nearest to a block of points, as far as the device can tell, or -1. # int [B, .]

    Since |y|^2 <= 2 |x|^2 + 2 d^2, two distances d^2 may be in the wrong order where they differ by twice the slack below.
    """
    shape, dtype = (len(x), num_neighbours + NUM_SPARE), jnp.result_type(x)
    best = jnp.full(shape, jnp.inf, dtype), jnp.full(shape, -1, jnp.int32)
    for rows, y in _blocks(others, centre):
        best = _merge(*best, x, y, own, rows.start, len(others))
    squared, indices = map(np.asarray, best)
    last = squared[:, num_neighbours - 1, None]
    slack = NUM_ROUNDINGS * np.finfo(dtype).eps * (3 * np.sum(x**2, axis=1, keepdims=True) + 2 * last)
    return np.where((squared <= last + 2 * slack) & np.isfinite(squared), indices, -1)


@jax.jit
def _merge(
    squared: Array, indices: Array, x: Array, y: Array, own: Array, first: int, num_others: int
) -> tuple[Array, Array]:
    """Returns the nearest so far, with those of one more block: (squared distances, indices). # [B, k]"""
    there = first + jnp.arange(len(y), dtype=jnp.int32)
    is_hidden = (there >= num_others) | (there == own[:, None])
    more = jnp.where(is_hidden, jnp.inf, _squared(x, y)[0])
    squared = jnp.concatenate([squared, more], axis=1)
    indices = jnp.concatenate([indices, jnp.broadcast_to(there, more.shape)], axis=1)
    negative, places = jax.lax.top_k(-squared, squared.shape[1] - len(y))
    return -negative, jnp.take_along_axis(indices, places, axis=1)


@jax.jit
def _inside(x: Array, y: Array, radii: Array) -> tuple[Array, Array]:
    """Returns (in how many balls each point surely is [B, R], which pairs the device cannot tell for some radius [B, C])."""
    squared, slack = _squared(x, y)
    bounds = [jnp.where(radius < 0, -jnp.inf, radius**2) for radius in radii.T.astype(squared.dtype)]
    is_unsure = functools.reduce(operator.or_, [jnp.abs(squared - bound) <= slack for bound in bounds])
    surely = [jnp.sum((squared < bound) & ~is_unsure, axis=1) for bound in bounds]
    return jnp.stack(surely, axis=1), is_unsure


def _squared(x: Array, y: Array) -> tuple[Array, Array]:
    """Returns (squared distances, how wrong they may be). # [B, C] each"""
    sums = jnp.sum(x**2, axis=1)[:, None] + jnp.sum(y**2, axis=1)
    squared = sums - 2 * jnp.matmul(x, y.T, precision="highest")
    return squared, NUM_ROUNDINGS * jnp.finfo(x.dtype).eps * sums


def _sorted(points: np.ndarray, others: np.ndarray, candidates: np.ndarray, num_neighbours: int) -> Neighbours:
    """Returns the nearest of the candidates [N, .], by their distances anew."""
    rows, places = np.nonzero(candidates >= 0)
    distances = np.full(candidates.shape, np.inf)
    distances[rows, places] = _between(points, others, rows, candidates[rows, places])
    order = np.lexsort((candidates, distances), axis=1)[:, :num_neighbours]
    return Neighbours(*[np.take_along_axis(found, order, axis=1) for found in (candidates, distances)])


def _between(points: np.ndarray, others: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Returns the distances of some pairs. # float64 [P]"""
    size = max(1, MOST_BYTES // (points.itemsize * points.shape[1]))
    found = np.empty(len(rows))
    for first in range(0, len(rows), size):
        pairs = slice(first, first + size)
        difference = points[rows[pairs]] - others[columns[pairs]]
        found[pairs] = np.sqrt(np.einsum("nd,nd->n", difference, difference, dtype=np.float64))
    return found
