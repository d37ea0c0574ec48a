"""Which level: the draws of training, in t. `grids` has the levels that sampling visits."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import ndtri


class Timesteps(NamedTuple):
    """Training draws of t, as a triple of pure functions; the state is an array pytree of the train state."""

    init: Callable[[], Any]  # () -> state
    # (state, key, batch size B) -> (t [B], of `pairs` [B, 2], importance weight [B]); int32 in 1 .. T for a chain, else real
    draw: Callable[[Any, Array, int], tuple[Array, Array]]
    update: Callable[[Any, Array, Array], Any]  # (state, t [B], losses [B]) -> state
    # u in (0, 1) -> the quantile u of t over the weighted draws, of `pairs` of the larger t; None: not known
    quantile: Callable[[Array], Array] | None = None


def uniform(num_steps: int) -> Timesteps:
    """Returns independent draws t ~ Uniform{1, ..., T}. [Ho et al. 2020, Algorithm 1]"""

    def draw(state, key: Array, batch_size: int) -> tuple[Array, Array]:
        return jax.random.randint(key, (batch_size,), 1, num_steps + 1), jnp.ones(batch_size)

    return Timesteps(lambda: (), draw, lambda state, t, losses: state, functools.partial(_row, num_steps=num_steps))


def _row(u: Array, *, num_steps: int) -> Array:
    """Returns t ~ Uniform{1, ..., T} of u ~ Uniform(0, 1)."""
    return 1 + jnp.floor(u * num_steps).astype(jnp.int32)


def stratified(num_steps: int) -> Timesteps:
    """Returns draws that are each Uniform{1, ..., T} but spread over a batch: one in every B-th part of (0, T].

    One uniform offset shifts an even comb around the circle, as in [Kingma et al. 2021, VDM, appendix I.1]: the loss of a
    batch varies less.
    """
    return from_quantiles(functools.partial(_row, num_steps=num_steps), stratified=True)


def from_quantiles(quantile: Callable[[Array], Array], *, stratified: bool) -> Timesteps:
    """Returns draws t = quantile(u), u ~ Uniform(0, 1).

    Args:
        quantile: the inverse of a distribution function: `uniform_time`, `log_uniform`, `log_normal` or `logit_normal`.
        stratified: whether the u of a batch are spread over it, as in `stratified`, or independent.
    """

    def draw(state, key: Array, batch_size: int) -> tuple[Array, Array]:
        u = stratified_uniform(key, batch_size) if stratified else jax.random.uniform(key, (batch_size,))
        return quantile(jnp.clip(u, 1e-6, 1 - 1e-6)), jnp.ones(batch_size)

    return Timesteps(lambda: (), draw, lambda state, t, losses: state, quantile)


def pairs(draws: Timesteps, *, equal_share: float) -> Timesteps:
    """Returns draws of (t, r), [B, 2]: the larger of two draws, and the smaller. [Geng et al. 2025, mean flows, section 4.3]

    Args:
        draws: of real-valued times.
        equal_share: probability with which r is t instead.
    """

    def draw(state, key: Array, batch_size: int) -> tuple[Array, Array]:
        key_one, key_other, key_order, key_equal = jax.random.split(key, 4)
        one, weight = draws.draw(state, key_one, batch_size)
        other = jax.random.permutation(key_order, draws.draw(state, key_other, batch_size)[0])  # stratified draws rise
        t, is_equal = jnp.maximum(one, other), jax.random.bernoulli(key_equal, equal_share, (batch_size,))
        return jnp.stack([t, jnp.where(is_equal, t, jnp.minimum(one, other))], axis=-1), weight

    return Timesteps(draws.init, draw, draws.update, draws.quantile and (lambda u: draws.quantile(jnp.sqrt(u))))


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


def stratified_uniform(key: Array, batch_size: int) -> Array:
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
        row = jnp.searchsorted(bounds, stratified_uniform(key, batch_size) * bounds[-1], side="right")
        row = jnp.minimum(row, num_steps - 1)
        return 1 + row.astype(jnp.int32), 1 / (num_steps * p[row])

    def init() -> LossHistory:
        return LossHistory(jnp.zeros((num_steps, history)), jnp.zeros(num_steps, jnp.int32))

    return Timesteps(init, draw, _remember, functools.partial(_row, num_steps=num_steps))


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
