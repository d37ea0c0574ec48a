"""Networks as denoisers: whatever a network predicts becomes the pair (x_0, eps)."""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax import process
from diffusion_jax.process import Level

Network = Callable[[Array, Array], Array]  # (x_t [B, H, W, C], condition [B]) -> output
Coefficients = Callable[[Level], tuple[Array, Array]]  # level -> (a, b), where output = a x_0 + b eps
Predicts = Literal["eps", "x_0", "v", "velocity", "score", "edm"] | Coefficients
VarianceKind = Literal["small", "large", "learned", "learned_range"]


class Prediction(NamedTuple):
    """What is believed about x_t = alpha x_0 + sigma eps.

    Attributes:
        x_0: the image, [B, H, W, C].
        eps: the noise, [B, H, W, C].
        variance: the network's raw output for the reverse variance, [B, H, W, C], or None; see `reverse_log_variance`.
    """

    x_0: Array
    eps: Array
    variance: Array | None = None


Denoiser = Callable[[Array, Level], Prediction]  # (x_t [B, H, W, C], level [] or [B]) -> Prediction


def coefficients(predicts: Predicts, level: Level) -> tuple[Array, Array]:
    """Returns (a, b) of a parameterization: output = a x_0 + b eps.

    eps and x_0 as in [Ho et al. 2020, section 3.2]; v = alpha eps - sigma x_0 as in [Salimans & Ho 2022, section 4];
    velocity = eps - x_0 as in [Liu et al. 2022, rectified flow]; score = -eps / sigma as in [Song et al. 2021, score SDE];
    `edm`.

    Raises:
        ValueError: for an unknown name; the known ones are listed.
    """
    if callable(predicts):
        return predicts(level)
    zero, one = jnp.zeros_like(level.alpha), jnp.ones_like(level.alpha)
    known = {
        "eps": (zero, one),
        "x_0": (one, zero),
        "v": (-level.sigma, level.alpha),
        "velocity": (-one, one),
        "score": (zero, -1 / level.sigma),
        "edm": edm(level),
    }
    if predicts not in known:
        raise ValueError(f"predicts = {predicts!r} is unknown; known: {', '.join(known)}.")
    return known[predicts]


def edm(level: Level, *, sigma_data: float = 0.5) -> tuple[Array, Array]:
    """Returns (a, b) of the output F of unit variance in x_0 = c_skip x_t + c_out F. [Karras et al. 2022, EDM, table 1]

    Written for any alpha: c_skip = alpha sigma_data^2 / V and c_out = sigma sigma_data / sqrt(V), V the variance of x_t.
    With alpha^2 + sigma^2 = 1 and sigma_data = 1 it is -v. Its network sees `edm_input_scale` times x_t.
    """
    scale = edm_input_scale(level, sigma_data=sigma_data)
    return scale * level.sigma / sigma_data, -scale * level.alpha * sigma_data


def edm_input_scale(level: Level, *, sigma_data: float = 0.5) -> Array:
    """Returns c_in = 1 / sqrt(alpha^2 sigma_data^2 + sigma^2), so that the input has unit variance. [same table]"""
    return 1 / jnp.sqrt((level.alpha * sigma_data) ** 2 + level.sigma**2)


def make_denoiser(
    network: Network,
    *,
    predicts: Predicts,
    learned_variance: bool = False,
    input_scale: Callable[[Level], Array] | None = None,
) -> Denoiser:
    """Returns a network as a denoiser, by solving for x_0 and eps

        x_t    = alpha x_0 + sigma eps
        output = a     x_0 + b     eps

    Args:
        network: any function (x_t, condition) -> output; x_t [B, H, W, C], condition [B], output shaped like x_t.
        predicts: what the output is. At a level that keeps nothing of the image, alpha = 0, 'eps' and 'score' say nothing of
            x_0, and the prediction is NaN: use 'v' or 'x_0' there.
        learned_variance: whether the output has a second half of channels, for the variance.
        input_scale: of the x_t that the network sees, such as `edm_input_scale`; None for x_t itself.

    Raises:
        ValueError: for an unknown `predicts`; the known ones are listed. When called: for an output of another shape.
    """
    if not callable(predicts):
        jax.eval_shape(lambda level: coefficients(predicts, Level(*[level] * 5)), 1.0)

    def denoise(x_t: Array, level: Level) -> Prediction:
        condition = jnp.broadcast_to(level.condition, x_t.shape[:1])
        seen = x_t if input_scale is None else process.expand(input_scale(level), x_t) * x_t
        output = network(seen, condition).astype(x_t.dtype)
        if output.shape != (expected := (*x_t.shape[:-1], (1 + learned_variance) * x_t.shape[-1])):
            raise ValueError(
                f"the network's output {list(output.shape)} is not allowed; for this x_t it must be {list(expected)}."
            )
        output, variance = jnp.split(output, 2, axis=-1) if learned_variance else (output, None)
        a, b = coefficients(predicts, level)
        scale = 1 / (level.alpha * b - level.sigma * a)
        x_0 = process.expand(scale * b, x_t) * x_t - process.expand(scale * level.sigma, x_t) * output
        eps = process.expand(scale * level.alpha, x_t) * output - process.expand(scale * a, x_t) * x_t
        return Prediction(x_0, eps, variance)

    return denoise


def reverse_log_variance(
    learned: Array | None, x_t: Array, t: Level, s: Level, kind: VarianceKind, *, first: Array | float = -jnp.inf
) -> Array:
    """Returns the log-variance of the reverse step from t to s, in a shape that broadcasts against x_t.

    'small' and 'large' are `process.log_variance`; 'learned' is the network's output itself; 'learned_range' is
    f log large + (1 - f) log small with f = (output + 1) / 2. [Nichol & Dhariwal 2021, eq. 15]

    Args:
        learned: `Prediction.variance`.
        x_t: for its shape.
        t: from.
        s: to.
        kind: which.
        first: what 'small' and 'large' are where s is the data: the posterior is a point there, of log-variance -inf. For a
            likelihood Ho et al. take the posterior's of the step above, `likelihood.first_log_variance`.

    Raises:
        ValueError: for an unknown kind, or where a learned variance is asked of a network that has none.
    """
    check_variance(kind)
    if kind == "learned":
        return _needed(learned, kind)
    is_last = s.sigma == 0
    small = process.expand(jnp.where(is_last, first, process.log_variance(t, s, "small")), x_t)
    large = process.log_variance(t, s, "large")
    if kind == "learned_range":
        fraction = (_needed(learned, kind) + 1) / 2
        return fraction * process.expand(large, x_t) + (1 - fraction) * small
    return {"small": small, "large": process.expand(jnp.where(is_last, first, large), x_t)}[kind]


def check_variance(kind: str) -> None:
    """Raises ValueError for a name that is not one of `VarianceKind`; the known ones are listed."""
    if kind not in get_args(VarianceKind):
        raise ValueError(f"variance = {kind!r} is unknown; known: {', '.join(get_args(VarianceKind))}.")


def _needed(learned: Array | None, kind: str) -> Array:
    if learned is None:
        raise ValueError(f"variance = {kind!r} needs a network that predicts one; use 'small' or 'large', or train it so.")
    return learned


def limit_x_0(
    denoise: Denoiser, limit: Callable[[Array], Array], *, eps: Literal["follows", "kept"] = "follows"
) -> Denoiser:
    """Returns the denoiser with x_0 limited, such as to the range of images. Apply it outermost.

    Args:
        denoise: any denoiser.
        limit: `clip` or `dynamic_threshold(...)`.
        eps: 'follows' from the limited x_0, so that both still explain x_t, as in Ho et al.'s and improved DDPM's samplers;
            or is 'kept', as in diffusers' DDIM.
    """

    def limited(x_t: Array, level: Level) -> Prediction:
        prediction = denoise(x_t, level)
        x_0 = limit(prediction.x_0)
        if eps == "kept":
            return prediction._replace(x_0=x_0)
        following = (x_t - process.expand(level.alpha, x_t) * x_0) / process.expand(level.sigma, x_t)
        return prediction._replace(x_0=x_0, eps=following)

    return limited


def clip(x_0: Array, *, bound: float = 1.0) -> Array:
    """Returns x_0 clipped to [-bound, bound]. [Ho et al. 2020, the sampler of their code]"""
    return jnp.clip(x_0, -bound, bound)


def dynamic_threshold(x_0: Array, *, quantile: float = 0.995, max_bound: float = jnp.inf) -> Array:
    """Returns x_0 clipped to [-s, s] and divided by s, a quantile of each image's |x_0|, at least 1. [Saharia et al. 2022]

    Args:
        x_0: [B, H, W, C].
        quantile: of |x_0| over an image, in (0, 1).
        max_bound: the most that s may be.
    """
    s = jnp.quantile(jnp.abs(x_0), quantile, axis=(1, 2, 3), keepdims=True)
    s = jnp.clip(s, 1, max_bound)
    return jnp.clip(x_0, -s, s) / s


def clip_x_0(denoise: Denoiser) -> Denoiser:
    """Returns the denoiser with x_0 clipped to [-1, 1] and eps following: `limit_x_0` as it is most often wanted."""
    return limit_x_0(denoise, clip)
