"""Averages of the parameters over training: exponential ones, and power functions from which any width is made afterwards.

The weight of a step tau <= t in a power function's average at step t is proportional to tau^gamma. Its width is sigma_rel,
the standard deviation of tau / t. [Karras et al. 2024, EDM2, section 3]
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

MOST_SIGMA_REL = 0.28  # of gamma = 0, the plain mean of all steps, is 0.289


class Ema(NamedTuple):
    """How EMA weights follow the parameters: they begin as these."""

    kept: tuple[tuple[str, Callable[[Array], Array | float]], ...]  # (name, steps before a step -> the share that it keeps)

    def init(self, params: Any) -> dict[str, Any]:
        """Returns {name: EMA weights} before the first step."""
        return {name: jax.tree.map(jnp.copy, params) for name, _ in self.kept}

    def update(self, ema: dict[str, Any], params: Any, step: Array) -> dict[str, Any]:
        """Returns them after a step that led to these parameters; `step` counts those before it."""

        def moved(share: Array | float, weights: Any) -> Any:
            return jax.tree.map(lambda average, p: average + (1 - share) * (p - average), weights, params)

        return {name: moved(of(step), ema[name]) for name, of in self.kept}


def exponential(rates: Sequence[float], *, warmup: bool = False) -> Ema:
    """Returns EMAs that begin as the parameters and move to rate * ema + (1 - rate) * params. [Ho et al. 2020, appendix B]

    Args:
        rates: one for each EMA, in [0, 1).
        warmup: whether after n steps the rate is at most (1 + n) / (10 + n), so that the start is forgotten soon.
    """

    def kept(rate: float, step: Array) -> Array | float:
        return jnp.minimum(rate, (1 + step) / (10 + step)) if warmup else rate

    return Ema(tuple((ema_name(rate), functools.partial(kept, rate)) for rate in rates))


def ema_name(rate: float) -> str:
    """Returns the name of the EMA with a rate: '0.9999'."""
    return f"{rate:g}" if float(f"{rate:g}") == rate else repr(rate)


def power(sigma_rels: Sequence[float]) -> Ema:
    """Returns averages whose weight of step tau is proportional to tau^gamma. [Karras et al. 2024, EDM2, section 3.1]

    Step t moves them by 1 - (1 - 1 / t)^(gamma + 1) towards the parameters; the first makes them the parameters.

    Args:
        sigma_rels: the width of each, in (0, 0.28].
    """

    def kept(exponent: float, step: Array) -> Array:
        return (1 - 1 / (step + 1)) ** (exponent + 1)

    return Ema(tuple((power_name(width), functools.partial(kept, gamma(width))) for width in sigma_rels))


def together(*kinds: Ema) -> Ema:
    """Returns the averages of several kinds as one."""
    return Ema(tuple(itertools.chain(*(kind.kept for kind in kinds))))


def power_name(sigma_rel: float) -> str:
    """Returns the name of a power function's average: 'power0.05'."""
    return f"power{sigma_rel:g}"


def gamma(sigma_rel: float) -> float:
    """Returns the exponent of a width: sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)). [same]"""
    inverse = sigma_rel**-2.0
    return float(np.max(np.roots([1, 7, 16 - inverse, 12 - inverse]).real))


def posthoc(steps: np.ndarray, sigma_rels: np.ndarray, *, step: int, sigma_rel: float) -> tuple[np.ndarray, float]:
    """Returns the coefficients with which kept averages give another one, and how far its profile then is from the wanted.

    The profiles' difference is least in the squares; the coefficients sum to 1. [Karras et al. 2024, EDM2, section 3.2]

    Args:
        steps: at which the averages were kept, [N].
        sigma_rels: their widths, [N].
        step: of the wanted average, at most the last of `steps`.
        sigma_rel: its width.

    Returns:
        The coefficients, float64 [N], and the root of the mean squared difference relative to the wanted profile's.
    """
    kept = np.asarray(steps, np.float64), np.array([gamma(width) for width in sigma_rels])
    wanted = np.array([float(step)]), np.array([gamma(sigma_rel)])
    products, with_wanted, [[own]] = _products(kept, kept), _products(kept, wanted)[:, 0], _products(wanted, wanted)
    scale = 1 / np.sqrt(np.diag(products))  # unit profiles: a matrix of good condition
    found = scale * np.linalg.lstsq(products * scale[:, None] * scale, with_wanted * scale, rcond=1e-13)[0]
    found /= np.sum(found)
    error = own - 2 * found @ with_wanted + found @ products @ found
    return found, float(np.sqrt(max(error, 0) / own))


def _products(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Returns the integrals of products of profiles (gamma + 1) tau^gamma / t^(gamma + 1), tau < t. # [len(a), len(b)]"""
    (t_a, gamma_a), (t_b, gamma_b) = (tuple(part[:, None] for part in a), b)
    earlier, total = np.minimum(t_a, t_b), gamma_a + gamma_b + 1
    log = total * np.log(earlier) - (gamma_a + 1) * np.log(t_a) - (gamma_b + 1) * np.log(t_b)
    return (gamma_a + 1) * (gamma_b + 1) / total * np.exp(log)
