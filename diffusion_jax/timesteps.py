"""Which level: the draws of training, and the grids of sampling. Both speak in rows of a table of levels, 0 .. T."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


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

    One uniform offset shifts an even comb, as in [Kingma et al. 2021, VDM, appendix I.1]: the loss of a batch varies less.
    """

    def draw(state, key: Array, batch_size: int) -> tuple[Array, Array]:
        comb = (jnp.arange(batch_size) + jax.random.uniform(key)) / batch_size
        t = 1 + jnp.floor(comb * num_steps).astype(jnp.int32)
        return jnp.minimum(t, num_steps), jnp.ones(batch_size)

    return Timesteps(lambda: (), draw, lambda state, t, losses: state)


def trailing(num_steps: int, num_sampled: int) -> np.ndarray:
    """Returns T, T - T/S, ..., 0, rounded: always starts at T, where x_T really is noise. [Lin et al. 2023, table 2]

    Args:
        num_steps: T of the process.
        num_sampled: S, the steps to take, 1 .. T.

    Returns:
        int [S + 1], strictly falling, the last one 0.
    """
    return np.round(np.linspace(num_steps, 0, num_sampled + 1)).astype(np.int64)


def quadratic(num_steps: int, num_sampled: int) -> np.ndarray:
    """Returns a grid whose square roots are evenly spaced from T to 0: more steps where there is little noise.

    In the manner of [Song et al. 2021, DDIM, appendix D.2], but from T itself. Rows that would coincide are moved apart, so
    that it takes exactly S steps.

    Args and returns as for `trailing`.
    """
    wanted = np.round(np.linspace(0, np.sqrt(num_steps), num_sampled + 1) ** 2)
    distinct = np.maximum.accumulate(wanted - np.arange(num_sampled + 1)) + np.arange(num_sampled + 1)
    room = num_steps - num_sampled + np.arange(num_sampled + 1)
    return np.minimum(distinct, room)[::-1].astype(np.int64)
