"""The Frechet distance between two sets of features: FID, where they are Inception's. [Heusel et al. 2017, eq. 6]"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from diffusion_jax.metrics.figure import Figure


class Gaussian(NamedTuple):
    """What the distance sees of a set of features."""

    mean: np.ndarray  # [D]
    root: np.ndarray  # of the covariance, symmetric, [D, D]


class Moments(NamedTuple):
    """Sums over a set of features, in float64. Moments of parts add up to those of the whole: see `total`."""

    num_images: int
    mean: np.ndarray  # [D]
    scatter: np.ndarray  # sum of (f - mean) (f - mean)^T, [D, D]

    @property
    def covariance(self) -> np.ndarray:
        """The unbiased covariance. # [D, D]"""
        return self.scatter / (self.num_images - 1)


def moments(features: np.ndarray) -> Moments:
    """Returns the moments of features, [N, D]."""
    mean = np.mean(features, axis=0, dtype=np.float64)
    centred = features - mean
    return Moments(len(features), mean, centred.T @ centred)


def total(parts: Sequence[Moments]) -> Moments:
    """Returns the moments of all parts together. [Chan et al. 1983]"""
    num = sum(part.num_images for part in parts)
    mean = sum(part.num_images / num * part.mean for part in parts)
    apart = np.stack([np.sqrt(part.num_images) * (part.mean - mean) for part in parts])
    return Moments(num, mean, sum(part.scatter for part in parts) + apart.T @ apart)


def gaussian(mean: np.ndarray, covariance: np.ndarray) -> Gaussian:
    """Returns the Gaussian of a mean and a covariance; eigenvalues that rounding alone explains are 0. # [D], [D, D]"""
    values, vectors = np.linalg.eigh(covariance)
    return Gaussian(mean, (vectors * np.sqrt(np.where(values > _least(values), values, 0))) @ vectors.T)


def of_features(features: np.ndarray) -> Gaussian:
    """Returns the Gaussian with the mean and the covariance of features, [N, D]."""
    found = moments(features)
    return gaussian(found.mean, found.covariance)


def distance(one: Gaussian, two: Gaussian) -> float:
    """Returns |m_1 - m_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)), the squared 2-Wasserstein distance of two Gaussians.

    tr (S_1 S_2)^(1/2) is the sum of the singular values of S_1^(1/2) S_2^(1/2). The eigenvalues of S_1 S_2 would have errors
    of 1e-16, whose roots, 1e-8, add up over the dimensions without variance.
    """
    cross = np.sum(np.linalg.svd(one.root @ two.root, compute_uv=False))
    return float(np.sum((one.mean - two.mean) ** 2) + np.sum(one.root**2) + np.sum(two.root**2) - 2 * cross)


def frechet_distance(generated: np.ndarray, real: Gaussian) -> Figure:
    """Returns the distance of generated images' features to real ones, with its standard error. # [N, D]

    The error is that of the first derivative in each image f, |g|^2 - g^T T g + 2 g^T (m_1 - m_2) with g = f - m_1, where
    T = S_2^(1/2) (S_2^(1/2) S_1 S_2^(1/2))^(-1/2) S_2^(1/2) transports the one Gaussian to the other. It is up to 1.5 times
    the spread of repeated draws where the distance is mostly the noise of the covariance.
    """
    found = moments(generated)
    one, centred = gaussian(found.mean, found.covariance), generated - found.mean
    values, vectors = np.linalg.eigh(real.root @ found.covariance @ real.root)
    is_known = values > _least(values)
    half = real.root @ vectors[:, is_known] / values[is_known] ** 0.25  # T = half half^T
    influence = np.sum(centred**2, axis=1) - np.sum((centred @ half) ** 2, axis=1) + 2 * centred @ (one.mean - real.mean)
    return Figure(distance(one, real), float(np.std(influence, ddof=1) / np.sqrt(len(generated))))


def _least(values: np.ndarray) -> float:
    """Returns the eigenvalue below which rounding alone explains one."""
    return len(values) * np.finfo(np.float64).eps * np.max(np.abs(values))
