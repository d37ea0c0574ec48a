"""Data whose exact denoiser is known: what a perfectly trained network would say."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.special

from diffusion_jax import process
from diffusion_jax.denoiser import Prediction

MEAN, STD = 0.3, 0.5
WEIGHTS, MEANS, STDS = np.array([0.6, 0.4]), np.array([-0.7, 0.5]), np.array([0.15, 0.3])  # of a mixture


def rows_of(betas, **options):
    """Returns all rows of a chain, 0 .. T: `Level` of [T + 1]."""
    return process.chain(betas, **options).level(np.arange(np.size(betas) + 1))


def gaussian(mean=MEAN, std=STD):
    """Returns the denoiser E[x_0 | x_t] of data N(mean, std^2), each value on its own."""

    def denoise(x_t, level):
        alpha, sigma = process.expand(level.alpha, x_t), process.expand(level.sigma, x_t)
        variance = alpha**2 * std**2 + sigma**2
        eps = sigma * (x_t - alpha * mean) / variance
        x_0 = mean + alpha * std**2 * (x_t - alpha * mean) / variance
        return Prediction(x_0, eps)

    return denoise


def mixture(weights=WEIGHTS, means=MEANS, stds=STDS):
    """Returns the denoiser of data from a mixture of Gaussians, each value on its own."""

    def denoise(x_t, level):
        alpha, sigma = (process.expand(column, x_t)[..., None] for column in (level.alpha, level.sigma))
        weight, mean, std = (jnp.asarray(part, x_t.dtype) for part in (weights, means, stds))
        away, variance = x_t[..., None] - alpha * mean, (alpha * std) ** 2 + sigma**2
        share = jax.nn.softmax(jnp.log(weight) - jnp.log(variance) / 2 - away**2 / (2 * variance), axis=-1)
        x_0 = jnp.sum(share * (mean + alpha * std**2 * away / variance), axis=-1)
        return Prediction(x_0, jnp.sum(share * sigma * away / variance, axis=-1))

    return denoise


def carried(x, t, s):
    """Returns where the probability flow takes values of the mixture from level t to level s, exactly. # float64 [N]

    On a line trajectories do not cross: the flow keeps the share of the data that lies below.
    """

    def below(x, level):
        away = (x - float(level.alpha) * MEANS) / np.hypot(float(level.alpha) * STDS, float(level.sigma))
        return np.sum(WEIGHTS * scipy.special.ndtr(away))

    def arrived(value):
        share, reach = below(value, t), 10 * math.hypot(s.alpha, s.sigma)
        return scipy.optimize.brentq(lambda y: below(y, s) - share, -reach, reach, xtol=1e-15, rtol=1e-15)

    return np.array([arrived(value) for value in np.ravel(np.asarray(x, np.float64))])


def point(x_0):
    """Returns the denoiser of data that is one image."""

    def denoise(x_t, level):
        alpha, sigma = process.expand(level.alpha, x_t), process.expand(level.sigma, x_t)
        return Prediction(jnp.broadcast_to(x_0, x_t.shape), (x_t - alpha * x_0) / sigma)

    return denoise
