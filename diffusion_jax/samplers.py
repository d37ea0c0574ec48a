"""Sampling: from x_T ~ N(0, I) down a grid of noise levels to an image.

A sampler is a pair of pure functions, as an optax transform is: `init` makes the state, `step` takes it from one level to
the next. `sample` scans a sampler over a grid. Neither knows the other, and neither knows the network.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax import process
from diffusion_jax.denoiser import Denoiser, VarianceKind, check_variance, reverse_log_variance
from diffusion_jax.process import Level


class State(NamedTuple):
    """A sampler's state: where the images are, and how often the denoiser was asked."""

    x: Array  # [B, H, W, C]
    num_evaluations: Array  # int32 []


class Interval(NamedTuple):
    """One step of a grid, from level t to level s."""

    t: Level  # []
    s: Level  # []
    index: Array  # int32 [], from 0
    remaining: Array  # int32 [], the steps that follow this one


Noise = Callable[[int], Array]  # k -> the k-th standard normal draw of the step, [B, H, W, C]


class Sampler(NamedTuple):
    """A pair of pure functions; a state has at least the fields of `State`."""

    init: Callable[[Array], Any]
    step: Callable[[Denoiser, Any, Interval, Noise], Any]


class Samples(NamedTuple):
    """What `sample` returns: the images, what they cost, and what was kept on the way."""

    x: Array  # [B, H, W, C]
    num_evaluations: Array  # int32 []
    trace: Array  # [num_traced, B, H, W, C]


def sample(denoise: Denoiser, sampler: Sampler, x_T: Array, grid: Level, keys: Array, *, num_traced: int = 0) -> Samples:
    """Returns images drawn by a sampler on a grid. [Ho et al. 2020, Algorithm 2, with the step left to the sampler]

    Args:
        denoise: the denoiser.
        sampler: how one step is taken.
        x_T: what lies at the first level: draws from N(0, I) times its sigma, [B, H, W, C].
        grid: `Level` of [S + 1], in the order visited, such as rows of the table that `process.from_betas` returns; the last
            is the data, unless it stops before or goes up in noise, as the table itself does.
        keys: one key for each image, [B]; noises of an image depend on its own key alone.
        num_traced: how many intermediate states to keep, evenly spaced, the last one included.

    Raises:
        ValueError: for what is no sampler, no grid, or no key for each image; for more traced states than steps; where x_T
            has fewer digits than the grid.
    """
    _check(sampler, x_T, grid, keys, num_traced)
    num_steps = len(grid.alpha) - 1
    index = jnp.arange(num_steps)
    intervals = Interval(process.at(grid, index), process.at(grid, index + 1), index, num_steps - 1 - index)

    def step(carry, scanned):
        state, trace = carry
        interval, row = scanned
        state = sampler.step(denoise, state, interval, _noise(keys, interval.index, x_T))
        return (state, trace.at[row].set(state.x)), None

    trace = jnp.zeros((num_traced + 1, *x_T.shape), x_T.dtype)
    scanned = intervals, _trace_rows(num_steps, num_traced)
    (state, trace), _ = jax.lax.scan(step, (sampler.init(x_T), trace), scanned)
    return Samples(state.x, state.num_evaluations, trace[:-1])


def _trace_rows(num_steps: int, num_traced: int) -> Array:
    """Returns where the state after each step is kept; those not asked for all land in the last row. # int32 [S]"""
    done = (jnp.arange(num_steps) + 1) * num_traced
    return jnp.where(done % num_steps < num_traced, done // num_steps - 1, num_traced)


def _noise(keys: Array, index: Array, x: Array) -> Noise:
    """Returns the draws of step `index`: addressed by (image, step, k), made only when asked for."""

    def draw(key: Array, k: int) -> Array:
        return jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, index), k), x.shape[1:], x.dtype)

    return lambda k: jax.vmap(lambda key: draw(key, k))(keys)


def initial_state(x_T: Array) -> State:
    """Returns the state before the first step."""
    return State(x_T, jnp.zeros((), jnp.int32))


def ancestral(*, variance: VarianceKind) -> Sampler:
    """Returns the sampler x_s ~ N(mean of q(x_s | x_t, x_0), variance). [Ho et al. 2020, Algorithm 2]

    As there, the last step, to s = 0, adds no noise.

    Args:
        variance: 'small' is the posterior's (tilde beta_t), 'large' the forward process's (beta_t); 'learned_range' and
            'learned' are the network's, see `denoiser.reverse_log_variance`.

    Raises:
        ValueError: for another name.
    """
    check_variance(variance)

    def step(denoise: Denoiser, state: State, interval: Interval, noise: Noise) -> State:
        t, s = interval.t, interval.s
        prediction = denoise(state.x, t)
        mean = process.posterior(prediction.x_0, state.x, t, s).mean
        log_variance = reverse_log_variance(prediction.variance, state.x, t, s, variance, first=0.0)
        std = jnp.where(s.sigma > 0, jnp.exp(log_variance / 2), 0)
        return State(mean + std * noise(0), state.num_evaluations + 1)

    return Sampler(initial_state, step)


def ddim(*, eta: float = 0.0) -> Sampler:
    """Returns the sampler x_s = alpha_s x_0 + sqrt(sigma_s^2 - std^2) eps + std z. [Song et al. 2021, DDIM, eqs. 12 and 16]

    Args:
        eta: std as a fraction of the posterior's: 0 is deterministic, 1 is `ancestral(variance="small")`.

    Raises:
        ValueError: for eta outside [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta = {eta} is not allowed; it must be from 0 to 1.")

    def step(denoise: Denoiser, state: State, interval: Interval, noise: Noise) -> State:
        t, s = interval.t, interval.s
        x_0, eps, _ = denoise(state.x, t)
        if not eta:
            return State(s.alpha * x_0 + s.sigma * eps, state.num_evaluations + 1)
        gap = process.log_snr_gap(t, s)
        std = eta * s.sigma * jnp.sqrt(-jnp.expm1(gap))
        direction = s.sigma * jnp.sqrt(1 - eta**2 + eta**2 * jnp.exp(gap))
        return State(s.alpha * x_0 + direction * eps + std * noise(0), state.num_evaluations + 1)

    return Sampler(initial_state, step)


def _check(sampler: Sampler, x_T: Array, grid: Level, keys: Array, num_traced: int) -> None:
    if not hasattr(sampler, "step"):
        raise ValueError(f"sampler = {sampler!r} is no Sampler; use one such as samplers.ddim().")
    if not hasattr(grid, "log_snr"):
        raise ValueError("grid is no Level of [S + 1]; use rows of a table: process.at(process.from_betas(betas), rows).")
    if len(grid.alpha) < 2 or (not isinstance(grid.log_snr, jax.core.Tracer) and not _is_monotone(grid)):
        raise ValueError(
            "the grid is not allowed; it must have two levels or more, each noisier or each less noisy than before."
        )
    if not 0 <= num_traced < len(grid.alpha):
        raise ValueError(f"num_traced = {num_traced} is not allowed; it must be from 0 to {len(grid.alpha) - 1}, the steps.")
    if jnp.result_type(x_T, grid.alpha) != x_T.dtype:
        raise ValueError(f"x_T of {x_T.dtype} is not allowed on a grid of {grid.alpha.dtype}; cast one of them.")
    is_typed = jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    if (keys.shape if is_typed else keys.shape[:-1]) != x_T.shape[:1]:
        raise ValueError(f"keys of {list(keys.shape)} for {len(x_T)} images are not allowed; every image needs its own.")


def _is_monotone(grid: Level) -> bool:
    with np.errstate(invalid="ignore"):  # two levels without noise, or without signal, are infinity twice
        steps = np.diff(np.asarray(grid.log_snr, np.float64) + np.asarray(grid.log_snr_lo, np.float64))
    return bool(np.all(steps > 0) or np.all(steps < 0))
