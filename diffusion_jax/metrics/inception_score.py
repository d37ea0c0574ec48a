"""The inception score: how sure a classifier is of each image, and how many classes it sees. [Salimans et al. 2016]"""

import itertools

import numpy as np

from diffusion_jax.metrics import figure
from diffusion_jax.metrics.figure import Figure


def inception_score(logits: np.ndarray, *, num_splits: int = figure.NUM_GROUPS) -> Figure:
    """Returns exp E KL(p(y|x) | p(y)), the mean over consecutive splits of the images, as it is published.

    The standard error is that of the mean: the spread of the splits over the root of their number.

    Args:
        logits: of Inception's 1,008 classes, of images in an order that means nothing, [N, 1008].
        num_splits: 10 in all that is published. A score of fewer images in each split is lower.
    """
    bounds = np.arange(num_splits + 1) * len(logits) // num_splits
    return figure.of_mean([_score(logits[start:end].astype(np.float64)) for start, end in itertools.pairwise(bounds)])


def _score(logits: np.ndarray) -> float:
    shifted = logits - np.max(logits, axis=1, keepdims=True)
    log_p = shifted - np.log(np.sum(np.exp(shifted), axis=1, keepdims=True))
    log_marginal = np.log(np.mean(np.exp(log_p), axis=0))
    return float(np.exp(np.mean(np.sum(np.exp(log_p) * (log_p - log_marginal), axis=1))))
