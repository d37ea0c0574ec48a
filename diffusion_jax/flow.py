"""The likelihood of continuous images under the probability flow, exact but for its estimate of a trace.

The density that the ODE carries from N(0, I) to the data [Song et al. 2021, score SDE, section 4.3]. It is never to be put
beside the variational bound (`likelihood.py`), which is another number.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax import ode, process
from diffusion_jax.denoiser import Denoiser
from diffusion_jax.process import Level


class Density(NamedTuple):
    """The density of images under a probability flow.

    Attributes:
        log_density: log p(x) in nats, [B].
        x_T: where the flow takes the images, [B, H, W, C].
        num_evaluations: calls of the denoiser, int32 [B].
        reached_end: whether the integrator's steps were enough, bool [B].
    """

    log_density: Array
    x_T: Array  # noqa: N815
    num_evaluations: Array
    reached_end: Array


def log_density(
    denoise: Denoiser,
    x: Array,
    level_of: Callable[[Array], Level],
    *,
    log_snr_first: float,
    log_snr_last: float,
    probes: Array,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> Density:
    """Returns log p(x) for the density that the probability flow carries from N(0, I) to the data.

    With y = x / alpha and kappa = sigma / alpha the flow is dy / d log kappa = kappa eps. The log-density of x = alpha y
    changes by minus the trace of J + (d log alpha / d log kappa) I, J the Jacobian of kappa eps by y. It is estimated by
    probes, E[v^T (...) v] for v of unit covariance, of the sum, since its parts all but cancel. Forward-mode
    derivatives alone go through it. [Song et al. 2021, score SDE, eqs. 39 and 40]

    Args:
        denoise: the denoiser, not clipped: the flow must be smooth.
        x: images, continuous in [-1, 1], as they are at the first level, [B, H, W, C].
        level_of: log-SNR [B] -> `Level` of [B], such as `process.between` gives.
        log_snr_first: of the least noisy level, where x is.
        log_snr_last: of the noisiest, where the flow is taken to be N(0, I).
        probes: v, the same all the way, [K, B, H, W, C]; Rademacher's signs are exact where J is diagonal.
        rtol: relative tolerance of the integration.
        atol: absolute tolerance.
    """
    first, last = (level_of(jnp.asarray(value, x.dtype)) for value in (log_snr_first, log_snr_last))

    def log_alpha(log_kappa: Array) -> Array:
        return jnp.log(level_of(-2 * log_kappa).alpha)

    def slope(log_kappa: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        level = level_of(-2 * log_kappa)

        def direction(y: Array) -> Array:
            return process.expand(jnp.exp(log_kappa), y) * denoise(process.expand(level.alpha, y) * y, level).eps

        dy, jacobian = jax.linearize(direction, state[0])
        _, shrinking = jax.jvp(log_alpha, (log_kappa,), (jnp.ones_like(log_kappa),))
        traces = jax.vmap(lambda v: jnp.sum(v * (jacobian(v) + process.expand(shrinking, v) * v), axis=(1, 2, 3)))(probes)
        return dy, jnp.mean(traces, axis=0)

    start = x / first.alpha, jnp.zeros(len(x), x.dtype)
    found = ode.integrate(slope, start, -log_snr_first / 2, -log_snr_last / 2, rtol=rtol, atol=atol)
    y_T, carried = found.y
    x_T = last.alpha * y_T
    log_prior = -x[0].size * (jnp.mean(x_T**2, axis=(1, 2, 3)) + math.log(2 * math.pi)) / 2
    return Density(log_prior + carried, x_T, found.num_evaluations, found.reached_end)


def dequantise(x_0: Array, uniform: Array) -> Array:
    """Returns uint8 values in [-1, 1] spread over their bins, which are 1 / 127.5 wide. # [B, H, W, C]

    Args:
        x_0: as k / 127.5 - 1.
        uniform: draws in [0, 1), of the same shape.
    """
    return x_0 + (uniform - 0.5) * (1 / 127.5)


def bits_per_dim(log_density: Array, num_values: int) -> Array:
    """Returns the bits per dimension of uint8 images from the log-density of their dequantised values in [-1, 1]. # [B]

    -log2 p / D + log2(127.5): a bin is 1 / 127.5 wide. On average over the dequantisation it is an upper bound of that of
    the model made discrete. [Theis et al. 2016, section 3.1]
    """
    return -log_density / (num_values * math.log(2)) + math.log2(127.5)
