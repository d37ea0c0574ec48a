"""Losses of models that draw in few steps: a network learns what many steps of a teacher, or of itself, do.

Each is a `losses.Loss`. Its levels beside the one that is given follow from the process.
"""

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax import losses, process, samplers
from diffusion_jax.denoiser import Denoiser, Parameterization, Prediction, predicting
from diffusion_jax.losses import Loss
from diffusion_jax.process import Level, Process

LEAST_GAP = 1 / 1280  # relative, of `stage_gap`


def consistency(of: Process, *, gap: Array | float = 1 / 256, huber: float = 0.0) -> Loss:
    """Returns the loss of easy consistency tuning: x_0 predicted at t shall be what it is at r, a little less noisy.

    (sqrt(d^2 + c^2) - c) / (t - r) with d = || x_0(x_t, t) - x_0(x_r, r) ||. Here t and r are sigma / alpha, both x have the
    same noise, and only the first is trained. r = t (1 - gap (1 + 8 sigmoid(-t))), and where that is not above 0 the second
    is the image itself. A network that has learned it maps all of a trajectory of the probability flow to its end, so that
    one step of `samplers.consistency` draws an image. [Geng et al. 2025, ECT, section 3 and their code]

    Args:
        of: the process, of the level that the loss is given.
        gap: about (t - r) / t of noisy levels, in (0, 1]; it begins large, at 1 / 2, and becomes small: `stage_gap`.
        huber: c; 0 is the norm.

    Example:
        >>> process, x_0 = dj.process.ve(), jnp.ones((2, 8, 8, 1))
        >>> denoise = dj.make_denoiser(lambda x_t, c_noise: jnp.ones_like(x_t), dj.X_0)  # knows the image at every level
        >>> level, eps = process.level(jnp.array([0.5, 20.0])), jax.random.normal(jax.random.key(0), x_0.shape)
        >>> dj.distillation.consistency(process)(denoise, x_0, level, eps)[0].tolist()
        [0.0, 0.0]
    """
    process.check_process(of)

    def loss(denoise: Denoiser, x_0: Array, level: Level, eps: Array) -> tuple[Array, dict[str, Array]]:
        denoise = predicting(denoise)
        t = level.sigma / level.alpha
        r = jnp.maximum(t * (1 - gap * (1 + 8 * jax.nn.sigmoid(-t))), 0)
        lower = process.level_of_log_snr(of, -2 * jnp.log(jnp.where(r > 0, r, t)))
        found = denoise(process.diffuse(x_0, level, eps), level).x_0
        target = denoise(process.diffuse(x_0, lower, eps), lower).x_0
        target = jax.lax.stop_gradient(jnp.where(process.expand(r > 0, x_0), target, x_0))
        squares = jnp.sum((found - target) ** 2, axis=process.value_axes(x_0))
        return _norm(squares, huber) / (t - r), {"gap": jnp.broadcast_to(gap, t.shape)}

    return loss


def progressive(teacher: Denoiser, levels: Level) -> Loss:
    """Returns the loss of progressive distillation: one step of DDIM shall go where two of the teacher's do.

    max(SNR, 1) || x_0 - x ||^2 / D, where x is the x_0 with which one step from t leads to where the teacher's two lead,
    from t to the level below and to that below it. [Salimans & Ho 2022, algorithm 2 and eq. 9]

    Args:
        teacher: draws in 2 N steps.
        levels: those that it visits, from the data up, [2 N + 1]; the student draws in N steps, and the loss is asked about
            rows 2, 4, ..., 2 N.
    """
    process.check_level(levels, "levels")
    teacher = predicting(teacher)

    def loss(denoise: Denoiser, x_0: Array, level: Level, eps: Array) -> tuple[Array, dict[str, Array]]:
        middle = process.one_below(levels, level)
        s, x_t = process.one_below(levels, middle), process.diffuse(x_0, level, eps)
        first = teacher(x_t, level)
        second = teacher(process.diffuse(first.x_0, middle, first.eps), middle)
        x_s = process.diffuse(second.x_0, s, second.eps)
        ratio = s.sigma / level.sigma
        scale = 1 / (s.alpha - ratio * level.alpha)
        target = process.expand(scale, x_0) * (x_s - process.expand(ratio, x_0) * x_t)
        error = predicting(denoise)(x_t, level).x_0 - jax.lax.stop_gradient(target)
        mse = jnp.mean(error**2, axis=process.value_axes(x_0))
        return losses.truncated_snr(losses.snr(level)) * mse, {}

    return loss


def mean_flow(of: Process, *, power: float = 1.0, floor: float = 0.01) -> Loss:
    """Returns the loss of improved mean flows: u(x_t, t, r) shall be the mean velocity of the flow between t and r.

    d^2 / sg(d^2 + c)^p with d = || u + (t - r) sg(du / dt) - (eps - x_0) ||. Along the flow x_t moves by the velocity, which
    is the network's own where r = t, and r stays. [Geng et al. 2025, improved mean flows, eq. 12; the weight, mean flows,
    section 4.3]

    Args:
        of: rectified flow, with a small `c_noise_scale`. The loss is given levels of (t, r), [B, 2], t at least r.
        power: p; 0 is no weight, 1 makes each image count alike.
        floor: c.
    """
    process.check_process(of, in_real_time=True)

    def loss(denoise: Denoiser, x_0: Array, level: Level, eps: Array) -> tuple[Array, dict[str, Array]]:
        denoise = predicting(denoise)
        t, r = (jax.tree.map(lambda column, k=k: column[:, k], level) for k in (0, 1))
        x_t, time = process.diffuse(x_0, t, eps), t.sigma

        def mean_velocity(x: Array, time: Array) -> Array:
            return _velocity(denoise(x, process.jump(of.level(time), r)))

        along = jax.lax.stop_gradient(_velocity(denoise(x_t, t))), jnp.ones_like(time)
        u, slope = jax.jvp(mean_velocity, (x_t, time), along)
        found = u + process.expand(time - r.sigma, u) * jax.lax.stop_gradient(slope)
        squares = jnp.sum((found - (eps - x_0)) ** 2, axis=process.value_axes(x_0))
        return squares / jax.lax.stop_gradient(squares + floor) ** power, {"squared_error": squares}

    return loss


def reflow(teacher: Denoiser, grid: Level) -> Loss:
    """Returns L_simple of the pairs that the teacher's flow joins: a noise, and the image that it ends as.

    A rectified flow of such pairs is straighter than its teacher, so that it draws in fewer steps. Of the data it sees the
    shape alone. [Liu et al. 2022, rectified flow, section 2.2]

    Args:
        teacher: draws the images from eps, by Heun's method.
        grid: the levels that it visits, from noise alone, [S + 1].
    """
    samplers.check_grid(grid)
    simple = losses.simple()

    def loss(denoise: Denoiser, x_0: Array, level: Level, eps: Array) -> tuple[Array, dict[str, Array]]:
        keys = jax.random.split(jax.random.key(0), len(eps))  # of which Heun's method draws nothing
        return simple(denoise, samplers.sample(teacher, samplers.heun(), eps, grid, keys).x, level, eps)

    return loss


def _velocity(prediction: Prediction) -> Array:
    """Returns dx / dt of rectified flow, eps - x_0."""
    return prediction.eps - prediction.x_0


def stage_gap(step: Array, *, ratio: float, stage_steps: int) -> Array:
    """Returns the gap of `consistency` at a training step: ratio^-(k + 1) in stage k = step // stage_steps.

    It is at least 1 / 1280. Without an end the gap of a long run becomes less than the rounding of t, and the loss 0 / 0.
    Improved consistency training has 1280 levels in its last stage. [Song & Dhariwal 2024, section 3.4]

    Args:
        step: whole, from 0.
        ratio: q, above 1. [ECT: 2, in stages; or 256 at once]
        stage_steps: steps of a stage; 0 for one stage alone.
    """
    return jnp.maximum(ratio ** -(1.0 + (step // stage_steps if stage_steps else 0)), LEAST_GAP)


def amplification(parameterization: Parameterization, level: Level) -> Array:
    """Returns the error of x_0 for an error 1 of the network's output, | sigma / (alpha b - sigma a) |. # as the level

    A network whose x_0 at the noisiest level shall be an image needs one of about 1. That of `EPS` is sigma / alpha: 157 in
    the last of Ho et al.'s levels. That of `V` is sigma, that of `edm()` at most sigma_data.
    """
    a, b = parameterization.coefficients(level)
    return jnp.abs(level.sigma / (level.alpha * b - level.sigma * a))


def _norm(squares: Array, huber: float) -> Array:
    """Returns sqrt(squares + c^2) - c, whose gradient at 0 is 0."""
    is_zero = squares + huber**2 == 0
    return jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, squares + huber**2)) - huber)
