"""Likelihoods in bits per dimension: variational bounds, and the probability flow's. They are different numbers.

`bound` is the sum of one term for each step of a chain, the decoder's last, and of the prior's. [Ho et al. 2020, eq. 5]
`continuous_bound` is its limit of infinitely many steps. [Kingma et al. 2021, VDM, eq. 17]
`log_density` is of the density that the probability flow carries from the prior to the data. [Song et al. 2021, score SDE,
section 4.3] Never compare one with the other.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import log_ndtr
from jax.typing import DTypeLike

from diffusion_jax import denoiser, errors, ode, process, samplers
from diffusion_jax.denoiser import Denoiser, Prediction, VarianceKind
from diffusion_jax.process import Gaussian, Level, Process

UINT8_BIN = 1 / 127.5  # width of the bin of a uint8 value in [-1, 1]
HALF_BIN = UINT8_BIN / 2
EDGE = 0.999  # beyond it lie the first and the last value alone, whose bins reach to infinity


class Bound(NamedTuple):
    """A bound on -log2 p(x_0) / D of each image, and what it is made of."""

    total: Array  # bits per dimension, [B]
    terms: Array  # of each step, in the order of the grid, the decoder's last, [S, B]
    prior: Array  # KL(q(x_T | x_0) || N(0, I)), [B]
    mse_x_0: Array  # mean squared error of the predicted x_0 at each step, [S, B]
    mse_eps: Array  # the same of eps, [S, B]


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
        x_0: images, uint8 values in [-1, 1], [B, ...].
        grid: `Level` of [S + 1], from T down to the data.
        noise: number of the step -> standard normal draws, [B, ...].

    Raises:
        ValueError: for a grid that ends before the data, where the decoder's term would be missing; for other arguments that
            are not of these forms.

    Example:
        >>> process, x_0 = dj.chain(dj.linear(1000)), -jnp.ones((4, 8, 8, 1))
        >>> grid, key = process.level(dj.trailing(process, 10)), jax.random.key(0)
        >>> denoise = dj.make_denoiser(lambda x_t, c_noise: 0 * x_t - 1, dj.X_0)  # right: all is black
        >>> noise = lambda step: jax.random.normal(jax.random.fold_in(key, step), x_0.shape)
        >>> found = dj.likelihood.bound(denoise, x_0, grid, noise, variance="small")
        >>> bool(jnp.all(found.total < 1))  # bits per dimension, nearly all of them of the last step
        True
    """
    _check_asked(grid, noise)
    decoder, num_steps = _decoder_of(grid), len(grid.alpha) - 1

    def step(_, index: Array) -> tuple[None, tuple[Array, Array, Array]]:
        t, s, eps = process.rows(grid, index), process.rows(grid, index + 1), noise(index)
        x_t = process.diffuse(x_0, t, eps)
        prediction = denoise(x_t, t)
        term = bound_term(prediction, x_0, x_t, t, s, variance=variance, decoder=decoder)
        return None, (term, _mean((prediction.x_0 - x_0) ** 2), _mean((prediction.eps - eps) ** 2))

    _, (terms, mse_x_0, mse_eps) = jax.lax.scan(step, None, jnp.arange(num_steps))
    prior = prior_term(x_0, process.rows(grid, 0))
    return Bound(jnp.sum(terms, axis=0) + prior, terms, prior, mse_x_0, mse_eps)


def _check_asked(grid: Level, noise: Any) -> None:
    samplers.check_grid(grid)
    if not callable(noise):
        raise ValueError(f"noise = {errors.shown(noise)} is not a function: number of the step -> draws, [B, ...].")
    if not isinstance(grid.sigma, jax.core.Tracer) and np.asarray(grid.sigma)[-1] != 0:
        raise ValueError("the grid is not allowed; it must end at level 0, the data.")


def continuous_bound(
    denoise: Denoiser,
    x_0: Array,
    grid: Level,
    of: Process,
    noise: Callable[[Array], tuple[Array, Array]],
) -> Bound:
    """Returns the variational bound in the limit of infinitely many steps, estimated without bias.

    Each interval of the grid, from log-SNR l_t up to l_s, costs the mean over l of (l_s - l_t) |eps - eps_hat(x_l)|^2 / 2
    nats, of which one l is drawn in each: draws of low discrepancy. So the expected value depends on the ends of the
    grid alone, and its variance on the levels between. [Kingma et al. 2021, VDM, eqs. 15 to 18]

    The last interval is the decoder's, p(x_0 | x) of x at the least noisy level: `decoder_term`, which asks no network. The
    prior is N(0, alpha^2 + sigma^2).

    Args:
        denoise: the denoiser, not limited: as it was trained.
        x_0: images, uint8 values in [-1, 1], [B, ...].
        grid: `Level` of [S + 1], from the noisiest, which has signal, down to the data; the one above the data should
            resolve the 256 values, which takes a log-SNR of 12 or more.
        of: the process, which has the levels between.
        noise: number of the step -> (where l is in the interval, uniform in [0, 1), [B]; standard normal draws, [B, ...]).

    Raises:
        ValueError: as for `bound`; for a first level without signal.

    Example:
        >>> process, x_0 = dj.chain(dj.linear(1000)), -jnp.ones((4, 8, 8, 1))
        >>> grid, keys = process.level(dj.grids.linspace(process, 10)), jax.random.split(jax.random.key(0), 10)
        >>> noise = lambda step: (jax.random.uniform(keys[step], 4), jax.random.normal(keys[step], x_0.shape))
        >>> denoise = dj.make_denoiser(lambda x_t, c_noise: 0 * x_t - 1, dj.X_0)  # right: all is black
        >>> found = dj.likelihood.continuous_bound(denoise, x_0, grid, process, noise)
        >>> bool(jnp.all(found.terms[:-1] < 1e-6))  # nothing is left to say on the way
        True
    """
    _check_asked(grid, noise)
    process.check_process(of)
    if not isinstance(grid.alpha, jax.core.Tracer) and np.asarray(grid.alpha)[0] == 0:
        raise ValueError("the grid is not allowed; its first level must have signal, alpha above 0.")

    def step(_, index: Array) -> tuple[None, tuple[Array, Array, Array]]:
        t, s = process.rows(grid, index), process.rows(grid, index + 1)
        is_last, (share, eps) = s.sigma == 0, noise(index)
        gap = jnp.where(is_last, 0, -process.log_snr_gap(t, s))
        level = process.level_of_log_snr(of, t.log_snr + share * gap)
        x_t = process.diffuse(x_0, level, eps)
        prediction = denoise(x_t, level)
        mse_x_0, mse_eps = _mean((prediction.x_0 - x_0) ** 2), _mean((prediction.eps - eps) ** 2)
        term = jnp.where(is_last, decoder_term(x_0, x_t, level), gap * mse_eps / (2 * math.log(2)))
        return None, (term, mse_x_0, mse_eps)

    _, (terms, mse_x_0, mse_eps) = jax.lax.scan(step, None, jnp.arange(len(grid.alpha) - 1))
    last = process.rows(grid, 0)
    size = jnp.hypot(last.alpha, last.sigma)  # 1 where the process preserves variance
    prior = prior_term(x_0, last._replace(alpha=last.alpha / size, sigma=last.sigma / size))
    return Bound(jnp.sum(terms, axis=0) + prior, terms, prior, mse_x_0, mse_eps)


def decoder_term(x_0: Array, x: Array, level: Level) -> Array:
    """Returns -log p(x_0 | x) of the decoder without a network, in bits per dimension. # [B]

    p is q(x | value) over its sum for all 256 values: right where each is as likely. [Kingma et al. 2021, VDM, section 3.3]

    Args:
        x_0: uint8 values in [-1, 1], [B, ...].
        x: a sample of q(x | x_0) at the level, [B, ...].
        level: [B].
    """

    def log_q(values: Array, x: Array) -> Array:
        return -jnp.exp(process.expand(level.log_snr, x)) * (x / process.expand(level.alpha, x) - values) ** 2 / 2

    log_sum = jax.nn.logsumexp(log_q(jnp.arange(256) / 127.5 - 1, x[..., None]), axis=-1)
    return _mean(log_sum - log_q(x_0, x)) / math.log(2)


def bound_term(
    prediction: Prediction,
    x_0: Array,
    x_t: Array,
    t: Level,
    s: Level,
    *,
    variance: VarianceKind,
    decoder: Array,
) -> Array:
    """Returns KL(q(x_s | x_t, x_0) || p(x_s | x_t)), or -log p(x_0 | x_t) where s is the data, in bits per dimension. # [B]

    Args:
        prediction: the denoiser's, at x_t.
        x_0: images in [-1, 1], [B, ...].
        x_t: a sample of q(x_t | x_0), [B, ...].
        t, s: where the step begins and ends, [] or [B].
        decoder: `decoder_log_variance` of the chain.
    """
    is_last = s.sigma == 0
    truth = _reverse_law(prediction._replace(x_0=x_0), x_t, t, s, "small", decoder)  # the posterior, at the data not -inf
    model = _reverse_law(prediction, x_t, t, s, variance, decoder)
    log_decoder = log_discretized_gaussian(x_0, model)
    return _mean(jnp.where(process.expand(is_last, x_0), -log_decoder, gaussian_kl(truth, model))) / math.log(2)


def reverse_law(denoise: Denoiser, x_t: Array, grid: Level, index: Array, *, variance: VarianceKind) -> Gaussian:
    """Returns p(x_s | x_t) of a step of a chain; where s is the data, the Gaussian whose discrete form the decoder is.

    Args:
        denoise: as for `bound`.
        x_t: [B, ...].
        grid: `Level` of [S + 1], from T down to the data.
        index: number of the step, from 0 at T.
    """
    t, s = process.rows(grid, index), process.rows(grid, index + 1)
    return _reverse_law(denoise(x_t, t), x_t, t, s, variance, _decoder_of(grid))


def _reverse_law(prediction: Prediction, x_t: Array, t: Level, s: Level, variance: VarianceKind, decoder: Array) -> Gaussian:
    log_variance = denoiser.reverse_log_variance(prediction.variance, x_t, t, s, variance, decoder=decoder)
    return Gaussian(process.posterior(prediction.x_0, x_t, t, s).mean, log_variance)


def _decoder_of(grid: Level) -> Array:
    num_steps = len(grid.alpha) - 1
    return decoder_log_variance(process.rows(grid, max(num_steps - 2, 0)), process.rows(grid, num_steps - 1))


def decoder_log_variance(above: Level, first: Level) -> Array:
    """Returns the log-variance of p(x_0 | x_1) for fixed variances: the posterior's one step above, as in Ho et al.

    Args:
        above: level 2 of the chain; level 1 again, where that is the only one. []
        first: level 1. []
    """
    is_alone = above.log_snr == first.log_snr
    return jnp.where(is_alone, 2 * jnp.log(first.sigma), process.log_variance(above, first, "small"))


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
    """
    inverse_std = jnp.exp(-law.log_variance / 2)
    upper, lower = (inverse_std * (x_0 - law.mean + half) for half in (HALF_BIN, -HALF_BIN))
    right = x_0 > law.mean  # measure from the right tail: P(lower < z < upper) = P(-upper < z < -lower)
    high, low = jnp.where(right, -lower, upper), jnp.where(right, -upper, lower)
    log_high = log_ndtr(high)
    inside = log_high + jax.nn.log1mexp(jnp.maximum(log_high - log_ndtr(low), 1e-30))  # no -inf where both round alike
    return jnp.where(x_0 < -EDGE, log_ndtr(upper), jnp.where(x_0 > EDGE, log_ndtr(-lower), inside))


def _mean(x: Array) -> Array:
    """Returns the mean over all but the batch. # [B]"""
    return jnp.mean(x, axis=process.value_axes(x))


class Density(NamedTuple):
    """The density of images under a probability flow."""

    log_density: Array  # log p(x) in nats, [B]
    x_T: Array  # where the flow takes the images, [B, ...]  # noqa: N815
    num_evaluations: Array  # calls of the denoiser, int32 [B]
    reached_end: Array  # whether the integrator's steps were enough, bool [B]


def log_density(
    denoise: Denoiser, x: Array, of: Process, *, probes: Array, tolerance: float = 1e-5, num_values: int | Array = 0
) -> Density:
    """Returns log p(x) for the density that the probability flow carries from the prior to the data.

    The flow is that of `samplers.adaptive`: dy = (eps - x_0) du for y = x / r, r = alpha + sigma. The log-density of x = r y
    changes by minus the trace of the Jacobian of eps - x_0 by y, and by that of the scaling by r. Probes estimate it:
    E[v^T (...) v] for v of unit covariance, of the sum, since its parts all but cancel. Forward-mode derivatives alone go
    through it. [Song et al. 2021, score SDE, eqs. 39 and 40]

    Args:
        denoise: the denoiser. It must not limit x_0: the flow must be smooth.
        x: images, continuous in [-1, 1], as they are at the first time of the process, [B, ...].
        of: the process; at its last time the density is that of `process.prior`. A chain must leave signal there.
        probes: v, the same all the way, [K, B, ...]; Rademacher's signs are exact where the Jacobian is diagonal. Where x
            and the denoiser's x_0 lie in a subspace, projections onto it give the density there.
        num_values: dimensions of that subspace, [B]; 0 for those of x.
        tolerance: of the error in a step of the integration, relative and absolute.
    """
    process.check_process(of)
    process.check_floating(x)
    if probes.shape[1:] != x.shape:
        raise ValueError(f"probes of {list(probes.shape)} are not allowed; they must be [K, *{list(x.shape)}].")
    first, last = (of.level(np.float64(time)) for time in (of.first, of.last))
    slope = samplers.flow_slope(denoise, of)

    def slope_and_trace(u: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        dy, jacobian = jax.linearize(lambda y: slope(u, y), state[0])
        traces = jax.vmap(lambda v: jnp.sum(v * jacobian(v), axis=process.value_axes(v)))(probes)
        return dy, jnp.mean(traces, axis=0)

    start = x / (first.alpha + first.sigma), jnp.zeros(len(x), x.dtype)
    u_first, u_last = (level.sigma / (level.alpha + level.sigma) for level in (first, last))
    found = ode.integrate(slope_and_trace, start, u_first, u_last, rtol=tolerance, atol=tolerance)
    y_T, carried = found.y
    squares = jnp.mean(jnp.sum(probes**2, axis=tuple(range(2, probes.ndim))), axis=0)  # D, but for the probes' spread
    carried = carried + squares * np.log((last.alpha + last.sigma) / (first.alpha + first.sigma))
    x_T = (last.alpha + last.sigma) * y_T
    num_values = jnp.where(num_values, num_values, x[0].size)
    log_prior = -(x[0].size * _mean((x_T / last.sigma) ** 2) + num_values * math.log(2 * math.pi * last.sigma**2)) / 2
    return Density(log_prior + carried, x_T, found.num_evaluations, found.reached_end)


def basis_probes(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Returns the unit vectors times sqrt(D): their mean is the trace itself. Of small arrays. # [D, *shape]"""
    size = math.prod(shape)
    return math.sqrt(size) * jnp.eye(size, dtype=dtype).reshape(size, *shape)


def dequantise(x_0: Array, uniform: Array, width: float = UINT8_BIN) -> Array:
    """Returns values spread over their bins. # [B, ...]

    Args:
        x_0: of uint8 images as k / 127.5 - 1.
        uniform: draws in [0, 1), of the same shape.
        width: of a bin.
    """
    return x_0 + (uniform - 0.5) * width


def bits_per_dim(log_density: Array, num_values: int | Array, width: float = UINT8_BIN) -> Array:
    """Returns the bits per dimension of whole numbers from the log-density of their dequantised values. # [B]

    -log2 p / D - log2(width). On average over the dequantisation it is an upper bound of the bits of whole numbers.
    [Theis et al. 2016, section 3.1] With width 1 it is the differential entropy of values that are real numbers.

    Args:
        log_density: in nats, [B].
        num_values: D, for all or of each, [B].
        width: of a bin, in the unit of x_0.
    """
    return -log_density / (num_values * math.log(2)) - math.log2(width)
