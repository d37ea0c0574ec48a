"""The reverse SDE in small steps, and Langevin steps at one noise level between them. [Song et al. 2021, score SDE]

    sampler = corrected(reverse_diffusion(), langevin(snr=0.16))  # the paper's predictor-corrector

A predictor is a `samplers.Sampler` like any other. A `Corrector` moves x without leaving its level, towards what data look
like there. Any predictor that remembers no earlier step goes with any corrector.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax import errors, process, samplers
from diffusion_jax.denoiser import Denoiser
from diffusion_jax.process import Level, Process
from diffusion_jax.samplers import Interval, Noise, Sampler

Corrector = Callable[[Denoiser, Array, Interval, Array], Array]  # (denoise, x at level t, interval, noise) -> x at level t


def reverse_diffusion() -> Sampler:
    """Returns the sampler whose step undoes q(x_t | x_s) as that step was made. [Song et al. 2021, score SDE, appendix E]

    With r = alpha_t / alpha_s and v the variance of q(x_t | x_s): x_s = (2 - r) x_t + v score + sqrt(v) z. In a chain r is
    sqrt(1 - beta_t), and v is beta_t. The last step, to s = 0, adds no noise.
    """

    def step(denoise: Denoiser, x: Array, interval: Interval, noise: Noise) -> tuple[Array, int]:
        t, s = interval.t, interval.s
        log_variance = process.log_variance(t, s, "large")
        mean = (2 - t.alpha / s.alpha) * x + jnp.exp(log_variance) * _score(denoise, x, t)
        return mean + process.std(log_variance, s) * noise(0), 1

    return Sampler(step)


def euler_maruyama(of: Process) -> Sampler:
    """Returns the sampler of Euler's method on the reverse SDE, dx = (f x - g^2 score) dt + g dw. [same, eq. 6]

    The last step, to s = 0, adds no noise.

    Args:
        of: a process in real time, with signal at its last level.

    Raises:
        ValueError: for a chain, and for a process without signal there.
    """
    process.check_process(of, in_real_time=True)
    if not of.level(np.float64(of.last)).alpha > 0:
        raise errors.UserError("a process without signal at its last level is not allowed: its drift is infinite there.")

    def step(denoise: Denoiser, x: Array, interval: Interval, noise: Noise) -> tuple[Array, int]:
        t, s = interval.t, interval.s
        time = of.time(t.log_snr)
        dt = time - of.time(s.log_snr)
        drift, variance = drift_and_variance(of, time)
        mean = x - (drift * x - variance * _score(denoise, x, t)) * dt
        return mean + jnp.where(s.sigma > 0, jnp.sqrt(variance * dt), 0) * noise(0), 1

    return Sampler(step)


def drift_and_variance(of: Process, time: Array) -> tuple[Array, Array]:
    """Returns (f, g^2) of the SDE dx = f x dt + g dw that a process is at some times. # each of their shape

    f = d log alpha / dt, and g^2 = d sigma^2 / dt - 2 f sigma^2.
    """
    level, slope = jax.jvp(of.level, (time,), (jnp.ones_like(time),))
    drift = slope.alpha / level.alpha
    return drift, 2 * level.sigma * (slope.sigma - drift * level.sigma)


def corrected(sampler: Sampler, corrector: Corrector, *, num_corrections: int = 1) -> Sampler:
    """Returns a sampler that corrects x before each step. [Song et al. 2021, score SDE, algorithm 1; its code's order]

    Each correction is one more evaluation of the denoiser.

    Args:
        sampler: one that remembers no earlier step, such as `reverse_diffusion()` or `samplers.ddim()`.
        corrector: such as `langevin(snr=0.16)`.
        num_corrections: at each level.
    """
    samplers.check_forgets(sampler, "corrected")
    errors.check_whole("num_corrections", num_corrections, 1)

    def step(denoise: Denoiser, x: Array, interval: Interval, noise: Noise) -> tuple[Array, Array | int]:
        for k in range(num_corrections):
            x = corrector(denoise, x, interval, noise(3 + k))  # a sampler has 0, `churn` 1, `editing.replaced` 2
        x, num_evaluations = sampler.step(denoise, x, interval, noise)
        return x, num_evaluations + num_corrections

    return Sampler(step, sampler.init)


def langevin(*, snr: float, norms: Literal["image", "batch"] = "image") -> Corrector:
    """Returns Langevin dynamics, x + d score + sqrt(2 d) z. [Song et al. 2021, score SDE, algorithms 4 and 5]

    d = 2 (alpha_t / alpha_s)^2 (snr |z| / |score|)^2, so that what the score adds is to the noise as `snr` says.

    Args:
        snr: r; 0.16 in the paper.
        norms: 'image' takes each image's own. 'batch' takes their means over the batch, as score_sde's code does; images
            then depend on each other.
    """

    def norm(x: Array) -> Array:
        each = jnp.sqrt(jnp.sum(x**2, axis=process.value_axes(x)))
        return each if norms == "image" else jnp.mean(each)

    def correct(denoise: Denoiser, x: Array, interval: Interval, z: Array) -> Array:
        score = _score(denoise, x, interval.t)
        return _moved(x, score, interval, z, snr * norm(z) / norm(score))

    return correct


def annealed_langevin(*, snr: float) -> Corrector:
    """Returns Langevin dynamics with d = 2 (alpha_t / alpha_s)^2 (snr sigma_t)^2. [score_sde's code; Song & Ermon 2019]"""

    def correct(denoise: Denoiser, x: Array, interval: Interval, z: Array) -> Array:
        return _moved(x, _score(denoise, x, interval.t), interval, z, snr * interval.t.sigma)

    return correct


def _moved(x: Array, score: Array, interval: Interval, z: Array, length: Array) -> Array:
    """Returns x after one Langevin step of d = 2 (alpha_t / alpha_s length)^2; a length for all, or one for each image."""
    step_size = process.expand(2 * (interval.t.alpha / interval.s.alpha * length) ** 2, x)
    return x + step_size * score + jnp.sqrt(2 * step_size) * z


def _score(denoise: Denoiser, x: Array, t: Level) -> Array:
    """Returns the gradient of log p(x_t) by x_t: -eps / sigma."""
    return -denoise(x, t).eps / process.expand(t.sigma, x)
