"""Training losses: (denoise, x_0, level, key) -> a loss for each image, and named terms to watch."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax import denoiser, process
from diffusion_jax.denoiser import Denoiser, Predicts
from diffusion_jax.process import Level

Loss = Callable[[Denoiser, Array, Level, Array], tuple[Array, dict[str, Array]]]


def simple(*, predicts: Predicts) -> Loss:
    """Returns L_simple, the mean squared error of the network's output. [Ho et al. 2020, eq. 14, there for eps]

    || a x_0 + b eps - output ||^2 / D with the coefficients (a, b) of the parameterization.

    Args:
        predicts: what the network's output is; the error is measured there.
    """

    def loss(denoise: Denoiser, x_0: Array, level: Level, key: Array) -> tuple[Array, dict[str, Array]]:
        eps = jax.random.normal(key, x_0.shape, x_0.dtype)
        prediction = denoise(process.diffuse(x_0, level, eps), level)
        a, b = denoiser.coefficients(predicts, level)
        error = process.expand(a, x_0) * (prediction.x_0 - x_0) + process.expand(b, x_0) * (prediction.eps - eps)
        return jnp.mean(error**2, axis=(1, 2, 3)), {}

    return loss
