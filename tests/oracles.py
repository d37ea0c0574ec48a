"""Data whose exact denoiser is known: what a perfectly trained network would say."""

import jax.numpy as jnp

from diffusion_jax import process
from diffusion_jax.denoiser import Prediction

MEAN, STD = 0.3, 0.5


def gaussian(mean=MEAN, std=STD):
    """Returns the denoiser E[x_0 | x_t] of data N(mean, std^2), each value on its own."""

    def denoise(x_t, level):
        alpha, sigma = process.expand(level.alpha, x_t), process.expand(level.sigma, x_t)
        variance = alpha**2 * std**2 + sigma**2
        eps = sigma * (x_t - alpha * mean) / variance
        x_0 = mean + alpha * std**2 * (x_t - alpha * mean) / variance
        return Prediction(x_0, eps)

    return denoise


def point(x_0):
    """Returns the denoiser of data that is one image."""

    def denoise(x_t, level):
        alpha, sigma = process.expand(level.alpha, x_t), process.expand(level.sigma, x_t)
        return Prediction(jnp.broadcast_to(x_0, x_t.shape), (x_t - alpha * x_0) / sigma)

    return denoise
