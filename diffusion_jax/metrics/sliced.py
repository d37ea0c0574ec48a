"""The sliced Wasserstein distance between two sets of features: MIND, where they are Inception's. [Berthet et al. 2026]"""

import jax
import numpy as np

from diffusion_jax.metrics import figure
from diffusion_jax.metrics.figure import Figure

NUM_DIRECTIONS = 1000
AT_ONCE = 100  # directions: what is sorted together


def sliced_wasserstein(generated: np.ndarray, real: np.ndarray) -> Figure:
    """Returns 3 D E_u W_2^2(u.generated, u.real), over 1,000 directions u, with its standard error.

    The factor makes it |m_1 - m_2|^2 times 3 where two sets differ in their means alone, so that it is of the size of a
    Frechet distance. The directions are always the same, so that two figures differ by their images. Sets of two sizes are
    coupled exactly, by their quantile functions. [Berthet et al. 2026, arXiv:2605.06797]

    Args:
        generated: features, [N, D].
        real: features, [M, D].
    """
    width, groups = generated.shape[1], figure.groups(len(generated))
    directions = np.asarray(jax.random.normal(jax.random.key(0), (NUM_DIRECTIONS, width)))
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    found = np.stack([_by_group(generated, real, groups, part) for part in np.split(directions, NUM_DIRECTIONS // AT_ONCE)])
    value, *without = 3 * width * np.mean(found, axis=0)
    return figure.jackknife(value, without)


def _by_group(generated: np.ndarray, real: np.ndarray, groups: np.ndarray, directions: np.ndarray) -> list[float]:
    """Returns the mean W_2^2 over some directions: of all images, then without each group. # [1 + G]"""
    projected, of_real = directions @ generated.T, np.sort(directions @ real.T, axis=1)
    order = np.argsort(projected, axis=1)
    in_order, group_in_order = np.take_along_axis(projected, order, axis=1), groups[order]
    kept = [in_order[group_in_order != group].reshape(len(directions), -1) for group in range(figure.NUM_GROUPS)]
    return [_squared_distance(each, of_real) for each in (in_order, *kept)]


def _squared_distance(one: np.ndarray, two: np.ndarray) -> float:
    """Returns the mean over rows of the W_2^2 of two sorted samples: the integral of (F^-1 - G^-1)^2. # [K, N], [K, M]"""
    num, other = one.shape[1], two.shape[1]
    ends = np.unique(np.concatenate([np.arange(1, num + 1) * other, np.arange(1, other + 1) * num]))  # over N M
    starts = np.concatenate([[0], ends[:-1]])
    apart = one[:, starts // other].astype(np.float64) - two[:, starts // num]
    return float(np.mean(apart**2 @ (ends - starts)) / (num * other))
