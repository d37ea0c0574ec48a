"""The variational bound on the negative log-likelihood, in bits per dimension. [Ho et al. 2020, eq. 5]

A bound is the sum of one term for each step of a chain, of which the last is the decoder's, and of the prior's. It is never
to be put beside the likelihood of a probability flow (`flow.py`), which is another number.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import log_ndtr

from diffusion_jax import denoiser, process
from diffusion_jax.denoiser import Denoiser, Prediction, VarianceKind
from diffusion_jax.process import Gaussian, Level

HALF_BIN = 1 / 255  # of uint8 values in [-1, 1]
EDGE = 0.999  # beyond it lie the first and the last value alone, whose bins reach to infinity


class Bound(NamedTuple):
    """The bound on -log2 p(x_0) / D of each image, and what it is made of.

    Attributes:
        total: bits per dimension, [B].
        terms: of each step, in the order of the grid, the decoder's last, [S, B].
        prior: KL(q(x_T | x_0) || N(0, I)), [B].
        mse_x_0: mean squared error of the predicted x_0 at each step, [S, B].
        mse_eps: the same of eps, [S, B].
    """

    total: Array
    terms: Array
    prior: Array
    mse_x_0: Array
    mse_eps: Array


def bound(
    denoise: Denoiser,
    x_0: Array,
    grid: Level,
    noise: Callable[[Array], Array],
    *,
    variance: VarianceKind,
) -> Bound:
    """Returns the variational bound of images, with one draw of x_t for each step. [Ho et al. 2020, eqs. 5 and 13]

    Args:
        denoise: the denoiser, clipped as in sampling (the papers' figures) or not (as it was trained).
        x_0: images, uint8 values in [-1, 1], [B, H, W, C].
        grid: `Level` of [S + 1], from T down to the data.
        noise: number of the step -> standard normal draws, [B, H, W, C].
        variance: of the reverse steps.

    Raises:
        ValueError: for a grid that ends before the data, where the decoder's term would be missing.
    """
    if not isinstance(grid.sigma, jax.core.Tracer) and np.asarray(grid.sigma)[-1] != 0:
        raise ValueError("the grid is not allowed; it must end at level 0, the data.")
    num_steps = len(grid.alpha) - 1
    first = first_log_variance(grid)

    def step(_, index: Array) -> tuple[None, tuple[Array, Array, Array]]:
        t, s, eps = process.at(grid, index), process.at(grid, index + 1), noise(index)
        x_t = process.diffuse(x_0, t, eps)
        prediction = denoise(x_t, t)
        term = bound_term(prediction, x_0, x_t, t, s, variance=variance, first=first)
        return None, (term, _mean((prediction.x_0 - x_0) ** 2), _mean((prediction.eps - eps) ** 2))

    _, (terms, mse_x_0, mse_eps) = jax.lax.scan(step, None, jnp.arange(num_steps))
    prior = prior_term(x_0, process.at(grid, 0))
    return Bound(jnp.sum(terms, axis=0) + prior, terms, prior, mse_x_0, mse_eps)


def bound_term(
    prediction: Prediction,
    x_0: Array,
    x_t: Array,
    t: Level,
    s: Level,
    *,
    variance: VarianceKind,
    first: Array,
) -> Array:
    """Returns KL(q(x_s | x_t, x_0) || p(x_s | x_t)), or -log p(x_0 | x_t) where s is the data, in bits per dimension. # [B]

    Args:
        prediction: the denoiser's, at x_t.
        x_0: images in [-1, 1], [B, H, W, C].
        x_t: drawn from q(x_t | x_0), [B, H, W, C].
        t: from, [] or [B].
        s: to, [] or [B].
        variance: of the reverse step.
        first: `first_log_variance` of the chain.
    """
    is_last = s.sigma == 0
    truth = process.posterior(x_0, x_t, t, s)
    truth = truth._replace(log_variance=process.expand(jnp.where(is_last, first, truth.log_variance), x_0))  # not -inf
    log_variance = denoiser.reverse_log_variance(prediction.variance, x_t, t, s, variance, first=first)
    model = Gaussian(process.posterior(prediction.x_0, x_t, t, s).mean, log_variance)
    decoder = -log_discretized_gaussian(x_0, model)
    return _mean(jnp.where(process.expand(is_last, x_0), decoder, gaussian_kl(truth, model))) / math.log(2)


def first_log_variance(grid: Level) -> Array:
    """Returns the log-variance of p(x_0 | x_1) for fixed variances: the posterior's one step above, as in Ho et al."""
    last = len(grid.alpha) - 1
    above = process.at(grid, max(last - 2, 0))
    return process.log_variance(above, process.at(grid, last - 1), "small") if last > 1 else 2 * jnp.log(above.sigma)


def prior_term(x_0: Array, level: Level) -> Array:
    """Returns KL(q(x_T | x_0) || N(0, I)) in bits per dimension. # [B]"""
    truth = Gaussian(process.diffuse(x_0, level, jnp.zeros_like(x_0)), process.expand(2 * jnp.log(level.sigma), x_0))
    return _mean(gaussian_kl(truth, Gaussian(jnp.zeros_like(x_0), jnp.zeros_like(truth.log_variance)))) / math.log(2)


def gaussian_kl(p: Gaussian, q: Gaussian) -> Array:
    """Returns KL(p || q) of each value, in nats: (e^d - 1 - d + (mean difference)^2 / var q) / 2, d = log var ratio."""
    d = p.log_variance - q.log_variance
    return (jnp.expm1(d) - d + (p.mean - q.mean) ** 2 * jnp.exp(-q.log_variance)) / 2


def log_discretized_gaussian(x_0: Array, law: Gaussian) -> Array:
    """Returns the log-probability of each uint8 value's bin under a Gaussian, in nats. [Ho et al. 2020, eq. 13]

    The bins of 0 and 255 reach to infinity. A difference of two numbers near 1 has no digits left in float32, so the two are
    taken in logarithms, from the tail on whose side the value lies.

    Args:
        x_0: uint8 values in [-1, 1].
        law: the Gaussian.
    """
    inverse_std = jnp.exp(-law.log_variance / 2)
    upper, lower = (inverse_std * (x_0 - law.mean + half) for half in (HALF_BIN, -HALF_BIN))
    right = x_0 > law.mean  # measure from the right tail: P(lower < z < upper) = P(-upper < z < -lower)
    high, low = jnp.where(right, -lower, upper), jnp.where(right, -upper, lower)
    log_high = log_ndtr(high)
    inside = log_high + _log1mexp(log_ndtr(low) - log_high)
    return jnp.where(x_0 < -EDGE, log_ndtr(upper), jnp.where(x_0 > EDGE, log_ndtr(-lower), inside))


def _log1mexp(x: Array) -> Array:
    """Returns log(1 - e^x) for x < 0, without losing digits where e^x is near 0 or near 1."""
    cut = -math.log(2)
    near, far = jnp.clip(x, cut, -1e-30), jnp.minimum(x, cut)  # each branch finite everywhere, for the gradient's sake
    return jnp.where(x > cut, jnp.log(-jnp.expm1(near)), jnp.log1p(-jnp.exp(far)))


def _mean(x: Array) -> Array:
    """Returns the mean over all but the batch. # [B]"""
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))
