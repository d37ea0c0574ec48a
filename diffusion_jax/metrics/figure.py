"""A figure and its standard error, by leaving out a tenth of the generated images at a time."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

NUM_GROUPS = 10


class Figure(NamedTuple):
    """What is measured of generated images.

    The error is that of drawing these images and no others: the real images, and the weights, are taken as they are.
    """

    value: float
    standard_error: float


def of_mean(values: np.ndarray | Sequence[float]) -> Figure:
    """Returns the mean of what is measured of each image, or split, by itself, with the error sd / sqrt(N). # [N], N > 1"""
    values = np.asarray(values, np.float64)
    return Figure(float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values))))


def groups(num_images: int) -> np.ndarray:
    """Returns the group of each generated image: `NUM_GROUPS` parts of equal size, or nearly. # int [N]"""
    bounds = np.arange(NUM_GROUPS + 1) * num_images // NUM_GROUPS
    return np.repeat(np.arange(NUM_GROUPS), np.diff(bounds))


def jackknife(value: float, without: Sequence[float]) -> Figure:
    """Returns a figure with its standard error, sqrt((G - 1) / G sum_g (v_g - mean v)^2). [Efron and Stein 1981]

    Args:
        value: of all images.
        without: of the images without group g, for each of the G groups.
    """
    spread = np.asarray(without, np.float64) - np.mean(without)
    return Figure(float(value), float(np.sqrt((len(spread) - 1) / len(spread) * np.sum(spread**2))))
