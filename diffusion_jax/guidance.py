"""Guidance: denoisers that lean towards a class, away from a worse network, or towards whatever a function measures.

Each function takes a denoiser and returns one, so that they compose in the order written; limits on x_0 go outermost. Each
moves x_0 by some delta, and eps by -alpha / sigma delta, so that both still explain x_t: see `shifted`.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax import errors, process, samplers
from diffusion_jax.denoiser import Denoiser, LogProb, Prediction, VarianceKind, predicting, reverse_log_variance
from diffusion_jax.process import Level
from diffusion_jax.samplers import Interval, Noise, Sampler

Scale = float | Callable[[Level], Array]  # a number, or a function of the level -> [] or [B]
# (the better prediction, the worse one, scale, level) -> delta, the change of the better one's x_0
Extrapolation = Callable[[Prediction, Prediction, Array, Level], Array]


def shifted(prediction: Prediction, delta: Array, level: Level) -> Prediction:
    """Returns the prediction with x_0 + delta and eps - alpha / sigma delta, which still explain the same x_t.

    So the score changes by alpha / sigma^2 delta.
    """
    ratio = process.expand(level.alpha / level.sigma, delta)
    return prediction._replace(x_0=prediction.x_0 + delta, eps=prediction.eps - ratio * delta)


def led(prediction: Prediction, gradient: Array, level: Level) -> Prediction:
    """Returns the prediction with a gradient added to its score: x_0 + sigma^2 / alpha times it, 0 where alpha is 0."""
    ratio = jnp.where(level.alpha > 0, level.sigma**2 / jnp.where(level.alpha > 0, level.alpha, 1), 0)
    return shifted(prediction, process.expand(ratio, gradient) * gradient, level)


def interval(scale: float, *, low: float = 0.0, high: float = math.inf) -> Scale:
    """Returns the scale where low < sigma / alpha <= high, and 1 elsewhere. [Kynkaanniemi et al. 2024]

    Guidance at high noise costs diversity, and at low noise does little. Outside the interval one evaluation is enough, and
    one is made.

    Args:
        scale: inside the interval.
        low: sigma / alpha where guidance ends. In EDM's process that is sigma.
        high: sigma / alpha where guidance begins.
    """
    if not 0 <= low < high:
        raise ValueError(f"low = {low!r} with high = {high!r} are not allowed; they must be 0 <= low < high.")

    def of_level(level: Level) -> Array:
        ratio = level.sigma / level.alpha
        return jnp.where((low < ratio) & (ratio <= high), scale, 1.0)

    return of_level


def linear(better: Prediction, worse: Prediction, scale: Array, level: Level) -> Array:
    """Returns (scale - 1) (x_0 - x_0 of the worse): on the line through both. [Ho & Salimans 2022, eq. 6]"""
    return (scale - 1) * (better.x_0 - worse.x_0)


def rescaled(*, fraction: float = 0.7) -> Extrapolation:
    """Returns `linear`, scaled so that the network's output keeps its standard deviation. [Lin et al. 2023, section 3.4]

    Large scales make images too bright and too colourful. The output a x_0 + b eps is multiplied by
    fraction std(better) / std(guided) + 1 - fraction, of each image.

    Args:
        fraction: of the way, phi of the paper; 0 is `linear`.
    """
    errors.check_share("fraction", fraction)

    def extrapolate(better: Prediction, worse: Prediction, scale: Array, level: Level) -> Array:
        delta = linear(better, worse, scale, level)
        a, b = better.coefficients or (1.0, 0.0)  # where no network made the prediction, x_0 is the output
        output, guided = (_output(each, a, b) for each in (better, shifted(better, delta, level)))
        axes = process.value_axes(output)
        ratio = jnp.std(output, axes, keepdims=True) / jnp.std(guided, axes, keepdims=True)
        slope = level.sigma / (level.sigma * a - level.alpha * b)  # of x_0 against the output, where x_t stays
        return delta + process.expand(slope, delta) * fraction * (ratio - 1) * guided

    return extrapolate


def _output(prediction: Prediction, a: Array, b: Array) -> Array:
    """Returns a x_0 + b eps."""
    return process.expand(a, prediction.x_0) * prediction.x_0 + process.expand(b, prediction.eps) * prediction.eps


def projected(*, parallel: float = 0.0, max_norm: float = math.inf) -> Extrapolation:
    """Returns adaptive projected guidance: `linear` without what only makes x_0 larger. [Sadat et al. 2024]

    The difference of both x_0 is split along the better one, which saturates colours, and across it. The paper's momentum
    is left out: it needs a memory from step to step, which a denoiser has not.

    Args:
        parallel: how much of the part along x_0 is kept, eta of the paper; 1 with no `max_norm` is `linear`.
        max_norm: largest Euclidean norm of the difference, of each image, r of the paper.
    """
    errors.check_share("parallel", parallel)

    def extrapolate(better: Prediction, worse: Prediction, scale: Array, level: Level) -> Array:
        axes, difference = process.value_axes(better.x_0), better.x_0 - worse.x_0
        norm = jnp.sqrt(jnp.sum(difference**2, axes, keepdims=True))
        difference = difference * jnp.minimum(1, max_norm / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny))
        along = jnp.sum(difference * better.x_0, axes, keepdims=True) / jnp.sum(better.x_0**2, axes, keepdims=True)
        return (scale - 1) * (difference - (1 - parallel) * along * better.x_0)

    return extrapolate


def autoguidance(denoise: Denoiser, worse: Denoiser, *, scale: Scale, extrapolate: Extrapolation = linear) -> Denoiser:
    """Returns the denoiser led away from a worse one: x_0 of the worse + scale times the difference.

    [Karras et al. 2024, autoguidance]

    Args:
        denoise: of the network that shall draw.
        worse: any second denoiser: of an earlier checkpoint, of a smaller network. With the same network and no label it is
            classifier-free guidance as two batches; see `classifier_free`.
        scale: 1 is `denoise` alone, which is then the only one evaluated.
        extrapolate: how both become one: `linear`, `rescaled(...)`, `projected(...)`.
    """
    denoise, worse = predicting(denoise), predicting(worse)
    return _guided(denoise, lambda x_t, level: (denoise(x_t, level), worse(x_t, level)), scale, extrapolate)


def classifier_free(denoise: Denoiser, both: Denoiser, *, scale: Scale, extrapolate: Extrapolation = linear) -> Denoiser:
    """Returns classifier-free guidance, both predictions by one batch of twice the images. [Ho & Salimans 2022, eq. 6]

    x_0 without a label + scale (x_0 with it - x_0 without); the paper's w is scale - 1.

    Args:
        denoise: of the network, bound to what images shall be.
        both: of the same network, bound to `paired` conditions.
        scale: 1 is `denoise` alone, which is then the only one evaluated, at half the cost.
        extrapolate: how both become one: `linear`, `rescaled(...)`, `projected(...)`.

    Example:
        >>> def network(x_t, c_noise, label):  # knows classes 0 and 1, and 2 for none
        ...     return x_t * label[:, None, None, None]
        >>> def bound_to(label):
        ...     return dj.make_denoiser(lambda x_t, c_noise: network(x_t, c_noise, label), dj.EPS)
        >>> label, null = jnp.array([0, 1]), jnp.array([2, 2])
        >>> denoise = bound_to(label)
        >>> both = bound_to(dj.guidance.paired(label, null))
        >>> guided = dj.clip_x_0(dj.guidance.classifier_free(denoise, both, scale=3.0))
        >>> guided(jnp.ones((2, 8, 8, 1)), dj.chain(dj.linear(1000)).level(500)).x_0.shape
        (2, 8, 8, 1)
    """
    denoise, both = predicting(denoise), predicting(both)

    def pair(x_t: Array, level: Level) -> tuple[Prediction, Prediction]:
        twice = jax.tree.map(lambda column: jnp.repeat(column, 2, axis=0) if jnp.ndim(level.alpha) else column, level)
        prediction = both(jnp.repeat(x_t, 2, axis=0), twice)
        return tuple(jax.tree.map(lambda leaf, i=i: leaf[i::2] if jnp.ndim(leaf) else leaf, prediction) for i in (0, 1))

    return _guided(denoise, pair, scale, extrapolate)


def paired(cond: Any, other: Any) -> Any:
    """Returns conditions of twice as many images, in turn one of each: a pytree of arrays [2 B, ...].

    So that each device of a mesh has both predictions of its images, and none is sent.

    Args:
        cond: what images shall be, a pytree of arrays [B, ...].
        other: what they shall not be, of the same shapes: no label, or a negative one.
    """
    return jax.tree.map(lambda one, two: jnp.stack([one, two], axis=1).reshape(-1, *jnp.shape(one)[1:]), cond, other)


def _guided(
    denoise: Denoiser,
    pair: Callable[[Array, Level], tuple[Prediction, Prediction]],
    scale: Scale,
    extrapolate: Extrapolation,
) -> Denoiser:
    """Returns the denoiser that makes both predictions, but where the scale is 1."""
    _check_scale(scale)
    if not callable(scale) and scale == 1:
        return denoise

    def guided(x_t: Array, level: Level) -> Prediction:
        factor = _factor(scale, level, x_t)
        better, worse = pair(x_t, level)
        return shifted(better, extrapolate(better, worse, factor, level), level)

    def where_needed(x_t: Array, level: Level) -> Prediction:
        is_off = jnp.all(_factor(scale, level, x_t) == 1)
        return jax.lax.cond(is_off, lambda: denoise(x_t, level), lambda: guided(x_t, level))

    return where_needed if callable(scale) else guided


def _factor(scale: Scale, level: Level, x_t: Array) -> Array:
    """Returns the scale at a level, with the axes that broadcast it against x_t."""
    return process.expand(jnp.asarray(scale(level) if callable(scale) else scale, x_t.dtype), x_t)


def classifier(denoise: Denoiser, log_prob: LogProb, *, scale: Scale) -> Denoiser:
    """Returns classifier guidance through the score: eps - scale sigma grad log p(y | x_t). [Dhariwal & Nichol 2021, alg. 2]

    Args:
        denoise: with or without a label.
        log_prob: of a classifier that was trained on noisy images, bound to the wanted labels, (x_t, level) -> [B]; see
            `denoiser.make_log_prob`.
        scale: of the gradient; here 0 is off, and then the classifier is not evaluated. A level without signal, alpha = 0,
            is not guided: x_t tells nothing of y there.
    """
    denoise = predicting(denoise)

    def gradient(x_t: Array, level: Level) -> tuple[Array, Prediction]:
        return _gradient(log_prob, x_t, level), denoise(x_t, level)

    return _by_score(denoise, gradient, scale)


def universal(denoise: Denoiser, loss: Callable[[Array], Array], *, scale: Scale) -> Denoiser:
    """Returns guidance that lowers any function of x_0: -loss(x_0 of x_t) is the log-probability. [Bansal et al. 2023]

    The gradient goes through the network: a step costs about three evaluations of it, and the memory of training.

    Args:
        loss: x_0 [B, ..., C] -> what shall be small, [B], such as a distance to what is wanted.
        scale: as for `classifier`.
    """
    denoise = predicting(denoise)

    def gradient(x_t: Array, level: Level) -> tuple[Array, Prediction]:
        def negative(x_t: Array) -> tuple[Array, Prediction]:
            prediction = denoise(x_t, level)
            return -jnp.sum(_of_images(loss(prediction.x_0), x_t, "loss")), prediction

        return jax.grad(negative, has_aux=True)(x_t)

    return _by_score(denoise, gradient, scale)


def _by_score(denoise: Denoiser, gradient: Callable[[Array, Level], tuple[Array, Prediction]], scale: Scale) -> Denoiser:
    """Returns the denoiser whose score has scale times a gradient added."""
    _check_scale(scale)
    if not callable(scale) and scale == 0:
        return denoise

    def guided(x_t: Array, level: Level) -> Prediction:
        ascent, prediction = gradient(x_t, level)
        return led(prediction, _factor(scale, level, x_t) * ascent, level)

    return guided


def ancestral_toward(log_prob: LogProb, *, scale: Scale, variance: VarianceKind) -> Sampler:
    """Returns `samplers.ancestral` whose mean moves by scale times variance times grad log p(y | x_t).

    Classifier guidance for noisy steps; `classifier` suits every sampler. The last step, to s = 0, has no noise, and does
    not move. [Dhariwal & Nichol 2021, algorithm 1]

    Args:
        log_prob: as for `classifier`; its gradient is taken at x_t, as in the paper's code.
        scale: of the gradient; 0 is off.
        variance: as for `samplers.ancestral`.
    """
    _check_scale(scale)
    unguided = samplers.ancestral(variance=variance)

    def step(denoise: Denoiser, x: Array, interval: Interval, noise: Noise) -> tuple[Array, int]:
        t, s = interval.t, interval.s
        prediction = denoise(x, t)
        x_s, _ = unguided.step(lambda x, level: prediction, x, interval, noise)
        log_variance = reverse_log_variance(prediction.variance, x, t, s, variance, decoder=0.0)
        return x_s + _factor(scale, t, x) * process.std(log_variance, s) ** 2 * _gradient(log_prob, x, t), 1

    return Sampler(step)


def _gradient(log_prob: LogProb, x_t: Array, level: Level) -> Array:
    return jax.grad(lambda x_t: jnp.sum(_of_images(log_prob(x_t, level), x_t, "log_prob")))(x_t)


def _of_images(values: Array, x_t: Array, name: str) -> Array:
    """Returns values of a user's function; ValueError where there is not one for each image."""
    if jnp.shape(values) != x_t.shape[:1]:
        raise ValueError(f"{name} gives {errors.shown(values)}; it must be one number for each image, [{len(x_t)}].")
    return values


def _check_scale(scale: Scale) -> None:
    is_number = isinstance(scale, int | float | np.number) and not isinstance(scale, bool)
    if not callable(scale) and not (is_number and 0 <= scale < math.inf):
        raise ValueError(
            f"scale = {errors.shown(scale)} is not allowed; it must be a number from 0, or a function of the level."
        )
