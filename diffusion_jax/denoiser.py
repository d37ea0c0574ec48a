"""Networks as denoisers: whatever a network predicts becomes the pair (x_0, eps)."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jax import Array

from diffusion_jax import process
from diffusion_jax.process import Level

Predicts = Literal["eps", "x_0", "v"]


class Prediction(NamedTuple):
    """What is believed about x_t = alpha x_0 + sigma eps.

    Attributes:
        x_0: the image, [B, H, W, C].
        eps: the noise, [B, H, W, C].
        variance: the network's raw output for the reverse variance, or None.
    """

    x_0: Array
    eps: Array
    variance: Array | None = None


Network = Callable[[Array, Array], Array]  # (x_t [B, H, W, C], condition [B]) -> output
Denoiser = Callable[[Array, Level], Prediction]  # (x_t [B, H, W, C], level [] or [B]) -> Prediction


def coefficients(predicts: Predicts, level: Level) -> tuple[Array, Array]:
    """Returns (a, b) of a parameterization: output = a x_0 + b eps.

    eps and x_0 as in [Ho et al. 2020, section 3.2]; v = alpha eps - sigma x_0 as in [Salimans & Ho 2022, section 4].

    Raises:
        ValueError: for an unknown name; the known ones are listed.
    """
    zero, one = jnp.zeros_like(level.alpha), jnp.ones_like(level.alpha)
    known = {"eps": (zero, one), "x_0": (one, zero), "v": (-level.sigma, level.alpha)}
    if predicts not in known:
        raise ValueError(f"predicts = {predicts!r} is unknown; known: {', '.join(known)}.")
    return known[predicts]


def make_denoiser(network: Network, *, predicts: Predicts) -> Denoiser:
    """Returns a network as a denoiser, by solving for x_0 and eps

        x_t    = alpha x_0 + sigma eps
        output = a     x_0 + b     eps

    Args:
        network: any function (x_t, condition) -> output; x_t [B, H, W, C], condition [B], output shaped like x_t.
        predicts: what the output is.
    """

    def denoise(x_t: Array, level: Level) -> Prediction:
        condition = jnp.broadcast_to(level.condition, x_t.shape[:1])
        output = network(x_t, condition).astype(x_t.dtype)
        a, b = coefficients(predicts, level)
        scale = 1 / (level.alpha * b - level.sigma * a)
        x_0 = process.expand(scale * b, x_t) * x_t - process.expand(scale * level.sigma, x_t) * output
        eps = process.expand(scale * level.alpha, x_t) * output - process.expand(scale * a, x_t) * x_t
        return Prediction(x_0, eps)

    return denoise


def clip_x_0(denoise: Denoiser) -> Denoiser:
    """Returns the denoiser with x_0 clipped to [-1, 1], the range of images, and eps following from it.

    The clipping of [Ho et al. 2020]'s sampler; apply it outermost.
    """

    def clipped(x_t: Array, level: Level) -> Prediction:
        prediction = denoise(x_t, level)
        x_0 = jnp.clip(prediction.x_0, -1, 1)
        eps = (x_t - process.expand(level.alpha, x_t) * x_0) / process.expand(level.sigma, x_t)
        return prediction._replace(x_0=x_0, eps=eps)

    return clipped
