"""Whether generated images repeat the training set: how near they are to its images, for how near it is to itself.

The same figures of held-out images are the control: those cannot repeat what nobody trained on.
"""

from typing import NamedTuple

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.metrics import figure, neighbours
from diffusion_jax.metrics.figure import Figure

NUM_NEIGHBOURS = 50  # training images that a distance is compared with
SHARE = 0.5  # of their mean distance, below which an image is called a copy


class Closeness(NamedTuple):
    """What lies next to each image in the training set."""

    indices: np.ndarray  # int [N], of the nearest training image
    distances: np.ndarray  # [N], to it
    calibrated: np.ndarray  # [N], over half the mean distance to the 50 nearest: 0 is the same image, 2 the most
    is_authentic: np.ndarray  # bool [N], farther from it than its own nearest training image is


def own_distances(train: np.ndarray) -> np.ndarray:
    """Returns the distance of each training image to the nearest other one. # [M]"""
    train = _checked(train)
    return neighbours.nearest(train, train, 1, own=np.arange(len(train))).distances[:, 0]


def closeness(images: np.ndarray, train: np.ndarray, own: np.ndarray) -> Closeness:
    """Returns how near images, generated or held out, are to those of a training set.

    Calibrated distance: d(x, its nearest) / (0.5 mean of d(x, its 50 nearest)). [Carlini et al. 2023, arXiv:2301.13188]
    Authentic: d(x, its nearest) > d(that one, its nearest other training image). [Alaa et al. 2022, arXiv:2102.08921]

    A training image that is there twice has a distance of 0 to itself, so that whatever lies near it is authentic.

    Args:
        images: features [N, D], or uint8 images [N, H, W, C].
        train: of the same kind, M of them. Of fewer than 50 all are compared with.
        own: `own_distances(train)`.

    Raises:
        UserError: for sets of another kind, fewer than two training images, or a number that is not finite.
    """
    images, train = neighbours.flat("images", images), _checked(train)
    if images.shape[1] != train.shape[1]:
        raise UserError(f"images have {images.shape[1]} numbers and training images {train.shape[1]}; they must agree.")
    found = neighbours.nearest(images, train, min(NUM_NEIGHBOURS, len(train)))
    first, indices = found.distances[:, 0], found.indices[:, 0]
    typical = SHARE * np.mean(found.distances, axis=1)
    calibrated = np.divide(first, typical, out=np.zeros_like(first), where=typical > 0)
    return Closeness(indices, first, calibrated, first > own[indices])


def figures(found: Closeness) -> dict[str, Figure]:
    """Returns `authenticity`, the share of authentic images (AuthPct / 100); `calibrated_distance`, the mean; and `copies`,
    the share of images whose calibrated distance is below 1: their nearest is nearer than half of what is usual."""
    return {
        "authenticity": figure.of_mean(found.is_authentic),
        "calibrated_distance": figure.of_mean(found.calibrated),
        "copies": figure.of_mean(found.calibrated < 1),
    }


def worst(found: Closeness, num_cases: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (numbers of images, those of their nearest training images), the smallest calibrated distance first."""
    numbers = np.argsort(found.calibrated, kind="stable")[:num_cases]
    return numbers, found.indices[numbers]


def pictures(images: np.ndarray, train: np.ndarray, found: Closeness, num_cases: int) -> np.ndarray:
    """Returns the worst cases, each image followed by its nearest training image: a grid of an even number of columns shows
    them side by side. # uint8 [2 num_cases, H, W, C]"""
    numbers, of_train = worst(found, num_cases)
    return np.stack([images[numbers], train[of_train]], axis=1).reshape(-1, *images.shape[1:])


def _checked(train: np.ndarray) -> np.ndarray:
    train = neighbours.flat("training images", train)
    if len(train) < 2:
        raise UserError("the training set has one image; memorisation needs two or more.")
    return train
