"""The kernel distance between two sets of features: KID, where they are Inception's. [Binkowski et al. 2018]"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax.metrics import figure
from diffusion_jax.metrics.figure import Figure

BLOCK = 2**25  # values of a kernel matrix at once


def distance_to(real: np.ndarray) -> Callable[[np.ndarray], Figure]:
    """Returns features -> the unbiased squared maximum mean discrepancy of the kernel (x.y / D + 1)^3, with its error.

    Of all pairs of images, where KID is often the mean over random subsets: the same expectation, and less noise. It may be
    below 0. [Binkowski et al. 2018, section 4]

    Args:
        real: features, [M, D], whose own pairs are summed once for all features, [N, D], that are compared with them.
    """
    among_real = (_sum(real, jnp.asarray(real)) - _sum_of_squares(real)) / (len(real) * (len(real) - 1))
    return functools.partial(_distance, among_real=among_real, real=real)


def _distance(generated: np.ndarray, among_real: float, real: np.ndarray) -> Figure:
    on_device = jnp.asarray(real)  # once, for all blocks; between two calls it is not there
    groups = figure.groups(len(generated))
    parts = [generated[groups == group] for group in range(figure.NUM_GROUPS)]
    sizes = np.array([len(part) for part in parts])
    own = np.array([[_sum(one, two) for two in parts] for one in parts]) - np.diag([_sum_of_squares(part) for part in parts])
    cross = np.array([_sum(part, on_device) for part in parts])

    def discrepancy(kept: np.ndarray) -> float:
        num = np.sum(sizes[kept])
        return np.sum(own[kept][:, kept]) / (num * (num - 1)) + among_real - 2 * np.sum(cross[kept]) / (num * len(real))

    every = np.arange(figure.NUM_GROUPS)
    return figure.jackknife(discrepancy(every), [discrepancy(np.delete(every, group)) for group in every])


def _sum(one: np.ndarray, two: np.ndarray | Array) -> float:
    """Returns the sum of k(x, y) over all x of one set and y of another, rows added up in float64."""
    num_rows = max(1, BLOCK // len(two))
    blocks = (one[start : start + num_rows] for start in range(0, len(one), num_rows))
    return float(sum(np.sum(np.asarray(_row_sums(block, two)), dtype=np.float64) for block in blocks))


@jax.jit
def _row_sums(one: Array, two: Array) -> Array:
    """Returns sum_y k(x, y) for each x. # [N, D], [M, D] -> [N]"""
    return jnp.sum((jnp.matmul(one, two.T, precision="highest") / one.shape[-1] + 1) ** 3, axis=1)


def _sum_of_squares(features: np.ndarray) -> float:
    """Returns the sum of k(x, x)."""
    return float(np.sum((np.mean(features.astype(np.float64) ** 2, axis=1) + 1) ** 3))
