"""What an autoencoder learns: small latents that are nearly standard normal, and images from them. [Rombach et al. 2022]"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from diffusion_jax import likelihood, operators, process
from diffusion_jax.losses import Loss
from diffusion_jax.process import Gaussian, Level

Features = Callable[[Array], Sequence[Array]]  # images [B, H, W, C] in [-1, 1] -> maps of features, [B, h, w, k] each


class Coder(NamedTuple):
    """An autoencoder with its weights."""

    encode: Callable[[Array], Gaussian]  # images [B, H, W, C] in [-1, 1] -> the law of their latents [B, h, w, c]
    decode: Callable[[Array], Array]  # latents -> images


def reconstruction(
    *,
    kl_weight: float = 1e-6,
    perceptual_weight: float = 0.0,
    equivariance_weight: float = 0.0,
    features: Features | None = None,
) -> Loss:
    """Returns what images lose on the way through their latents: | x - x' | + w d(x, x') + w_KL KL(q(z | x) || N(0, 1)) / D.

    The first term is the mean over the D values of an image, d is `perceptual_distance`. z is drawn from q with the first of
    eps's values. A latent without variance is a point, whose term of the KL is that of the mean alone, z^2 / 2.
    [Rombach et al. 2022, section 3.1 and appendix G; without their adversarial term]

    Its first argument is not a denoiser but a `Coder`. Images must have at least as many values as their latents.

    Args:
        kl_weight: w_KL, small: latents shall say what the image is. [Rombach et al. 2022: 1e-6]
        perceptual_weight: w.
        equivariance_weight: of the `equivariance_error`, which is added. Two of eps's values draw its turns.
        features: in which d compares images; without it w must be 0.

    Example:
        >>> average = lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4
        >>> double = lambda z: z.repeat(2, 1).repeat(2, 2)
        >>> point = lambda z: dj.process.Gaussian(z, jnp.full_like(z, -jnp.inf))
        >>> coder = dj.autoencoding.Coder(lambda x: point(average(x)), double)
        >>> x_0, level = jnp.ones((2, 8, 8, 1)), dj.process.vp().level(jnp.zeros(2))
        >>> losses, _ = dj.autoencoding.reconstruction(kl_weight=0)(coder, x_0, level, jnp.zeros_like(x_0))
        >>> losses.tolist()
        [0.0, 0.0]
    """

    def loss(coder: Coder, x_0: Array, level: Level, eps: Array) -> tuple[Array, dict[str, Array]]:
        law = coder.encode(x_0)
        noise = eps.reshape(len(eps), -1)[:, : law.mean[0].size].reshape(law.mean.shape)
        latents = law.mean + jnp.exp(law.log_variance / 2) * noise
        found = coder.decode(latents)
        axes = process.value_axes(x_0)
        error = found - x_0
        terms = {"l1": jnp.mean(jnp.abs(error), axis=axes), "psnr": psnr(jnp.mean(error**2, axis=axes))}
        terms["kl"] = jnp.sum(_kl_to_standard(law), axis=axes) / x_0[0].size
        total = terms["l1"] + kl_weight * terms["kl"]
        if perceptual_weight:
            terms["perceptual"] = perceptual_distance(features, found, x_0)
            total += perceptual_weight * terms["perceptual"]
        if equivariance_weight:
            signs = eps.reshape(len(eps), -1)[:, -2:] > 0
            terms["equivariance"] = equivariance_error(coder.decode, latents, x_0, signs @ jnp.array([1, 2]))
            total += equivariance_weight * terms["equivariance"]
        return total, terms

    return loss


def equivariance_error(decode: Callable[[Array], Array], z: Array, x: Array, turns: Array) -> Array:
    """Returns how far an image is from its latents, when both are made small and turned: mean of | tau x - decode(tau z) |.

    tau averages squares of 2 x 2, and turns image i by turns[i] quarters of a circle. Latents that follow it shall be easier
    to draw. [Kouzelis et al. 2025, EQ-VAE; there it takes the place of the plain error, and tau scales by random factors]

    Args:
        decode: latents [B, h, w, c] of any size -> images.
        z: latents of x, whose height and width are even.
        x: images [B, H, W, C]; where H and W differ, a turn of 1 is none, and 3 is 2.
        turns: int [B], of 0 to 3.
    """
    small_z, small_x = (_turned(operators.averaging(2).apply(of), turns) for of in (z, x))
    return jnp.mean(jnp.abs(decode(small_z) - small_x), axis=process.value_axes(x))


def _turned(x: Array, turns: Array) -> Array:
    step = 1 if x.shape[1] == x.shape[2] else 2
    turned = jnp.stack([jnp.rot90(x, k, axes=(1, 2)) for k in range(0, 4, step)])
    return turned[turns // step, jnp.arange(len(x))]


def perceptual_distance(features: Features, x: Array, y: Array) -> Array:
    """Returns how far images are apart in a network's features: sum over maps of the mean over space of | u - v |^2. # [B]

    u and v are the features at a place, scaled to length 1. [Zhang et al. 2018, LPIPS, eq. 1, with all weights 1]
    """
    return sum(
        jnp.mean(jnp.sum((_unit(u) - _unit(v)) ** 2, axis=-1), axis=(1, 2))
        for u, v in zip(features(x), features(y), strict=True)
    )


def psnr(mse: Array) -> Array:
    """Returns the peak signal-to-noise ratio of images in [-1, 1], 10 log10(4 / mse), in dB."""
    return 10 * jnp.log10(4 / mse)


def _unit(features: Array) -> Array:
    return features / jnp.sqrt(jnp.sum(features**2, axis=-1, keepdims=True) + 1e-10)


def _kl_to_standard(law: Gaussian) -> Array:
    """Returns KL(law || N(0, 1)) of each value, in nats; of a point, where it is infinite, the part of its mean."""
    log_variance = jnp.where(jnp.isneginf(law.log_variance), 0, law.log_variance)
    return likelihood.gaussian_kl(Gaussian(law.mean, log_variance), Gaussian(jnp.zeros(()), jnp.zeros(())))
