"""The diffusion process as noise levels: q(x_t | x_0), and the posterior q(x_s | x_t, x_0) of any two levels.

Nothing here counts time. A level is what the mathematics needs (alpha, sigma and their ratio) and the network's c_noise.
A process gives the level of any real-valued t; a discrete one is a process that also has rows, at whole t. A sampling grid
and a training draw are levels too.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax import errors

Times = Any  # float, np.ndarray or jax.Array, any shape


class Level(NamedTuple):
    """Noise levels, as columns of equal shape: x_t = alpha x_0 + sigma eps.

    At the data alpha is 1, sigma 0 and log_snr inf. The log-SNR is a pair, which in float32 keeps 48 bits: differences of
    neighbours decide the posterior, and one float32 column cannot resolve them. `make_level` makes the pair, `log_snr_gap`
    reads it; `log_snr` alone is the rounded value.
    """

    alpha: Array  # the signal's coefficient, in [0, 1]
    sigma: Array  # the noise's standard deviation
    log_snr: Array  # log(alpha^2 / sigma^2), rounded
    c_noise: Array  # what the network is given of the noise level; after `jump` two numbers, [..., 2]
    log_snr_lo: Array  # what the rounding left


class Process(NamedTuple):
    """A process as functions of real-valued t. The data are at t = 0; noise grows with t.

    The functions compute NumPy arrays and floats in float64 on the host, and jax arrays, traced ones too, in their own type.
    """

    level: Callable[[Times], Level]  # t -> `Level` of the same shape
    time: Callable[[Times], Times]  # log-SNR -> t
    first: float  # the least noisy t that samplers ask the network about, above 0
    last: float  # the noisiest t
    num_steps: int = 0  # T of a discrete process, whose rows 1 .. T are at whole t; 0 in real-valued time


class Gaussian(NamedTuple):
    """A diagonal Gaussian; the log-variance is -inf where it is a point."""

    mean: Array  # [B, ...]
    log_variance: Array  # [], [B] or as the mean


def make_level(alpha: Array, sigma: Array, log_snr: Array, c_noise: Array) -> Level:
    """Returns a `Level` of columns of any one shape, with the log-SNR as a pair.

    float64 columns of NumPy are cast to JAX's default precision, the one place where it is lost.
    """
    if isinstance(log_snr, jax.Array):
        return Level(alpha, sigma, log_snr, c_noise, jnp.zeros_like(log_snr))
    dtype = jax.dtypes.canonicalize_dtype(np.float64)
    high = np.asarray(log_snr, dtype)
    low = np.subtract(log_snr, high, out=np.zeros(np.shape(log_snr)), where=np.isfinite(log_snr))
    return Level(np.asarray(alpha, dtype), np.asarray(sigma, dtype), high, np.asarray(c_noise, dtype), low.astype(dtype))


def chain(
    betas: np.ndarray,
    *,
    c_noise: np.ndarray | None = None,
    interpolation: Literal["log_alpha", "log_snr"] = "log_alpha",
) -> Process:
    """Returns the discrete process with alpha_bar_t = prod_{i <= t} (1 - beta_i). [Ho et al. 2020, eq. 4]

    Between whole t the process is interpolated, c_noise too.

    Args:
        betas: beta_1 .. beta_T in (0, 1), the last may be 1; float64 [T].
        c_noise: of the rows 0 .. T, [T + 1]; t - 1 by default, which published models expect.
        interpolation: what is linear between rows: log alpha as in DPM-Solver's code, or log-SNR as in k-diffusion's. Below
            t = 1 it is log alpha, since the log-SNR of the data is infinite.

    Raises:
        ValueError: for a beta outside, or another number of c_noise; by `level`, for t outside [0, T] that is not traced.

    Example:
        >>> process = dj.chain(dj.linear(1000))
        >>> process.level(np.array([1000, 500, 1, 0])).c_noise  # of a grid of three steps
        array([999., 499.,   0.,  -1.], dtype=float32)
    """
    log_alpha, log_snr, c_noise = _rows_of_betas(betas, c_noise)
    if interpolation not in ("log_alpha", "log_snr"):
        raise ValueError(f"interpolation = {interpolation!r} is unknown; known: log_alpha, log_snr.")
    t_of_rows = np.arange(len(log_alpha))

    def level(t: Times) -> Level:
        t = t if isinstance(t, jax.Array) else np.asarray(t)
        table = make_level(np.exp(log_alpha), np.sqrt(-np.expm1(2 * log_alpha)), log_snr, c_noise)
        if jnp.issubdtype(t.dtype, jnp.integer):
            return rows(table, t)
        if _leaves(t, t_of_rows[-1]):
            raise ValueError(f"times {np.min(t):g} to {np.max(t):g} are not all in the chain's, 0 to {t_of_rows[-1]}.")
        xp = numpy_of(t)
        whole = xp.clip(xp.round(t), 0, t_of_rows[-1]).astype(int)
        exact, near = rows(table, whole), between(xp, t)
        return jax.tree.map(lambda row, column: xp.where(whole == t, row, column), exact, near)

    def between(xp: Any, t: Times) -> Level:
        with np.errstate(divide="ignore", invalid="ignore"):
            found = xp.interp(t, t_of_rows, log_alpha)
            if interpolation == "log_snr":
                found = xp.where(t < 1, found, -xp.logaddexp(0.0, -xp.interp(t, t_of_rows[1:], log_snr[1:])) / 2)
            sigma = xp.sqrt(-xp.expm1(2 * found))
            return make_level(xp.exp(found), sigma, 2 * (found - xp.log(sigma)), xp.interp(t, t_of_rows, c_noise))

    def time(wanted: Times) -> Times:
        xp = numpy_of(wanted)
        found = xp.interp(xp.logaddexp(0.0, -wanted) / 2, -log_alpha, t_of_rows)
        if interpolation == "log_snr":
            found = xp.where(wanted > log_snr[1], found, xp.interp(-wanted, -log_snr[1:], t_of_rows[1:]))
        return found

    return Process(level, time, first=1.0, last=float(t_of_rows[-1]), num_steps=len(log_alpha) - 1)


def _rows_of_betas(betas: np.ndarray, c_noise: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns log alpha, log-SNR and c_noise of the rows 0 .. T. # float64 [T + 1]"""
    try:
        betas = np.asarray(betas, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"betas = {errors.shown(betas)} are not allowed; use numbers [T], such as linear(1000).") from error
    if betas.ndim != 1 or not betas.size:
        raise ValueError(f"betas of {list(betas.shape)} are not allowed; they must be [T], T at least 1.")
    if c_noise is not None and np.shape(c_noise) != (len(betas) + 1,):
        raise ValueError(
            f"c_noise of {list(np.shape(c_noise))} is not allowed; it must be [{len(betas) + 1}], of the rows 0 to T."
        )
    if not (np.all(betas > 0) and np.all(betas[:-1] < 1) and betas[-1] <= 1):
        raise ValueError(f"betas must lie in (0, 1), the last may be 1; found {betas.min():g} to {betas.max():g}.")
    with np.errstate(divide="ignore"):  # beta_T = 1 leaves no signal: log alpha_bar = -inf
        log_alpha_bar = np.concatenate([[0.0], np.cumsum(np.log1p(-betas))])
        log_snr = log_alpha_bar - np.log(-np.expm1(log_alpha_bar))
    t = np.arange(-1.0, len(betas))
    return log_alpha_bar / 2, log_snr, t if c_noise is None else np.asarray(c_noise, np.float64)


def vp(*, beta_min: float = 0.1, beta_max: float = 20.0) -> Process:
    """Returns the variance-preserving SDE, t in (0, 1], c_noise = 999 t. [Song et al. 2021, score SDE, eq. 33]

    log alpha = -(beta_max - beta_min) t^2 / 4 - beta_min t / 2: the limit of many steps of Ho et al.'s linear schedule.
    Sampling goes down to t = 1e-3, as there.
    """
    return _of_linear_betas(
        beta_min,
        beta_max,
        sigma=lambda log_alpha: numpy_of(log_alpha).sqrt(-numpy_of(log_alpha).expm1(2 * log_alpha)),
        log_alpha=lambda log_snr: -numpy_of(log_snr).logaddexp(0.0, -log_snr) / 2,
    )


def sub_vp(*, beta_min: float = 0.1, beta_max: float = 20.0) -> Process:
    """Returns the sub-VP SDE: alpha, t and c_noise of `vp`, and sigma = 1 - alpha^2. [Song et al. 2021, score SDE, eq. 12]

    Its variance, sigma^2, is below that of `vp` at every t.
    """
    return _of_linear_betas(
        beta_min,
        beta_max,
        sigma=lambda log_alpha: -numpy_of(log_alpha).expm1(2 * log_alpha),
        log_alpha=lambda log_snr: -numpy_of(log_snr).arcsinh(numpy_of(log_snr).exp(-log_snr / 2) / 2),
    )


def _of_linear_betas(beta_min: float, beta_max: float, *, sigma: Callable, log_alpha: Callable) -> Process:
    """Returns a process with the alpha of `vp`, and sigma as a function of log alpha; log_alpha is one of the log-SNR."""
    slope = (beta_max - beta_min) / 2

    def log_alpha_at(t: Times) -> Times:
        return -(slope * t + beta_min) * t / 2

    def time(log_snr: Times) -> Times:
        found = log_alpha(log_snr)
        return -4 * found / (beta_min + numpy_of(log_snr).sqrt(beta_min**2 - 8 * slope * found))

    return _in_real_time(
        alpha=lambda t: numpy_of(t).exp(log_alpha_at(t)),
        sigma=lambda t: sigma(log_alpha_at(t)),
        c_noise=lambda t: 999 * t,
        time=time,
        first=1e-3,
        last=1.0,
    )


def ve(*, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Process:
    """Returns the variance-exploding process with t = sigma and c_noise = ln(sigma) / 4. [Karras et al. 2022, EDM]"""
    return _exploding(sigma_min, sigma_max, c_noise=lambda t: numpy_of(t).log(t) / 4)


def ve_sde(*, sigma_min: float = 0.02, sigma_max: float = 100.0) -> Process:
    """Returns the variance-exploding SDE with t = sigma and c_noise = ln(sigma / 2). [Song et al. 2021, score SDE]

    There images are in [0, 1], so that sigma is half of ours, from 0.01 to 50; its uniform time is the logarithm's.
    """
    return _exploding(sigma_min, sigma_max, c_noise=lambda t: numpy_of(t).log(t / 2))


def _exploding(sigma_min: float, sigma_max: float, *, c_noise: Callable) -> Process:
    if not 0 < sigma_min < sigma_max:
        raise errors.UserError(f"sigma_min = {sigma_min!r} must be above 0 and below sigma_max = {sigma_max!r}.")
    return _in_real_time(
        alpha=lambda t: 0 * t + 1,
        sigma=lambda t: t,
        c_noise=c_noise,
        time=lambda log_snr: numpy_of(log_snr).exp(-log_snr / 2),
        first=sigma_min,
        last=sigma_max,
    )


def rectified_flow(*, c_noise_scale: float = 1000.0) -> Process:
    """Returns the straight path x_t = (1 - t) x_0 + t eps, t in (0, 1]. [Liu et al. 2022, t reversed]

    Args:
        c_noise_scale: c_noise / t. Published networks expect 1000, so that the fastest sine of their embedding turns by 1000
            radians from data to noise. A loss that differentiates by t, `distillation.mean_flow`, needs a small one.
    """
    return _in_real_time(
        alpha=lambda t: 1 - t,
        sigma=lambda t: t,
        c_noise=lambda t: c_noise_scale * t,
        time=lambda log_snr: 1 / (1 + numpy_of(log_snr).exp(log_snr / 2)),
        first=1e-3,
        last=1.0,
    )


def _in_real_time(
    *, alpha: Callable, sigma: Callable, c_noise: Callable, time: Callable, first: float, last: float
) -> Process:
    def level(t: Times) -> Level:
        t = t if isinstance(t, jax.Array) else np.asarray(t, np.float64)
        if _leaves(t, last * (1 + 1e-6)):  # `time` rounds
            raise ValueError(f"times {np.min(t):g} to {np.max(t):g} are not in the process's, 0 to {last:g}.")
        with np.errstate(divide="ignore"):  # the data, and pure noise, are at infinity
            log_snr = 2 * (numpy_of(t).log(alpha(t)) - numpy_of(t).log(sigma(t)))
            return make_level(alpha(t), sigma(t), log_snr, c_noise(t))

    return Process(level, time, first, last)


def numpy_of(array: Times) -> Any:
    """Returns the module whose functions take this array: jax.numpy or numpy."""
    return jnp if isinstance(array, jax.Array) else np


def level_of_log_snr(process: Process, log_snr: Times) -> Level:
    """Returns the levels of a process that have these log-SNRs, of the same shape."""
    return process.level(process.time(log_snr))


def rows(levels: Level, index: Array) -> Level:
    """Returns rows of a column of levels; they take the shape of `index`.

    Raises:
        ValueError: for a row that there is not, where `index` is known; traced rows are the caller's care.
    """
    check_level(levels, "levels")
    if not np.ndim(levels.alpha):
        raise ValueError("a single level has no rows; process.level([t, ...]) has them.")
    last = len(levels.alpha) - 1
    if _leaves(index, last):
        raise ValueError(f"rows {np.min(index)} to {np.max(index)} are not all in levels 0 to {last}.")
    if not isinstance(index, jax.Array):
        return jax.tree.map(lambda column: column[np.asarray(index)], levels)
    return jax.tree.map(lambda column: jnp.asarray(column)[index], levels)


def _leaves(places: Times, last: float) -> bool:
    """Returns whether places are known and not all from 0 to `last`."""
    is_known = not isinstance(places, jax.core.Tracer) and np.size(places)
    if is_known and np.asarray(places).dtype.kind in "OSUb":
        raise ValueError(f"times or rows {errors.shown(places)} are not allowed; they must be numbers.")
    return bool(is_known and not (np.min(places) >= 0 and np.max(places) <= last))


def one_below(levels: Level, t: Level) -> Level:
    """Returns the levels t - 1, for levels `t` that are rows of all levels of a chain; level 0 has none below."""
    return rows(levels, jnp.searchsorted(-levels.log_snr, -t.log_snr) - 1)


def jump(t: Level, s: Level) -> Level:
    """Returns level t for a network that is told where it shall go too, to level s: c_noise is (of t, of s), [..., 2]."""
    return t._replace(c_noise=jnp.stack([t.c_noise, s.c_noise], axis=-1))


def expand(column: Array, x: Array) -> Array:
    """Returns a level's column ([] or [B]) with the axes that broadcast it against x. # [B, 1, ..., 1]

    Nearly all of the mathematics comes by here, so wrong arrays are refused here.

    Raises:
        ValueError: where x is not an array of floating-point numbers, or has not as many images as there are levels.
    """
    check_floating(x)
    sizes = zip(jnp.shape(column), x.shape, strict=False)
    if jnp.ndim(column) > x.ndim or any(levels not in (1, images) for levels, images in sizes):
        raise ValueError(f"levels of {list(jnp.shape(column))} do not fit an array of {list(x.shape)}: one for all, or [B].")
    return jnp.reshape(column, jnp.shape(column) + (1,) * (x.ndim - jnp.ndim(column)))


def check_floating(x: Array) -> None:
    """Raises ValueError for what is not an array of floating-point numbers, such as uint8 images or a list."""
    if not hasattr(x, "dtype") or not hasattr(x, "shape"):
        raise ValueError(f"{errors.shown(x)} is not allowed; it must be an array, [B, ...].")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"an array of {x.dtype} is not allowed; from_uint8 makes uint8 images x_0, in [-1, 1].")


def check_level(level: Level, name: str = "level") -> None:
    """Raises ValueError for what is not a `Level`."""
    if not hasattr(level, "log_snr"):
        raise ValueError(f"{name} = {errors.shown(level)} is not a Level; process.level(t) gives that of times t.")


def check_process(process: Process, *, in_real_time: bool = False) -> None:
    """Raises ValueError for what is not a `Process`, in real time if asked: the rows of a chain have no derivative by t."""
    if not hasattr(process, "num_steps"):
        raise ValueError(f"process = {errors.shown(process)} is not a Process; use one such as chain(betas) or vp().")
    if in_real_time and process.num_steps:
        raise ValueError("a chain, of rows at whole t, is not allowed; use a process in real-valued time, such as vp().")


def value_axes(x: Array) -> tuple[int, ...]:
    """Returns all axes but the batch's: for a sum or a mean over the values of each image."""
    return tuple(range(1, x.ndim))


def prior(level: Level, noise: Array) -> Array:
    """Returns x_T = sigma noise, where sampling starts: of the noisiest level, `process.level(process.last)`. # [B, ...]"""
    check_level(level)
    return expand(level.sigma, noise) * noise


def diffuse(x_0: Array, level: Level, eps: Array) -> Array:
    """Returns x_t = alpha x_0 + sigma eps, a draw from q(x_t | x_0). [Ho et al. 2020, eq. 4]

    Raises:
        ValueError: where x_0 is not of floats, where eps has another shape than x_0, or as for `expand`.
    """
    check_level(level)
    check_floating(x_0)
    if np.shape(eps) != np.shape(x_0):
        raise ValueError(f"eps of {list(np.shape(eps))} is not allowed; it must be as x_0, {list(np.shape(x_0))}.")
    return expand(level.alpha, x_0) * x_0 + expand(level.sigma, x_0) * eps


def renoise(x_s: Array, s: Level, t: Level, eps: Array) -> Array:
    """Returns a draw from q(x_t | x_s), for t noisier than s: a step up in noise. [Lugmayr et al. 2022, RePaint, eq. 1]

    x_t = alpha_t / alpha_s x_s + sigma_t sqrt(1 - SNR_t / SNR_s) eps.
    """
    std = t.sigma * jnp.sqrt(-jnp.expm1(log_snr_gap(t, s)))
    return expand(t.alpha / s.alpha, x_s) * x_s + expand(std, x_s) * eps


def log_snr_gap(t: Level, s: Level) -> Array:
    """Returns log SNR_t - log SNR_s, at most 0 where s is the less noisy level."""
    check_level(t, "t")
    check_level(s, "s")
    return (t.log_snr - s.log_snr) + (t.log_snr_lo - s.log_snr_lo)


def posterior(x_0: Array, x_t: Array, t: Level, s: Level) -> Gaussian:
    """Returns q(x_s | x_t, x_0) for any level s below t. [Ho et al. 2020, eqs. 6-7, there for neighbours]

    mean = alpha_t sigma_s^2 / (alpha_s sigma_t^2) x_t + alpha_s c x_0 with c = 1 - SNR_t / SNR_s; variance sigma_s^2 c.
    At s = 0 it is exactly x_0, and it stays finite where alpha_t = 0.
    """
    c = -jnp.expm1(log_snr_gap(t, s))
    keep = t.alpha * s.sigma**2 / (s.alpha * t.sigma**2)
    mean = expand(keep, x_t) * x_t + expand(s.alpha * c, x_0) * x_0
    return Gaussian(mean, log_variance(t, s, "small"))


def log_variance(t: Level, s: Level, kind: Literal["small", "large"]) -> Array:
    """Returns the log-variance of a reverse step: the two extremes of [Ho et al. 2020, section 3.2].

    'small' is sigma_s^2 c, the posterior's own (tilde beta_t; right for data that is one point); 'large' is sigma_t^2 c
    (beta_t; right for data that is N(0, I), where alpha^2 + sigma^2 = 1).
    """
    sigma = {"small": s.sigma, "large": t.sigma}[kind]
    return 2 * jnp.log(sigma) + jnp.log(-jnp.expm1(log_snr_gap(t, s)))


def std(log_variance: Array, s: Level) -> Array:
    """Returns the standard deviation of a step to s: as the log-variance says, and 0 where s is the data."""
    return jnp.where(s.sigma > 0, jnp.exp(log_variance / 2), 0)
