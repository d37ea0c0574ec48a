"""Which level: the draws of training, and the grids of sampling.

Both speak in t: of a chain the rows of its table of levels, 0 .. T; of a process in real-valued time, its times.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import ndtri

from diffusion_jax.continuous import Process
from diffusion_jax.errors import UserError


class Timesteps(NamedTuple):
    """Training draws of t, as a triple of pure functions; the state is an array pytree of the train state.

    Attributes:
        init: () -> state.
        draw: (state, key, batch size B) -> (t [B], importance weight [B]); int32 in 1 .. T for a chain, else real.
        update: (state, t [B], losses [B]) -> state.
    """

    init: Callable[[], Any]
    draw: Callable[[Any, Array, int], tuple[Array, Array]]
    update: Callable[[Any, Array, Array], Any]


def uniform(num_steps: int) -> Timesteps:
    """Returns independent draws t ~ Uniform{1, ..., T}. [Ho et al. 2020, Algorithm 1]"""

    def draw(state, key: Array, batch_size: int) -> tuple[Array, Array]:
        return jax.random.randint(key, (batch_size,), 1, num_steps + 1), jnp.ones(batch_size)

    return Timesteps(lambda: (), draw, lambda state, t, losses: state)


def stratified(num_steps: int) -> Timesteps:
    """Returns draws that are each Uniform{1, ..., T} but spread over a batch: one in every B-th part of (0, T].

    One uniform offset shifts an even comb around the circle, as in [Kingma et al. 2021, VDM, appendix I.1]: the loss of a
    batch varies less.
    """
    return transformed(lambda u: 1 + jnp.floor(u * num_steps).astype(jnp.int32), spread=True)


def transformed(time_of: Callable[[Array], Array], *, spread: bool) -> Timesteps:
    """Returns draws t = time_of(u), u ~ Uniform(0, 1): `time_of` is the inverse of a distribution.

    Args:
        time_of: such as `uniform_time`, `log_uniform`, `log_normal` or `logit_normal`.
        spread: whether the u of a batch are spread over it, as in `stratified`, or independent.
    """

    def draw(state, key: Array, batch_size: int) -> tuple[Array, Array]:
        u = _comb(key, batch_size) if spread else jax.random.uniform(key, (batch_size,))
        return time_of(jnp.clip(u, 1e-6, 1 - 1e-6)), jnp.ones(batch_size)

    return Timesteps(lambda: (), draw, lambda state, t, losses: state)


def uniform_time(u: Array, *, first: float, last: float) -> Array:
    """Returns t ~ Uniform(first, last): 1e-5 to 1 for the VP SDE [Song et al. 2021, score SDE, appendix C]."""
    return first + u * (last - first)


def log_uniform(u: Array, *, first: float, last: float) -> Array:
    """Returns log t ~ Uniform: the VE SDE's uniform time, where t is sigma. [Song et al. 2021, score SDE, eq. 31]"""
    return first * (last / first) ** u


def log_normal(u: Array, *, mean: float = -1.2, std: float = 1.2) -> Array:
    """Returns log t ~ N(mean, std^2), where t is sigma. [Karras et al. 2022, EDM, table 1]"""
    return jnp.exp(mean + std * ndtri(u))


def logit_normal(u: Array, *, mean: float = 0.0, std: float = 1.0) -> Array:
    """Returns log(t / (1 - t)) ~ N(mean, std^2), t in (0, 1). [Esser et al. 2024, eq. 19]"""
    return jax.nn.sigmoid(mean + std * ndtri(u))


def _comb(key: Array, batch_size: int) -> Array:
    """Returns evenly spaced numbers in [0, 1), all shifted by one random offset. # [B]"""
    return (jnp.arange(batch_size) / batch_size + jax.random.uniform(key)) % 1


class LossHistory(NamedTuple):
    """The last losses seen at each t, for `loss_second_moment`."""

    losses: Array  # float32 [T, 10], a ring for each t
    num_seen: Array  # int32 [T]


def loss_second_moment(num_steps: int, *, history: int = 10, uniform_share: float = 0.001) -> Timesteps:
    """Returns draws of t in proportion to sqrt(E[L_t^2]), weighted so that the mean loss stays unbiased.

    p_t ~ sqrt(mean of the last 10 losses squared), mixed with a little of the uniform distribution; the weight is
    1 / (T p_t). Uniform until every t was seen 10 times. The draws are spread over a batch as in `stratified`.
    [Nichol & Dhariwal 2021, eq. 18 and section 3.3]

    Args:
        num_steps: T.
        history: losses kept for each t.
        uniform_share: of the uniform distribution in the mixture.
    """

    def draw(state: LossHistory, key: Array, batch_size: int) -> tuple[Array, Array]:
        p = probabilities(state, uniform_share)
        bounds = jnp.cumsum(p)
        row = jnp.searchsorted(bounds, _comb(key, batch_size) * bounds[-1], side="right")
        row = jnp.minimum(row, num_steps - 1)
        return 1 + row.astype(jnp.int32), 1 / (num_steps * p[row])

    return Timesteps(lambda: LossHistory(jnp.zeros((num_steps, history)), jnp.zeros(num_steps, jnp.int32)), draw, _remember)


def probabilities(state: LossHistory, uniform_share: float) -> Array:
    """Returns the probability of each t under `loss_second_moment`. # [T]"""
    num_steps, history = state.losses.shape
    rms = jnp.sqrt(jnp.mean(state.losses**2, axis=1))
    p = (1 - uniform_share) * rms / jnp.maximum(jnp.sum(rms), 1e-30) + uniform_share / num_steps
    return jnp.where(jnp.all(state.num_seen >= history), p, 1 / num_steps)


def _remember(state: LossHistory, t: Array, losses: Array) -> LossHistory:
    """Returns the history with the losses of a batch, as if they had come one after the other."""
    history = state.losses.shape[1]
    same = t[:, None] == t[None, :]
    earlier = jnp.sum(jnp.tril(same, -1), axis=1)  # in this batch, of the same t
    later = jnp.sum(jnp.triu(same, 1), axis=1)
    slot = (state.num_seen[t - 1] + earlier) % history
    row = jnp.where(later < history, t - 1, len(state.losses))  # one that would be overwritten at once is dropped
    return LossHistory(
        state.losses.at[row, slot].set(losses, mode="drop"),
        state.num_seen.at[t - 1].add(1),
    )


def trailing(num_steps: int, num_sampled: int) -> np.ndarray:
    """Returns T, T - T/S, ..., 0, rounded: always starts at T, where x_T really is noise. [Lin et al. 2023, table 2]

    Args:
        num_steps: T of the process.
        num_sampled: S, the steps to take, 1 .. T.

    Returns:
        int [S + 1], strictly falling, the last one 0. So do the other grids; t is their row minus 1 in 0-based code.
    """
    _check(num_steps, num_sampled)
    return np.round(np.linspace(num_steps, 0, num_sampled + 1)).astype(np.int64)


def leading(num_steps: int, num_sampled: int) -> np.ndarray:
    """Returns the rows 1 + k floor(T / S): never visits T, unlike `trailing`. [Lin et al. 2023, table 2]"""
    _check(num_steps, num_sampled)
    return _to_the_data(1 + np.arange(num_sampled) * (num_steps // num_sampled))


def linspace(num_steps: int, num_sampled: int) -> np.ndarray:
    """Returns S rows evenly spaced from T to 1, both included, rounded. [Lin et al. 2023, table 2]"""
    _check(num_steps, num_sampled)
    return _to_the_data(1 + np.round(np.linspace(0, num_steps - 1, num_sampled)).astype(np.int64))


def iddpm(num_steps: int, sections: Sequence[int]) -> np.ndarray:
    """Returns rows evenly spaced within equal sections of 1 .. T, a number for each. [Nichol & Dhariwal 2021, section 4]

    Args:
        num_steps: T of the process.
        sections: how many rows each section gets, from the least noisy on: (50,), or (10, 15, 20) for 45 in all.

    Raises:
        UserError: where a section is smaller than its number.
    """
    rows = []
    for section, count in zip(np.array_split(np.arange(1, num_steps + 1), len(sections)), sections, strict=True):
        if not 1 <= count <= len(section):
            raise UserError(f"sections = {tuple(sections)}: a section of {len(section)} steps cannot give {count}.")
        stride = (len(section) - 1) / max(count - 1, 1)
        offsets = np.cumsum([0.0] + [stride] * (count - 1))  # summed up, as the published code does: roundings differ
        rows.append(section[0] + np.round(offsets).astype(np.int64))
    return _to_the_data(np.concatenate(rows))


def ddim_uniform(num_steps: int, num_sampled: int) -> np.ndarray:
    """Returns the rows 1, 1 + c, 1 + 2c, ... with the whole stride c that gives S of them. [Song et al. 2021, DDIM, D.2]

    Raises:
        UserError: where no stride does.
    """
    for stride in range(1, num_steps + 1):
        rows = np.arange(1, num_steps + 1, stride)
        if len(rows) == num_sampled:
            return _to_the_data(rows)
    raise UserError(f"grid 'ddim_uniform' cannot take {num_sampled} of {num_steps} steps with one stride; use 'trailing'.")


def ddim_quadratic(num_steps: int, num_sampled: int) -> np.ndarray:
    """Returns the rows 1 + floor(c k^2) up to 0.8 T: more steps where there is little noise. [Song et al. 2021, DDIM, D.2]

    Low rows that coincide are visited once, so that there may be fewer than S steps: 49 of 50, 96 of 100 at T = 1000.
    """
    _check(num_steps, num_sampled)
    rows = np.linspace(0, np.sqrt(0.8 * num_steps), num_sampled) ** 2
    return _to_the_data(1 + np.unique(rows.astype(np.int64)))


def trailing_time(of: Process, num_sampled: int) -> np.ndarray:
    """Returns `trailing` without rounding: times evenly spaced from the last one to 0. # [S + 1], as the grids below"""
    return np.linspace(of.last, 0, num_sampled + 1)


def uniform_grid(of: Process, num_sampled: int) -> np.ndarray:
    """Returns times evenly spaced from the last to the first, and 0."""
    return np.append(np.linspace(of.last, of.first, num_sampled), 0)


def quadratic(of: Process, num_sampled: int) -> np.ndarray:
    """Returns times whose square roots are evenly spaced, and 0: more steps where there is little noise."""
    times = np.linspace(np.sqrt(of.last), np.sqrt(of.first), num_sampled) ** 2
    return np.append(np.clip(times, of.first, of.last), 0)  # the ends exactly


def uniform_log_snr(of: Process, num_sampled: int) -> np.ndarray:
    """Returns times evenly spaced in log-SNR, and 0. [Lu et al. 2022, DPM-Solver]"""
    last, first = _log_snr(of)
    return _times(of, np.linspace(last, first, num_sampled))


def karras(of: Process, num_sampled: int, *, rho: float = 7.0) -> np.ndarray:
    """Returns times whose (sigma / alpha)^(1 / rho) are evenly spaced, and 0. [Karras et al. 2022, EDM, eq. 5]"""
    last, first = (np.exp(-log_snr / (2 * rho)) for log_snr in _log_snr(of))
    return _times(of, -2 * rho * np.log(np.linspace(last, first, num_sampled)))


def _log_snr(of: Process) -> tuple[float, float]:
    """Returns the log-SNR at the last and at the first time."""
    alpha = of.alpha(np.array([of.last, of.first]))
    if alpha[0] == 0:
        raise UserError("grids 'log_snr' and 'karras' are impossible where a process leaves no signal; use 'trailing'.")
    return tuple(2 * np.log(alpha / of.sigma(np.array([of.last, of.first]))))


def _times(of: Process, log_snr: np.ndarray) -> np.ndarray:
    """Returns the times of falling noise, the ends exact, with the data behind them."""
    times = of.time(log_snr)
    times[0] = of.last
    return np.append(times, 0) if len(times) == 1 else np.concatenate([times[:-1], [of.first, 0]])


def explicit(of: Process, times: Sequence[float]) -> np.ndarray:
    """Returns times given one by one, checked.

    Raises:
        UserError: where they do not fall, or leave the process.
    """
    found = np.asarray(times, np.float64)
    noisy = found[:-1] if found.size and found[-1] == 0 else found
    inside = noisy.size and found.size > 1 and noisy[0] <= of.last and noisy[-1] >= of.first
    if not (inside and np.all(np.diff(found) < 0)):
        raise UserError(
            f"times = {tuple(times)} are no grid: two or more must fall, from at most {of.last:g} to at least {of.first:g}; "
            "0, the data, may follow."
        )
    return found


def _check(num_steps: int, num_sampled: int) -> None:
    if not 1 <= num_sampled <= num_steps:
        raise UserError(f"a grid of {num_sampled} steps is not allowed; it must have 1 to {num_steps}, the process's own.")


def _to_the_data(rising: np.ndarray) -> np.ndarray:
    """Returns rising rows as a grid: falling, with level 0 at the end."""
    return np.append(rising[::-1], 0)
