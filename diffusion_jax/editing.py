"""Editing: images that agree with what is given of them, as compositions of `samplers.sample`.

What is given is an image and a mask, an image alone, or a measurement y = A x (`operators`). `consistent` and
`pseudoinverse_guided` change what a denoiser predicts, and so work with every sampler. `replaced` and `posterior_sampling`
change where a step ends; they need a sampler whose state is x itself. The rest chooses where sampling begins.

    samplers.sample(consistent(denoise, y, operator), sampler, x_T, grid, keys)                       an inverse problem
    samplers.sample(denoise, replaced(sampler, image, mask), x_T, process.level(grids.jumps(times)), keys)       RePaint
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax import errors, guidance, operators, process, samplers
from diffusion_jax.denoiser import Denoiser, Prediction, limit_x_0, predicting
from diffusion_jax.errors import UserError
from diffusion_jax.operators import Operator
from diffusion_jax.process import Level
from diffusion_jax.samplers import Interval, Noise, Sampler, Samples


def consistent(denoise: Denoiser, y: Array, operator: Operator, *, recompute_eps: bool = True) -> Denoiser:
    """Returns the denoiser with x_0 = A^+ y + (I - A^+ A) x_0, so that A x_0 = y. [Wang et al. 2023, DDNM]

    For y without noise; `pseudoinverse_guided` takes noise. It costs no gradient. Limits of x_0 that recompute eps belong
    inside, where `recompute_eps` is False.

    Args:
        y: A x, [B, ...] or [1, ...]. For `operators.known` the image itself: its free pixels have no effect.
        recompute_eps: whether eps follows from the changed x_0. Then what y determines is a draw of q(x_s | x_0) at each
            level s, with every sampler. Exact where the rest does not depend on y; else the rest knows y by x_t alone, which
            at high noise says little. False is for `ddim` with eta below 1: x_t then settles where the denoiser itself says
            A x_0 = y, which is exact for Gaussian data in the limit of many steps. Solvers of eps of order 2 or more fail
            with it.

    Raises:
        UserError: when called, where y and the operator do not fit the images.
    """

    def project(x_0: Array) -> Array:
        operators.check_measurement(y, operator, x_0)
        # in this order, so that rounding leaves known pixels y
        return operator.pseudoinverse(y) + (x_0 - operator.pseudoinverse(operator.apply(x_0)))

    return limit_x_0(denoise, project, recompute_eps=recompute_eps)


def pseudoinverse_guided(denoise: Denoiser, y: Array, operator: Operator, *, noise_std: float = 0.0) -> Denoiser:
    """Returns the denoiser of images given y = A x + noise_std z, x_0 in x_t taken as N(D, r^2 I). [Song et al. 2023, PiGDM]

    D + sigma^2 / alpha (dD / dx_t)^T A^T (r^2 A A^T + noise_std^2 I)^-1 (y - A D), r^2 = sigma^2 / (sigma^2 + alpha^2)

    with eps so that both still explain x_t: the score given y, in any process. The paper's algorithm also weighs it over
    the steps. Exact for data N(m, I). A level without signal (alpha = 0) is not guided. An evaluation includes its
    gradient: about three times the cost. A limit of x_0 belongs outside, `clip_x_0(pseudoinverse_guided(...))`: a limited
    value has gradient 0, and then guides nothing.

    Args:
        y: as for `consistent`.
        noise_std: standard deviation of the noise of y, at least 0.

    Raises:
        UserError: for a noise_std below 0; when called, where y and the operator do not fit the images.
    """
    denoise = predicting(denoise)
    if not noise_std >= 0:
        raise UserError(f"noise_std = {noise_std} is not allowed; it must be at least 0.")

    def guided(x_t: Array, level: Level) -> Prediction:
        operators.check_measurement(y, operator, x_t)
        measured, pull_back, prediction = jax.vjp(_measuring(denoise, operator, level), x_t, has_aux=True)
        r_squared = process.expand(level.sigma**2 / (level.sigma**2 + level.alpha**2), x_t)
        [gradient] = pull_back(operator.solve(y - measured, r_squared, noise_std**2))
        return guidance.led(prediction, gradient, level)

    return guided


def _measuring(denoise: Denoiser, operator: Operator, level: Level):
    """Returns x_t -> (A x_0, the prediction), for derivatives."""

    def measured(x_t: Array) -> tuple[Array, Prediction]:
        prediction = denoise(x_t, level)
        return operator.apply(prediction.x_0), prediction

    return measured


def posterior_sampling(sampler: Sampler, y: Array, operator: Operator, *, scale: float) -> Sampler:
    """Returns the sampler whose steps end at x_s - scale grad_{x_t} |y - A x_0(x_t)|. [Chung et al. 2023, DPS, algorithm 1]

    The norm is not squared: their step size zeta' / |y - A x_0|, up to its factor 2. Each step takes one evaluation more,
    with its gradient.

    Args:
        sampler: one whose state is x, such as `samplers.ancestral` (theirs), `ddim` or `heun`.
        y: as for `consistent`; it may be noisy.
        scale: zeta. It acts once a step: a grid of more steps needs a smaller one (docs/editing.md).

    Raises:
        UserError: for another sampler; when called, where y and the operator do not fit the images.
    """
    samplers.check_forgets(sampler, "posterior_sampling")

    def step(denoise: Denoiser, x: Array, interval: Interval, noise: Noise) -> tuple[Array, Array | int]:
        operators.check_measurement(y, operator, x)

        def distances(x_t: Array) -> Array:
            away = y - _measuring(denoise, operator, interval.t)(x_t)[0]
            squares = jnp.sum(away**2, axis=process.value_axes(away))
            return jnp.sum(jnp.sqrt(jnp.maximum(squares, jnp.finfo(x.dtype).tiny)))  # the gradient at distance 0 is 0

        x_s, num_evaluations = sampler.step(denoise, x, interval, noise)
        return x_s - scale * jax.grad(distances)(x), num_evaluations + 1

    return Sampler(step)


def replaced(sampler: Sampler, image: Array, mask: Array) -> Sampler:
    """Returns the sampler whose steps end with the known pixels drawn from q(x_s | image). [Lugmayr et al. 2022, RePaint]

    At the data they are the image exactly. A step up in noise (`grids.jumps`) renews all pixels' noise, and costs nothing.

    Args:
        sampler: one whose state is x, such as `samplers.ancestral` or `ddim`.
        image: x_0, [B, H, W, C] or [1, H, W, C]; its free pixels have no effect.
        mask: 1 where a pixel is free, 0 where it is known. As for `operators.known`.

    Raises:
        UserError: for another sampler or other values of the mask; when called, where image or mask do not fit.
    """
    samplers.check_forgets(sampler, "replaced")
    operators.check_mask(mask)

    def step(denoise: Denoiser, x: Array, interval: Interval, noise: Noise) -> tuple[Array, Array]:
        operators.check_mask(mask, x.shape)
        operators.check_image(image, x.shape)
        t, s = interval.t, interval.s

        def up() -> tuple[Array, Array]:
            return process.renoise(x, t, s, noise(0)), jnp.zeros((), jnp.int32)

        def down() -> tuple[Array, Array]:
            x_s, num_evaluations = sampler.step(denoise, x, interval, noise)
            drawn = process.diffuse(jnp.broadcast_to(image, x.shape).astype(x.dtype), s, noise(2))  # `churn` takes noise(1)
            return jnp.where(mask, x_s, drawn), jnp.asarray(num_evaluations, jnp.int32)

        return jax.lax.cond(process.log_snr_gap(s, t) < 0, up, down)

    return Sampler(step)


def padded(image: Array, *, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0) -> tuple[Array, Array]:
    """Returns (canvas, mask) for outpainting: images in a larger canvas, and a mask that is 1 beside them. # mask [H, W, 1]

    Args:
        image: [B, h, w, C].
        top, bottom, left, right: pixels added on that side.
    """
    for name, value in {"top": top, "bottom": bottom, "left": left, "right": right}.items():
        errors.check_whole(name, value, 0)
    sides = ((top, bottom), (left, right), (0, 0))
    mask = jnp.pad(jnp.zeros((*image.shape[1:3], 1), bool), sides, constant_values=True)
    return jnp.pad(image, ((0, 0), *sides)), mask


def from_image(
    denoise: Denoiser, sampler: Sampler, image: Array, noise: Array, grid: Level, keys: Array, *, strength: float
) -> Samples:
    """Returns image-to-image: from x_t ~ q(x_t | image) down the last `strength` of the grid. [Meng et al. 2022, SDEdit]

    Strength 0 is the image itself, strength 1 sampling from alpha_T image + sigma_T noise. With the noise of one image
    repeated, keys that differ and a sampler that draws, it is stochastic reconstruction. [Ho et al. 2020, figure 7]

    Args:
        image: x_0, [B, ..., C].
        noise: that of x_t, standard normal, like the image.
        grid: falling.
        keys: [B].
        strength: which share of the steps is taken, in [0, 1], to the nearest step.

    Raises:
        UserError: for a strength outside [0, 1]; by others, ValueError, for arrays that do not fit.
    """
    errors.check_share("strength", strength)
    num_steps = len(grid.alpha) - 1
    first = num_steps - round(strength * num_steps)
    rest = process.rows(grid, np.arange(first, num_steps + 1))
    x_t = process.diffuse(image, process.rows(rest, 0), noise)
    if first == num_steps:
        return Samples(image, jnp.zeros((), jnp.int32), jnp.zeros((0, *image.shape), image.dtype))
    return samplers.sample(denoise, sampler, x_t, rest, keys)


def mixed(
    denoise: Denoiser,
    sampler: Sampler,
    images: Sequence[Array],
    noises: Sequence[Array],
    weights: Array,
    grid: Level,
    keys: Array,
    *,
    strength: float,
) -> Samples:
    """Returns images between two: both diffused to a level t, mixed there in lines, sampled down. [Ho et al. 2020, figure 8]

    Args:
        images: two, each [1, ..., C] or [N, ..., C].
        noises: theirs, likewise; one noise for both keeps its variance in between, where that of two falls to half.
        weights: of the second image, in [0, 1], [N].
        grid, keys, strength: as for `from_image`, for N images.
    """
    image, noise = (_line(*pair, _of_images(weights, pair[0])) for pair in (images, noises))
    return from_image(denoise, sampler, image, noise, grid, keys, strength=strength)


def _line(one: Array, other: Array, weights: Array) -> Array:
    return (1 - weights) * one + weights * other


def _of_images(weights: Array, x: Array) -> Array:
    """Returns weights as they multiply images. # [N, 1, ..., 1]"""
    weights = jnp.asarray(weights, x.dtype)
    if weights.ndim != 1:
        raise UserError(f"weights of {list(weights.shape)} are not allowed; they must be [N], one for each image between.")
    return weights.reshape(-1, *[1] * (x.ndim - 1))


def inverted(denoise: Denoiser, sampler: Sampler, image: Array, grid: Level) -> Samples:
    """Returns the latents of images: the probability flow upwards, from the grid's least noisy level to its first.

    The image stands for x at that level. The same sampler on the same grid gives the image back, but for the solver's error.
    [Song et al. 2021, DDIM, section 5.4]

    Args:
        sampler: a solver of the flow, such as `samplers.heun()`.
        image: x_0, [B, ..., C].
        grid: falling, as for sampling, and not traced; a last level that is the data is left out.

    Raises:
        UserError: for a sampler that draws noise.
    """
    num_rows = len(grid.alpha) - int(grid.sigma[-1] == 0)
    up = process.rows(grid, np.arange(num_rows)[::-1])
    keys = jax.random.split(jax.random.key(0), len(image))  # for no draw
    return samplers.sample(denoise, sampler._replace(step=_without_noise(sampler)), image, up, keys)


def _without_noise(sampler: Sampler):
    def refused(k: int) -> Array:
        raise UserError("inversion is impossible with a sampler that draws noise; use heun, or ddim with eta = 0.")

    return lambda denoise, state, interval, noise: sampler.step(denoise, state, interval, refused)


def interpolated(denoise: Denoiser, sampler: Sampler, images: Sequence[Array], weights: Array, grid: Level) -> Samples:
    """Returns images between two: from the arc between their latents. [Song et al. 2021, DDIM, section 5.3]

    Args:
        sampler: as for `inverted`.
        images: two, each [1, ..., C], or [N, ..., C] of the same number.
        weights: of the second image, in [0, 1], [N].
        grid: falling.
    """
    latents = inverted(denoise, sampler, jnp.concatenate(images), grid)
    found = from_latents(denoise, sampler, jnp.split(latents.x, 2), weights, grid)
    return found._replace(num_evaluations=found.num_evaluations + latents.num_evaluations)


def from_latents(denoise: Denoiser, sampler: Sampler, latents: Sequence[Array], weights: Array, grid: Level) -> Samples:
    """Returns images from the arc between two latents, which `inverted` finds; arguments as for `interpolated`."""
    keys = jax.random.split(jax.random.key(0), len(weights))  # for no draw
    return samplers.sample(denoise, sampler, slerp(*latents, weights), grid, keys)


def slerp(one: Array, other: Array, weights: Array) -> Array:
    """Returns points on the arcs from one to the other, sin((1 - w) a) / sin(a) one + sin(w a) / sin(a) other. # [N, ...]

    a is the angle between the two, of each image. Where they are parallel the arc is a line. [Shoemake 1985]

    Args:
        one, other: [1, ...] or [N, ...].
        weights: [N].
    """
    axes = process.value_axes(one)
    norms = [jnp.sqrt(jnp.sum(x**2, axis=axes, keepdims=True)) for x in (one, other)]
    cosine = jnp.sum(one * other, axis=axes, keepdims=True) / jnp.maximum(norms[0] * norms[1], jnp.finfo(one.dtype).tiny)
    angle = jnp.arccos(jnp.clip(cosine, -1, 1))
    is_arc = jnp.sin(angle) > jnp.sqrt(jnp.finfo(one.dtype).eps)
    weights, angle = _of_images(weights, one), jnp.where(is_arc, angle, 1)
    arc = (jnp.sin((1 - weights) * angle) * one + jnp.sin(weights * angle) * other) / jnp.sin(angle)
    return jnp.where(is_arc, arc, _line(one, other, weights))
