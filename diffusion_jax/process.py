"""The diffusion process as noise levels: q(x_t | x_0), and the posterior q(x_s | x_t, x_0) of any two levels.

Nothing here counts time. A level is what the mathematics needs (alpha, sigma and their ratio) and what the network is told;
a discrete process is a table of levels, and so are a sampling grid and a training draw.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


class Level(NamedTuple):
    """Noise levels, as columns of equal shape: x_t = alpha x_0 + sigma eps.

    Level 0 of a table is the data: alpha 1, sigma 0, log_snr inf. The log-SNR is a pair, which in float32 keeps 48 bits,
    because the posterior is decided by differences of neighbours, which one float32 column cannot resolve.

    Attributes:
        alpha: the signal's coefficient, in [0, 1].
        sigma: the noise's standard deviation.
        log_snr: log(alpha^2 / sigma^2), rounded.
        log_snr_lo: what the rounding left.
        condition: what the network is told.
    """

    alpha: Array
    sigma: Array
    log_snr: Array
    log_snr_lo: Array
    condition: Array


class Gaussian(NamedTuple):
    """A diagonal Gaussian; the log-variance is -inf where it is a point."""

    mean: Array  # [B, H, W, C]
    log_variance: Array  # [] or [B]


def from_betas(betas: np.ndarray, *, condition: np.ndarray | None = None) -> Level:
    """Returns the levels 0 .. T of the chain with alpha_bar_t = prod_{i <= t} (1 - beta_i). [Ho et al. 2020, eq. 4]

    Args:
        betas: beta_1 .. beta_T in (0, 1), the last may be 1; float64 [T].
        condition: what the network is told at levels 0 .. T, [T + 1]; t - 1 by default, which published models expect.

    Returns:
        `Level` of [T + 1]; level t is index t.

    Raises:
        ValueError: for a beta outside, or another number of conditions.
    """
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or not betas.size:
        raise ValueError(f"betas of {list(betas.shape)} are not allowed; they must be [T], T at least 1.")
    if condition is not None and np.shape(condition) != (len(betas) + 1,):
        raise ValueError(
            f"condition of {list(np.shape(condition))} is not allowed; it must be [{len(betas) + 1}], levels 0 to T."
        )
    if not (np.all(betas > 0) and np.all(betas[:-1] < 1) and betas[-1] <= 1):
        raise ValueError(f"betas must lie in (0, 1), the last may be 1; found {betas.min():g} to {betas.max():g}.")
    with np.errstate(divide="ignore"):  # beta_T = 1 leaves no signal: log alpha_bar = -inf
        log_alpha_bar = np.concatenate([[0.0], np.cumsum(np.log1p(-betas))])
        variance = -np.expm1(log_alpha_bar)
        log_snr = log_alpha_bar - np.log(variance)
    condition = np.arange(-1, len(betas)) if condition is None else np.asarray(condition)
    return cast(np.exp(log_alpha_bar / 2), np.sqrt(variance), log_snr, condition)


def cast(alpha: np.ndarray, sigma: np.ndarray, log_snr: np.ndarray, condition: np.ndarray) -> Level:
    """Returns float64 columns as a `Level` in JAX's default precision: the one place where precision is lost.

    Args:
        alpha: the signal's coefficient, any shape; so are the others.
        sigma: the noise's standard deviation.
        log_snr: log(alpha^2 / sigma^2).
        condition: what the network is told.
    """
    dtype = jax.dtypes.canonicalize_dtype(np.float64)
    high = log_snr.astype(dtype)
    low = np.subtract(log_snr, high, out=np.zeros_like(log_snr), where=np.isfinite(log_snr))
    return Level(alpha.astype(dtype), sigma.astype(dtype), high, low.astype(dtype), np.asarray(condition, dtype))


def at(levels: Level, t: Array) -> Level:
    """Returns rows `t` of a table of levels; the columns take the shape of `t`.

    Raises:
        ValueError: for a row that the table lacks, where `t` is known; traced rows are the caller's care.
    """
    num_rows = len(levels.alpha)
    if not isinstance(t, jax.core.Tracer) and np.size(t) and not (np.min(t) >= 0 and np.max(t) < num_rows):
        raise ValueError(f"rows {np.min(t)} to {np.max(t)} are not all in a table of levels 0 to {num_rows - 1}.")
    t = t if isinstance(t, jax.Array) else np.asarray(t)
    return jax.tree.map(lambda column: jnp.asarray(column)[t], levels)


def below(levels: Level, t: Level) -> Level:
    """Returns the levels t - 1, for levels `t` that are rows of a table; level 0 has none below."""
    return at(levels, jnp.searchsorted(-levels.log_snr, -t.log_snr) - 1)


def between(levels: Level, log_snr: Array) -> Level:
    """Returns levels of any log-SNR of a variance-preserving process; the condition is interpolated in its table.

    Args:
        levels: the table, [T + 1], falling in log-SNR.
        log_snr: log(alpha^2 / sigma^2), any shape.
    """
    rising, conditions = jnp.asarray(levels.log_snr)[:0:-1], jnp.asarray(levels.condition)[:0:-1]  # level 0 is at infinity
    alpha, sigma = jnp.sqrt(jax.nn.sigmoid(log_snr)), jnp.sqrt(jax.nn.sigmoid(-log_snr))
    return Level(alpha, sigma, log_snr, jnp.zeros_like(log_snr), jnp.interp(log_snr, rising, conditions))


def expand(column: Array, x: Array) -> Array:
    """Returns a level's column ([] or [B]) with the axes that broadcast it against x. # [B, 1, 1, 1]"""
    return jnp.reshape(column, jnp.shape(column) + (1,) * (x.ndim - jnp.ndim(column)))


def diffuse(x_0: Array, level: Level, eps: Array) -> Array:
    """Returns x_t = alpha x_0 + sigma eps, a draw from q(x_t | x_0). [Ho et al. 2020, eq. 4]"""
    return expand(level.alpha, x_0) * x_0 + expand(level.sigma, x_0) * eps


def log_snr_gap(t: Level, s: Level) -> Array:
    """Returns log SNR_t - log SNR_s, at most 0 where s is the less noisy level."""
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
    (beta_t; right for data that is N(0, I)).
    """
    sigma = {"small": s.sigma, "large": t.sigma}[kind]
    return 2 * jnp.log(sigma) + jnp.log(-jnp.expm1(log_snr_gap(t, s)))
