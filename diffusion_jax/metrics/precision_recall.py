"""How many generated images are like real ones, and how many real ones are like generated ones: balls about both."""

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.metrics import figure, neighbours
from diffusion_jax.metrics.figure import Figure

NUM_DENSITY_NEIGHBOURS = 5  # k of density and coverage


def figures(real: np.ndarray, generated: np.ndarray, *, num_neighbours: int = 3) -> dict[str, Figure]:
    """Returns precision and recall [Kynkaanniemi et al. 2019, arXiv:1904.06991], density and coverage.
    [Naeem et al. 2020, arXiv:2002.09797]

    About each image lies a closed ball that reaches its k-th nearest image of the same set. Precision is the share of
    generated images in the ball of a real one, recall that of real images in the ball of a generated one. Density is in how
    many of the real balls a generated image lies, over k. Coverage is the share of real balls that hold a generated image.
    Of density and coverage k is 5.

    The four depend on how many images there are: compare them at equal numbers of both. Leaving out a tenth changes recall
    and coverage rather more than another draw does: their errors were 1.2 to 1.5 times the spread of 30 draws.

    Args:
        real: features, [N, D].
        generated: features, [M, D].
        num_neighbours: k of precision and recall.

    Raises:
        UserError: for too few images, other features in one set than in the other, or a number that is not finite.
    """
    real, generated = neighbours.flat("real images", real), neighbours.flat("generated images", generated)
    most = max(num_neighbours, NUM_DENSITY_NEIGHBOURS)
    _check(real, generated, most)
    within = neighbours.nearest(real, real, most, own=np.arange(len(real)))
    radii = within.distances[:, [num_neighbours - 1, NUM_DENSITY_NEIGHBOURS - 1]]
    num_real_balls = neighbours.num_inside(generated, real, radii)
    return {
        "precision": figure.of_mean(num_real_balls[:, 0] > 0),
        "recall": _recall(real, generated, num_neighbours),
        "density": figure.of_mean(num_real_balls[:, 1] / NUM_DENSITY_NEIGHBOURS),
        "coverage": _coverage(real, generated, radii[:, 1]),
    }


def _check(real: np.ndarray, generated: np.ndarray, num_neighbours: int) -> None:
    if real.shape[1] != generated.shape[1]:
        raise UserError(
            f"real images have {real.shape[1]} features and generated ones {generated.shape[1]}; they must agree."
        )
    fewest = num_neighbours + figure.NUM_GROUPS
    for name, features in (("real", real), ("generated", generated)):
        if len(features) < fewest:
            raise UserError(f"precision and recall need {fewest} {name} images or more; there are {len(features)}.")


def _recall(real: np.ndarray, generated: np.ndarray, num_neighbours: int) -> Figure:
    """Without some of the generated images the balls of the others are larger; their radii come from the same distances."""
    group, own = figure.groups(len(generated)), np.arange(len(generated))
    nearest = [
        neighbours.nearest(generated, part, num_neighbours, own=np.where(group == g, own - first, -1)).distances
        for g, first, part in _parts(generated)
    ]
    radii = [_radii(nearest, num_neighbours)]
    for left_out in range(figure.NUM_GROUPS):
        others = _radii([found for g, found in enumerate(nearest) if g != left_out], num_neighbours)
        radii.append(np.where(group == left_out, -1, others))
    shares = np.mean(neighbours.num_inside(real, generated, np.stack(radii, axis=1)) > 0, axis=0)
    return figure.jackknife(shares[0], shares[1:])


def _coverage(real: np.ndarray, generated: np.ndarray, radii: np.ndarray) -> Figure:
    nearest = [neighbours.nearest(real, part, 1).distances[:, 0] for _, _, part in _parts(generated)]
    holds = np.stack(nearest) <= radii
    without = [np.mean(np.any(np.delete(holds, left_out, axis=0), axis=0)) for left_out in range(figure.NUM_GROUPS)]
    return figure.jackknife(np.mean(np.any(holds, axis=0)), without)


def _parts(generated: np.ndarray) -> list[tuple[int, int, np.ndarray]]:
    """Returns (number of a group, its first image, its features), for all groups."""
    bounds = np.searchsorted(figure.groups(len(generated)), np.arange(figure.NUM_GROUPS + 1))
    return [(g, bounds[g], generated[bounds[g] : bounds[g + 1]]) for g in range(figure.NUM_GROUPS)]


def _radii(nearest: list[np.ndarray], num_neighbours: int) -> np.ndarray:
    """Returns the k-th distance of all, from the k nearest in each part. # [N]"""
    return np.partition(np.concatenate(nearest, axis=1), num_neighbours - 1, axis=1)[:, num_neighbours - 1]
