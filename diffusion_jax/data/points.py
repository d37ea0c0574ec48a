"""Points in the plane whose density is known: the smallest data set, and the oracle of everything else."""

import math

import numpy as np

from diffusion_jax.data import sources
from diffusion_jax.data.sources import Source

NUM_POINTS = 20_000
STD = 0.15  # of the noise around the moons
# A moon is half a circle of radius 1. They lie about the origin, and x_0 has a standard deviation of about 1.
CENTRES, SIDES = np.array([[-0.5, -0.25], [0.5, 0.25]]), np.array([1.0, -1.0])
NUM_ANGLES = 1000  # of the integral over a moon; its points are then 0.02 standard deviations apart


def two_moons(*, split: str = "") -> Source:
    """Returns 20,000 points in the plane: two half circles with Gaussian noise. Labels 0 and 1 are the moons.

    The density is `two_moons_log_density`. Raises UserError for a split other than '' and 'test', which has other points.
    """
    rng = np.random.default_rng(sources.seed_of_split("two_moons", split))
    labels = np.arange(NUM_POINTS) % 2
    angles = math.pi * rng.random(NUM_POINTS)
    points = (_arc(angles, labels) + STD * rng.standard_normal((NUM_POINTS, 2))).astype(np.float32)
    return sources.of_arrays(points, labels)._replace(class_names=("upper", "lower"))


def two_moons_log_density(points: np.ndarray, *, label: int | None = None) -> np.ndarray:
    """Returns log p of points in nats, of one moon or of both, by the midpoint rule over the angle. # float64 [N]

    Args:
        points: [N, 2].
        label: of a moon, 0 or 1; None for both.
    """
    moons = (0, 1) if label is None else (label,)
    angles = math.pi * (np.arange(NUM_ANGLES) + 0.5) / NUM_ANGLES
    means = np.concatenate([_arc(angles, np.full(NUM_ANGLES, moon)) for moon in moons])
    squares = np.sum((points[:, None].astype(np.float64) - means) ** 2, axis=-1) / STD**2
    least = np.min(squares, axis=1)
    return np.log(np.mean(np.exp((least[:, None] - squares) / 2), axis=1)) - least / 2 - math.log(2 * math.pi * STD**2)


def _arc(angles: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the points of the moons' half circles: the upper is open below, the lower above. # [N, 2]"""
    sides = SIDES[labels]
    return CENTRES[labels] + np.stack([sides * np.cos(angles), sides * np.sin(angles)], axis=-1)
