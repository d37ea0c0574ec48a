"""Noise schedules: the variances beta_1 .. beta_T of the forward process, as float64 [T]."""

import numpy as np

from diffusion_jax import errors
from diffusion_jax.errors import UserError


def linear(num_steps: int, *, first: float = 1e-4, last: float = 0.02) -> np.ndarray:
    """Returns beta_t, evenly spaced from `first` to `last` inclusive. [Ho et al. 2020, section 4]

    Made for T = 1000: with far fewer steps much of the image is left at T, where samplers begin from noise alone; see
    `linear_rescaled`.

    Args:
        num_steps: T, at least 1.
        first: beta_1, in (0, 1).
        last: beta_T, in (0, 1]; at 1 nothing of the image is left at t = T.

    Returns:
        float64 [T].
    """
    errors.check_whole("num_steps", num_steps, 1)
    return np.linspace(first, last, num_steps, dtype=np.float64)


def linear_rescaled(num_steps: int) -> np.ndarray:
    """Returns `linear` with beta times 1000 / T, so that alpha_bar_T hardly depends on T.

    The convention of [Nichol & Dhariwal 2021] and of score-based VP processes; at T = 1000 it is `linear`.

    Raises:
        UserError: below T = 20, where beta_T = 20 / T would exceed 1.
    """
    errors.check_whole("num_steps", num_steps, 1)
    if num_steps < 20:
        raise UserError(
            f"schedule = 'linear' with num_steps = {num_steps} has beta_T = {20 / num_steps:.3g} above 1; "
            "use at least 20 steps, or 'cosine'."
        )
    scale = 1000 / num_steps
    return linear(num_steps, first=scale * 1e-4, last=scale * 0.02)


def cosine(num_steps: int, *, offset: float = 0.008, max_beta: float = 0.999) -> np.ndarray:
    """Returns beta_t = 1 - f(t) / f(t - 1), clipped, with f(t) = cos^2(pi / 2 (t / T + s) / (1 + s)).

    [Nichol & Dhariwal 2021, eq. 17]

    Args:
        num_steps: T, at least 1.
        offset: s, which keeps beta_1 from vanishing.
        max_beta: the clip; it binds at t = T alone for T = 1000 and 4000.

    Returns:
        float64 [T].
    """
    errors.check_whole("num_steps", num_steps, 1)
    t = np.arange(num_steps + 1, dtype=np.float64) / num_steps
    f = np.cos((t + offset) / (1 + offset) * np.pi / 2) ** 2
    return np.minimum(1 - f[1:] / f[:-1], max_beta)


def scaled_linear(num_steps: int, *, first: float = 1e-4, last: float = 0.02) -> np.ndarray:
    """Returns beta_t whose square roots are evenly spaced: 'quad' of Ho et al.'s code, and latent diffusion's schedule.

    Latent diffusion has first = 0.00085, last = 0.012. [Rombach et al. 2022]
    """
    return np.linspace(np.sqrt(first), np.sqrt(last), num_steps, dtype=np.float64) ** 2


def sigmoid_beta(num_steps: int, *, first: float = 1e-4, last: float = 0.02) -> np.ndarray:
    """Returns beta_t along a sigmoid from -6 to 6, scaled to [first, last]. [Xu et al. 2022, GeoDiff]"""
    return first + (last - first) / (1 + np.exp(-np.linspace(-6, 6, num_steps, dtype=np.float64)))


def sigmoid(num_steps: int, *, start: float = -3, end: float = 3, tau: float = 1.0, max_beta: float = 0.999) -> np.ndarray:
    """Returns the schedule whose alpha_bar is a sigmoid: g(t) = s(-(t (end - start) + start) / tau), scaled from 1 to 0.

    alpha_bar_t = (g(t / T) - g(1)) / (g(0) - g(1)). [Jabri et al. 2022, RIN; Chen 2023, algorithm 1]
    """
    t = np.arange(num_steps + 1, dtype=np.float64) / num_steps
    g = 1 / (1 + np.exp((t * (end - start) + start) / tau))
    alpha_bar = (g - g[-1]) / (g[0] - g[-1])
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], max_beta)


def constant(num_steps: int, *, last: float = 0.02) -> np.ndarray:
    """Returns beta_t = last: 'const' of Ho et al.'s code."""
    return np.full(num_steps, last, np.float64)


def jsd(num_steps: int) -> np.ndarray:
    """Returns 1/T, 1/(T - 1), ..., 1, which leaves no signal at T: of Ho et al.'s code. [Sohl-Dickstein et al. 2015]"""
    return 1 / np.arange(num_steps, 0, -1, dtype=np.float64)


def warmup(num_steps: int, *, fraction: float, first: float = 1e-4, last: float = 0.02) -> np.ndarray:
    """Returns `last`, but rising to it evenly over the first `fraction`: 'warmup10' and 'warmup50' of Ho et al.'s code."""
    num_rising = int(num_steps * fraction)
    return np.append(np.linspace(first, last, num_rising), constant(num_steps - num_rising, last=last))


def of_log_snr(log_snr: np.ndarray) -> np.ndarray:
    """Returns the betas of a chain whose rows 1 .. T have these log-SNRs, falling: alpha_bar_t = sigmoid(log SNR_t)."""
    log_alpha_bar = -np.logaddexp(0, -np.asarray(log_snr, np.float64))
    return -np.expm1(np.diff(log_alpha_bar, prepend=0.0))


def zero_terminal_snr(betas: np.ndarray) -> np.ndarray:
    """Returns a schedule shifted and scaled so that nothing of the image is left at T. [Lin et al. 2023, algorithm 1]

    sqrt(alpha_bar) keeps its first value and ends at 0, so beta_T = 1. A network cannot predict eps there: use v or x_0.

    Raises:
        UserError: for fewer than two betas, or where float64 knows no signal before T either.
    """
    alpha = np.sqrt(np.cumprod(1 - betas))
    if len(alpha) < 2:
        raise UserError("zero_terminal_snr needs two betas or more.")
    if not alpha[-2] > alpha[-1]:
        raise UserError("zero_terminal_snr is impossible where nothing is left before T; take fewer steps.")
    alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    alpha_bar = np.concatenate([[1.0], alpha**2])
    return 1 - alpha_bar[1:] / alpha_bar[:-1]
