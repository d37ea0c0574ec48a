"""Processes in real-valued time: t = 0 is the data, noise grows with t.

A process is alpha(t) and sigma(t), the clock that reads t off a log-SNR, and what the network is told at t. Its functions
take NumPy arrays, for grids in float64 on the host, and traced arrays, for training, alike.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax import process
from diffusion_jax.process import Level

Times = Any  # np.ndarray or jax.Array, any shape


class Process(NamedTuple):
    """A process in real-valued time.

    Attributes:
        alpha: t -> the signal's coefficient.
        sigma: t -> the noise's standard deviation.
        time: log-SNR -> t; beyond `last` VP, VE and rectified flow go on, and a chain stays there.
        condition: t -> what the network is told.
        first: the least noisy t that samplers ask the network about, above 0.
        last: the noisiest.
    """

    alpha: Callable[[Times], Times]
    sigma: Callable[[Times], Times]
    time: Callable[[Times], Times]
    condition: Callable[[Times], Times]
    first: float
    last: float


def vp(*, beta_min: float = 0.1, beta_max: float = 20.0) -> Process:
    """Returns the variance-preserving SDE, t in (0, 1]; the network is told 999 t. [Song et al. 2021, score SDE, eq. 33]

    log alpha = -(beta_max - beta_min) t^2 / 4 - beta_min t / 2: the limit of many steps of Ho et al.'s linear schedule.
    Sampling goes down to t = 1e-3, as there.
    """
    slope = (beta_max - beta_min) / 2

    def log_alpha(t: Times) -> Times:
        return -(slope * t + beta_min) * t / 2

    def time(log_snr: Times) -> Times:
        log_alpha = -_xp(log_snr).logaddexp(0.0, -log_snr) / 2
        return -4 * log_alpha / (beta_min + _xp(log_snr).sqrt(beta_min**2 - 8 * slope * log_alpha))

    return Process(
        alpha=lambda t: _xp(t).exp(log_alpha(t)),
        sigma=lambda t: _xp(t).sqrt(-_xp(t).expm1(2 * log_alpha(t))),
        time=time,
        condition=lambda t: 999 * t,
        first=1e-3,
        last=1.0,
    )


def ve(*, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Process:
    """Returns the variance-exploding process with t = sigma; the network is told ln(sigma) / 4. [Karras et al. 2022, EDM]

    The VE SDE of [Song et al. 2021, score SDE] is the same with sigma from 0.01 to 50, its uniform time the logarithm.
    """
    return Process(
        alpha=lambda t: 0 * t + 1,
        sigma=lambda t: t,
        time=lambda log_snr: _xp(log_snr).exp(-log_snr / 2),
        condition=lambda t: _xp(t).log(t) / 4,
        first=sigma_min,
        last=sigma_max,
    )


def rectified_flow() -> Process:
    """Returns the straight path x_t = (1 - t) x_0 + t eps; the network is told 1000 t. [Liu et al. 2022, t reversed]"""
    return Process(
        alpha=lambda t: 1 - t,
        sigma=lambda t: t,
        time=lambda log_snr: 1 / (1 + _xp(log_snr).exp(log_snr / 2)),
        condition=lambda t: 1000 * t,
        first=1e-3,
        last=1.0,
    )


def interpolated(levels: Level, *, of: Literal["log_alpha", "log_snr"] = "log_alpha") -> Process:
    """Returns a discrete process between its levels 1 .. T, and 0; at whole t it is the table. On the host only.

    What the network is told is interpolated too: between t - 1 and t for a chain of Ho et al.

    Args:
        levels: the table of a variance-preserving chain, [T + 1].
        of: what is linear in t from one level to the next, log alpha as in DPM-Solver's code or log-SNR as in k-diffusion's.
            Below level 1 it is log alpha, since the log-SNR of the data is infinite.
    """
    rows = np.arange(len(levels.alpha))
    log_snr = np.asarray(levels.log_snr, np.float64) + np.asarray(levels.log_snr_lo, np.float64)
    log_alpha = -np.logaddexp(0, -log_snr) / 2  # alpha^2 = 1 / (1 + e^{-log SNR})

    def log_alpha_at(t: np.ndarray) -> np.ndarray:
        straight = np.interp(t, rows, log_alpha)
        if of == "log_alpha":
            return straight
        return np.where(t < 1, straight, -np.logaddexp(0, -np.interp(t, rows[1:], log_snr[1:])) / 2)

    def time(wanted: np.ndarray) -> np.ndarray:
        wanted_log_alpha = -np.logaddexp(0, -wanted) / 2
        straight = np.interp(-wanted_log_alpha, -log_alpha, rows)
        return straight if of == "log_alpha" else np.interp(-wanted, -log_snr[1:], rows[1:])

    return Process(
        alpha=lambda t: np.exp(log_alpha_at(t)),
        sigma=lambda t: np.sqrt(-np.expm1(2 * log_alpha_at(t))),
        time=time,
        condition=lambda t: np.interp(t, rows, np.asarray(levels.condition, np.float64)),
        first=1.0,
        last=float(rows[-1]),
    )


def level(of: Process, t: Array) -> Level:
    """Returns the levels at times t in JAX's precision, also traced: for training, and wherever t is not known before."""
    alpha, sigma = of.alpha(t), of.sigma(t)
    log_snr = 2 * (jnp.log(alpha) - jnp.log(sigma))
    return Level(alpha, sigma, log_snr, jnp.zeros_like(log_snr), of.condition(t))


def level_of_log_snr(of: Process, log_snr: Array) -> Level:
    """Returns the levels of any log-SNR, as `level`."""
    return level(of, of.time(log_snr))


def grid(of: Process, times: np.ndarray) -> Level:
    """Returns the levels at times t, from float64 on the host: for sampling. # [S + 1]"""
    times = np.asarray(times, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):  # the data, and pure noise, are at infinity
        alpha, sigma = of.alpha(times), of.sigma(times)
        return process.cast(alpha, sigma, 2 * (np.log(alpha) - np.log(sigma)), of.condition(times))


def _xp(array: Times) -> Any:
    """Returns the module whose functions take this array: numpy or jax.numpy."""
    return np if isinstance(array, np.ndarray | np.generic | float) else jnp
