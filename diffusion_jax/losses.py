"""Training losses: (denoise, x_0, level, eps) -> a loss for each image, and named terms to watch."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax import errors, likelihood, process
from diffusion_jax.denoiser import Denoiser, LogProb, Prediction, VarianceKind, check_variance, predicting
from diffusion_jax.learned_schedule import Moment
from diffusion_jax.process import Level

# (denoiser, x_0, level, eps: standard normal, of x_0's shape) -> (loss of each image, terms). Instead of a denoiser
# `cross_entropy` takes a log-probability and `autoencoding.reconstruction` a `Coder`. Instead of a level `vdm` takes a
# `Moment`.
Loss = Callable[[Denoiser | LogProb, Array, Level, Array], tuple[Array, dict[str, Array]]]
Weighting = Callable[[Array], Array]  # SNR -> weight of the squared error of x_0


def simple(*, weighting: Weighting | None = None) -> Loss:
    """Returns L_simple, the mean squared error of the network's output. [Ho et al. 2020, eq. 14, there for eps]

    || a x_0 + b eps - output ||^2 / D with the coefficients (a, b) of the network's parameterization.

    Args:
        weighting: None for L_simple itself, or the weight that the error of x_0 shall have at each SNR.

    Example:
        >>> level = dj.chain(dj.linear(1000)).level(jnp.array([1, 500]))  # of two images, t from 1
        >>> denoise = dj.make_denoiser(lambda x_t, c_noise: 0 * x_t, dj.X_0)  # the error is then x_0 itself
        >>> eps = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
        >>> losses, _ = dj.simple()(denoise, jnp.ones((2, 8, 8, 1)), level, eps)
        >>> bool(jnp.allclose(losses, 1))
        True
    """

    if not (weighting is None or callable(weighting)):
        raise ValueError(
            f"weighting = {errors.shown(weighting)} is not a function SNR -> weight; use one such as losses.min_snr."
        )

    def loss(denoise: Denoiser, x_0: Array, level: Level, eps: Array) -> tuple[Array, dict[str, Array]]:
        prediction = predicting(denoise)(process.diffuse(x_0, level, eps), level)
        mse = squared_error(prediction, x_0, eps)
        return mse if weighting is None else mse * weighting(snr(level)) / x_0_weight(prediction, level), {}

    return loss


def vlb(*, levels: Level, variance: VarianceKind) -> Loss:
    """Returns L_vlb: T times the bound's term at the sampled level, an unbiased estimate of the bound without its prior.

    In bits per dimension. [Nichol & Dhariwal 2021, eq. 4; 'RESCALED_KL' of their code]

    Args:
        levels: all rows of a chain, `process.level(np.arange(T + 1))`, [T + 1].
    """
    process.check_level(levels, "levels")
    check_variance(variance)

    def loss(denoise: Denoiser, x_0: Array, level: Level, eps: Array) -> tuple[Array, dict[str, Array]]:
        x_t = process.diffuse(x_0, level, eps)
        return _vlb(predicting(denoise)(x_t, level), x_0, x_t, level, levels, variance), {}

    return loss


def hybrid(*, levels: Level, vlb_weight: float = 0.001) -> Loss:
    """Returns L_simple + 0.001 L_vlb, in which L_vlb moves the learned variance alone. [Nichol & Dhariwal 2021, eq. 16]

    Args:
        levels: as in `vlb`.
    """
    process.check_level(levels, "levels")

    def loss(denoise: Denoiser, x_0: Array, level: Level, eps: Array) -> tuple[Array, dict[str, Array]]:
        x_t = process.diffuse(x_0, level, eps)
        prediction = predicting(denoise)(x_t, level)
        mse = squared_error(prediction, x_0, eps)
        mean_held = prediction._replace(x_0=jax.lax.stop_gradient(prediction.x_0))
        bits = _vlb(mean_held, x_0, x_t, level, levels, "learned_range")
        return mse + vlb_weight * bits, {"mse": mse, "vlb": bits}

    return loss


def vdm() -> Loss:
    """Returns the bound of infinitely many steps, and the gradients that train a learned schedule with the network.

    In bits per dimension: slope |eps - eps_hat|^2 / 2, the decoder's term at t = 0 and the prior's at t = 1, of which
    `likelihood.continuous_bound` has the equations. The schedule's ends follow its gradient, the rest of the schedule that
    of the first term's square. [Kingma et al. 2021, VDM, eqs. 11, 17 and 20, appendix I.2]
    """

    def loss(denoise: Denoiser, x_0: Array, moment: Moment, eps: Array) -> tuple[Array, dict[str, Array]]:
        x_t = process.diffuse(x_0, moment.level, eps)
        error = predicting(denoise)(x_t, moment.level).eps - eps
        steps = moment.slope * jnp.mean(error**2, axis=process.value_axes(x_0)) / (2 * math.log(2))
        first, last = (jax.tree.map(lambda x: jnp.full_like(steps, x), end) for end in (moment.first, moment.last))
        decoder = likelihood.decoder_term(x_0, process.diffuse(x_0, first, eps), first)
        prior = likelihood.prior_term(x_0, last)
        square = jax.lax.stop_gradient(steps) ** 2 * moment.log_slope
        of_schedule = square - jax.lax.stop_gradient(square)  # a gradient alone
        terms = {"steps": steps, "decoder": decoder, "prior": prior}
        terms |= {"log_snr_first": first.log_snr, "log_snr_last": last.log_snr}
        return steps + decoder + prior + of_schedule, terms

    return loss


def cross_entropy() -> Loss:
    """Returns -log p(label | x_t), in nats, of a classifier of noisy images. [Dhariwal & Nichol 2021, section 4]

    Its first argument is not a denoiser but a `LogProb`, bound to the labels. A classifier that knows nothing pays log K.

    Example:
        >>> level, x_0 = dj.chain(dj.linear(1000)).level(jnp.array([1, 500])), jnp.ones((2, 8, 8, 1))
        >>> nats, _ = dj.losses.cross_entropy()(lambda x_t, level: jnp.log(jnp.full(2, 0.1)), x_0, level, 0 * x_0)
        >>> bool(jnp.allclose(nats, jnp.log(10)))
        True
    """

    def loss(log_prob: LogProb, x_0: Array, level: Level, eps: Array) -> tuple[Array, dict[str, Array]]:
        return -log_prob(process.diffuse(x_0, level, eps), level), {}

    return loss


def _vlb(prediction: Prediction, x_0: Array, x_t: Array, level: Level, levels: Level, variance: VarianceKind) -> Array:
    num_steps = len(levels.alpha) - 1
    decoder = likelihood.decoder_log_variance(process.rows(levels, min(2, num_steps)), process.rows(levels, 1))
    below = process.one_below(levels, level)
    return num_steps * likelihood.bound_term(prediction, x_0, x_t, level, below, variance=variance, decoder=decoder)


def squared_error(prediction: Prediction, x_0: Array, eps: Array) -> Array:
    """Returns the mean squared error of the network's output that a prediction was made from. # [B]

    Raises:
        ValueError: for a prediction that no network made.
    """
    if prediction.coefficients is None:
        raise ValueError("this loss needs the predictions of a network; use denoiser.make_denoiser.")
    a, b = (process.expand(coefficient, x_0) for coefficient in prediction.coefficients)
    return jnp.mean((a * (prediction.x_0 - x_0) + b * (prediction.eps - eps)) ** 2, axis=process.value_axes(x_0))


def snr(level: Level) -> Array:
    """Returns alpha^2 / sigma^2. # [B]"""
    return jnp.exp(level.log_snr)


def x_0_weight(prediction: Prediction, level: Level) -> Array:
    """Returns the weight of the x_0 error in the output error, which share one x_t: (a - b alpha / sigma)^2. # [B]"""
    a, b = prediction.coefficients
    return (a - b * level.alpha / level.sigma) ** 2


def min_snr(snr: Array, *, gamma: float = 5.0) -> Array:
    """Returns min(SNR, gamma): eps, but with less weight where there is little noise. [Hang et al. 2023, section 3.4]"""
    return jnp.minimum(snr, gamma)


def p2(snr: Array, *, gamma: float = 1.0, k: float = 1.0) -> Array:
    """Returns SNR / (k + SNR)^gamma: eps with less weight on imperceptible noise. [Choi et al. 2022, eq. 8]"""
    return snr / (k + snr) ** gamma


def truncated_snr(snr: Array) -> Array:
    """Returns max(SNR, 1): eps, but never less than x_0. [Salimans & Ho 2022, section 4]"""
    return jnp.maximum(snr, 1.0)
