"""The noise schedule that is learned with the network. [Kingma et al. 2021, VDM, sections 3.2, 5 and appendix H]

log SNR_t = l_0 + (l_1 - l_0) r(t) for t in [0, 1], in a process that preserves variance. The ends l_0 and l_1 are
parameters, and r is a monotone network from 0 to 1. The bound depends on the ends alone (eq. 18), so that they follow its
gradient. The network r settles where the times of training fall. It follows the gradient of the second moment of the
bound's estimate, and so of its variance.

After training a schedule is a chain: `knots` of the parameters, and `chain` of them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax import process, schedules
from diffusion_jax.errors import UserError
from diffusion_jax.process import Level, Process, Times

NUM_UNITS = 32  # of the monotone network, spread over t; VDM has 1024
STEEPNESS = 8.0  # at first, of a unit
LOG_SNR, SPAN = 13.3, 18.3  # of VDM's ends before training, by which it scales c_noise


class Moment(NamedTuple):
    """What training knows of a time t: what the loss of a learned schedule takes in place of a `Level`."""

    level: Level  # of t, [B]
    slope: Array  # d(-log SNR) / dt, by which the loss is weighted, [B]
    log_slope: Array  # log of it; its gradient is that at a log-SNR which stays, by the parameters of r, [B]
    first: Level  # of t = 0, []
    last: Level  # of t = 1, []


def init(log_snr: Sequence[float]) -> dict[str, Any]:
    """Returns the parameters of a schedule that is all but linear in t, from the first of some log-SNRs to the last."""
    centres = jnp.linspace(0.0, 1.0, NUM_UNITS)
    monotone = {"steepness": jnp.full(NUM_UNITS, np.log(STEEPNESS)), "centre": centres, "height": jnp.full(NUM_UNITS, -5.0)}
    return {"ends": jnp.array([log_snr[0], log_snr[-1]], jnp.float32), "monotone": monotone}


def share(monotone: dict[str, Array], t: Array) -> Array:
    """Returns r(t), which rises from 0 to 1: g(t) = t + sum_k h_k tanh(s_k (t - c_k)), shifted and scaled. # [...]

    h and s are exponentials of parameters, where VDM takes absolute values.
    """

    def g(t: Array) -> Array:
        bent = jnp.tanh(jnp.exp(monotone["steepness"]) * (t[..., None] - monotone["centre"]))
        return t + jnp.sum(jnp.exp(monotone["height"]) * bent, axis=-1)

    low, high = g(jnp.zeros(())), g(jnp.ones(()))
    return (g(t) - low) / (high - low)


def moment(params: dict[str, Any], t: Array) -> Moment:
    """Returns what training needs to know of times, with the gradients that the two parts of a schedule shall get.

    `level` and `slope` have gradients by the ends alone. `log_slope` has one by the parameters of r alone: of log r' at a
    place r(t) that stays where it is while they move, t_r = t - (r(t) - sg r(t)) / sg r'(t) to first order. With a loss l
    weighted by the slope it is d E[l^2] = E[l^2 d log_slope], since E[l^2] is an integral over the log-SNR. VDM's
    E[2 l dl] (appendix I.2) is the same in expectation, and differentiates the network by its input.

    Args:
        params: as `init` makes them.
        t: in [0, 1], [B].
    """
    first, last = params["ends"]

    def share_and_slope(t: Array) -> tuple[Array, Array]:
        return jax.jvp(lambda t: share(params["monotone"], t), (t,), (jnp.ones_like(t),))

    found, slope = share_and_slope(t)
    held, held_slope = jax.lax.stop_gradient((found, slope))
    _, moved_slope = share_and_slope(t - (found - held) / held_slope)
    level = level_of(first + (last - first) * held)
    return Moment(level, (first - last) * held_slope, jnp.log(moved_slope), level_of(first), level_of(last))


def level_of(log_snr: Array) -> Level:
    """Returns the levels of log-SNRs, variance preserved: alpha^2 = sigmoid(log SNR), and VDM's c_noise, 0 to 1000."""
    alpha, sigma = jnp.sqrt(jax.nn.sigmoid(log_snr)), jnp.sqrt(jax.nn.sigmoid(-log_snr))
    return process.make_level(alpha, sigma, log_snr, c_noise(log_snr))


def c_noise(log_snr: Times) -> Times:
    """Returns what the network is given of the noise: 0 at a log-SNR of 13.3, 1000 at -5. [published code]"""
    return 1000 * (LOG_SNR - log_snr) / SPAN


def knots(params: dict[str, Any]) -> tuple[float, ...]:
    """Returns the log-SNRs at 257 even times from 0 to 1, rounded to 1e-6."""
    first, last = params["ends"]
    found = first + (last - first) * share(params["monotone"], jnp.linspace(0.0, 1.0, 257))
    return tuple(np.round(np.asarray(found, np.float64), 6).tolist())


def chain(log_snr: Sequence[float], num_steps: int) -> Process:
    """Returns a schedule as a chain. Its rows 1 .. T lie at even times from 0 to 1; between rows log-SNR is linear.

    Args:
        log_snr: at even times from 0 to 1, falling; 2 or more.
        num_steps: T, at least 2.

    Raises:
        UserError: for one step.
    """
    if num_steps < 2:
        raise UserError(f"num_steps = {num_steps} is not allowed; a learned schedule has at least 2, from end to end.")
    rows = np.interp(np.linspace(0, 1, num_steps), np.linspace(0, 1, len(log_snr)), log_snr)
    of_rows = c_noise(rows)
    betas = schedules.of_log_snr(rows)
    return process.chain(betas, c_noise=np.append(of_rows[0], of_rows), interpolation="log_snr")
