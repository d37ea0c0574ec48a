"""Noise schedules: the variances beta_1 .. beta_T of the forward process, as float64 [T]."""

import numpy as np


def linear(num_steps: int, *, first: float = 1e-4, last: float = 0.02) -> np.ndarray:
    """Returns beta_t, evenly spaced from `first` to `last` inclusive. [Ho et al. 2020, section 4]

    Args:
        num_steps: T, at least 1.
        first: beta_1, in (0, 1).
        last: beta_T, in (0, 1]; at 1 nothing of the image is left at t = T.

    Returns:
        float64 [T].
    """
    return np.linspace(first, last, num_steps, dtype=np.float64)


def linear_rescaled(num_steps: int) -> np.ndarray:
    """Returns `linear` with beta times 1000 / T, so that alpha_bar_T hardly depends on T.

    The convention of [Nichol & Dhariwal 2021] and of score-based VP processes; at T = 1000 it is `linear`.

    Raises:
        ValueError: below T = 20, where beta_T = 20 / T would exceed 1.
    """
    if num_steps < 20:
        raise ValueError(
            f"schedule 'linear' with num_steps = {num_steps} has beta_T = {20 / num_steps:.3g} above 1; "
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
    t = np.arange(num_steps + 1, dtype=np.float64) / num_steps
    f = np.cos(np.pi / 2 * (t + offset) / (1 + offset)) ** 2
    return np.minimum(1 - f[1:] / f[:-1], max_beta)
