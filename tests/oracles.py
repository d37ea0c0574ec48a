"""Data whose exact denoiser is known: what a perfectly trained network would say."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.special

from diffusion_jax import process, samplers
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


def flow_end(mean=MEAN, std=STD):
    """Returns the denoiser whose x_0 is where the probability flow of the same data ends: a consistency model's."""

    def denoise(x_t, level):
        alpha, sigma = process.expand(level.alpha, x_t), process.expand(level.sigma, x_t)
        x_0 = mean + std * (x_t - alpha * mean) / jnp.hypot(alpha * std, sigma)
        return Prediction(x_0, (x_t - alpha * x_0) / sigma)

    return denoise


def mean_velocity(mean=MEAN, std=STD):
    """Returns the denoiser of the same data in rectified flow with c_noise = t, told two times: a mean flow's.

    Of a `jump` eps - x_0 is (x_t - x_s) / (t - s), where the flow takes x_t to x_s; of one level the velocity there.
    """

    def denoise(x_t, level):
        if jnp.ndim(level.c_noise) == jnp.ndim(level.alpha):
            return gaussian(mean, std)(x_t, level)
        t, s = (process.expand(level.c_noise[..., k], x_t) for k in (0, 1))
        growth = jnp.hypot((1 - s) * std, s) / jnp.hypot((1 - t) * std, t)
        x_s = (1 - s) * mean + growth * (x_t - (1 - t) * mean)
        u = (x_t - x_s) / (t - s)
        return Prediction(x_t - t * u, x_t + (1 - t) * u)

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


def smooth(height, width, channels=1, *, reach=2.0, std=STD):
    """Returns (mean [d], covariance [d, d]) of images whose values depend on each other the more, the nearer they are."""
    places = np.stack(np.meshgrid(*map(np.arange, (height, width, channels)), indexing="ij"), -1).reshape(-1, 3)
    distance = np.linalg.norm(places[:, None] - places, axis=-1)
    return np.linspace(-MEAN, MEAN, len(places)), std**2 * np.exp(-distance / reach)


def joint_gaussian(mean, covariance):
    """Returns the denoiser of data N(mean, covariance) over all values of an image: mean [d], covariance [d, d]."""
    variances, axes = np.linalg.eigh(covariance)

    def denoise(x_t, level):
        alpha, sigma = (process.expand(column, x_t).reshape(-1, 1) for column in (level.alpha, level.sigma))
        along = (x_t.reshape(len(x_t), -1) - alpha * mean) @ axes / (alpha**2 * variances + sigma**2)
        x_0, eps = mean + (alpha * variances * along) @ axes.T, (sigma * along) @ axes.T
        return Prediction(x_0.reshape(x_t.shape).astype(x_t.dtype), eps.reshape(x_t.shape).astype(x_t.dtype))

    return denoise


def matrix(linear, shape):
    """Returns the matrix of a linear function of one image of a shape."""
    return np.asarray(jax.jit(jax.jacfwd(lambda x: linear(x.reshape(1, *shape)).ravel()))(jnp.zeros(math.prod(shape))))


def conditional(mean, covariance, measure, y, noise_std=0.0):
    """Returns (mean, covariance) of x given y = A x + noise_std z, for x of N(mean, covariance) and a matrix A [m, d].

    noise_std: one for all, or [m].
    """
    noise = np.diag(np.broadcast_to(noise_std, len(measure)) ** 2)
    gain = covariance @ measure.T @ np.linalg.pinv(measure @ covariance @ measure.T + noise, rcond=1e-12)
    return mean + gain @ (np.ravel(y) - measure @ mean), covariance - gain @ measure @ covariance


def law(denoise, sampler, grid, shape):
    """Returns (mean [d], covariance [d, d]) of what a sampler draws, exactly, if all its steps are affine in x and noises.

    From x_T ~ N(0, sigma_T^2 I). For samplers whose state is x; a step's three noises are its first three draws.
    """
    size = math.prod(shape)

    def moved(inputs, interval):
        x, *noises = inputs.reshape(-1, 1, *shape)
        return sampler.step(denoise, x, interval, lambda k: noises[k])[0].ravel()

    def step(carry, interval):
        mean, covariance = carry
        inputs = jnp.concatenate([mean, jnp.zeros(3 * size)])
        slope = jax.jacfwd(moved)(inputs, interval)
        covariance = jax.scipy.linalg.block_diag(covariance, jnp.eye(3 * size))
        return (moved(inputs, interval), slope @ covariance @ slope.T), None

    index = jnp.arange(len(grid.alpha) - 1)
    intervals = samplers.Interval(process.rows(grid, index), process.rows(grid, index + 1), index, index[::-1])
    start = jnp.zeros(size), grid.sigma[0] ** 2 * jnp.eye(size)
    return jax.jit(lambda: jax.lax.scan(step, start, intervals)[0])()
