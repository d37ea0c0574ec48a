"""Which level: the draws of training, and the grids of sampling. Both speak in rows of a table of levels, 0 .. T."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax.errors import UserError


class Timesteps(NamedTuple):
    """Training draws of t, as a triple of pure functions; the state is an array pytree of the train state.

    Attributes:
        init: () -> state.
        draw: (state, key, batch size B) -> (t int32 [B] in 1 .. T, importance weight [B]).
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

    def draw(state, key: Array, batch_size: int) -> tuple[Array, Array]:
        comb = (jnp.arange(batch_size) / batch_size + jax.random.uniform(key)) % 1
        t = 1 + jnp.floor(comb * num_steps).astype(jnp.int32)
        return jnp.minimum(t, num_steps), jnp.ones(batch_size)

    return Timesteps(lambda: (), draw, lambda state, t, losses: state)


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


def _check(num_steps: int, num_sampled: int) -> None:
    if not 1 <= num_sampled <= num_steps:
        raise UserError(f"a grid of {num_sampled} steps is not allowed; it must have 1 to {num_steps}, the process's own.")


def _to_the_data(rising: np.ndarray) -> np.ndarray:
    """Returns rising rows as a grid: falling, with level 0 at the end."""
    return np.append(rising[::-1], 0)
