"""Networks as denoisers: whatever a network predicts becomes the pair (x_0, eps)."""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp
from jax import Array

from diffusion_jax import errors, process
from diffusion_jax.process import Level

Network = Callable[[Array, Array], Array]  # (x_t [B, ..., C], c_noise [B], or [B, 2] after `process.jump`) -> output
VarianceKind = Literal["small", "large", "learned", "learned_range"]


class Parameterization(NamedTuple):
    """What a network's output is: output = a x_0 + b eps, for an input of `input_scale` times x_t."""

    coefficients: Callable[[Level], tuple[Array, Array]]  # level -> (a, b)
    input_scale: Callable[[Level], Array] = lambda level: jnp.ones_like(level.alpha)  # level -> factor of x_t, EDM's c_in


class Prediction(NamedTuple):
    """A network's estimate of x_0 and eps in x_t = alpha x_0 + sigma eps."""

    x_0: Array  # the image, [B, ..., C]
    eps: Array  # the noise, [B, ..., C]
    # (a, b) of the network's output a x_0 + b eps, [] or [B] each; None if it is not from a network
    coefficients: tuple[Array, Array] | None = None
    variance: Array | None = None  # the raw output for the reverse variance, [B, ..., C]; see `reverse_log_variance`


Denoiser = Callable[[Array, Level], Prediction]  # (x_t [B, ..., C], level [] or [B]) -> Prediction
LogProb = Callable[[Array, Level], Array]  # (x_t [B, ..., C], level) -> log p(y | x_t), [B]


def _constant(a: float, b: float) -> Parameterization:
    return Parameterization(lambda level: (jnp.full_like(level.alpha, a), jnp.full_like(level.alpha, b)))


EPS = _constant(0, 1)  # [Ho et al. 2020, section 3.2]
X_0 = _constant(1, 0)  # [same]
V = Parameterization(lambda level: (-level.sigma, level.alpha))  # alpha eps - sigma x_0 [Salimans & Ho 2022, section 4]
VELOCITY = _constant(-1, 1)  # eps - x_0 [Liu et al. 2022, rectified flow]
SCORE = Parameterization(lambda level: (jnp.zeros_like(level.alpha), -1 / level.sigma))  # [Song et al. 2021, score SDE]
SCALED_SCORE = _constant(0, -1)  # sigma times the score: what NCSN++ divides by sigma [same]


def edm(*, sigma_data: float = 0.5) -> Parameterization:
    """Returns EDM's: x_0 = c_skip x_t + c_out output, for an input of c_in x_t. [Karras et al. 2022, EDM, table 1]

    Written for any alpha: with V = alpha^2 sigma_data^2 + sigma^2, the variance of x_t, c_in = 1 / sqrt(V),
    c_skip = alpha sigma_data^2 / V and c_out = sigma sigma_data / sqrt(V). So the input and the output have unit variance.
    With alpha^2 + sigma^2 = 1 and sigma_data = 1 it is -v.

    Args:
        sigma_data: standard deviation of the data.
    """

    def c_in(level: Level) -> Array:
        return 1 / jnp.sqrt((level.alpha * sigma_data) ** 2 + level.sigma**2)

    def coefficients(level: Level) -> tuple[Array, Array]:
        return c_in(level) * level.sigma / sigma_data, -c_in(level) * level.alpha * sigma_data

    return Parameterization(coefficients, c_in)


def make_denoiser(network: Network, parameterization: Parameterization, *, learned_variance: bool = False) -> Denoiser:
    """Returns a network as a denoiser, by solving for x_0 and eps

        x_t    = alpha x_0 + sigma eps
        output = a     x_0 + b     eps

    Args:
        network: any function (x_t, c_noise) -> output; x_t [B, ..., C], c_noise [B], output shaped like x_t.
        parameterization: what the output is, such as `EPS`, `V` or `edm()`. At a level that keeps nothing of the data,
            alpha = 0, `EPS`, `SCORE` and `SCALED_SCORE` do not determine x_0, and the prediction is NaN: use `V` or `X_0`.
        learned_variance: whether the output has a second half of channels, for the variance.

    Raises:
        ValueError: when called, for an output of another shape.

    Example:
        >>> denoise = dj.make_denoiser(lambda x_t, c_noise: jnp.zeros_like(x_t), dj.EPS)  # a network that sees no noise
        >>> level = dj.chain(dj.linear(1000)).level(500)
        >>> prediction = denoise(level.alpha * jnp.ones((2, 8, 8, 3)), level)
        >>> bool(jnp.allclose(prediction.x_0, 1)), bool(jnp.allclose(prediction.eps, 0))
        (True, True)
    """
    if not callable(network):
        raise ValueError(f"network = {errors.shown(network)} is not a function (x_t, c_noise) -> output.")
    if not isinstance(parameterization, Parameterization):
        raise ValueError(
            f"parameterization = {errors.shown(parameterization)} is not allowed; use denoiser.EPS, V, X_0, edm(), ..."
        )

    def denoise(x_t: Array, level: Level) -> Prediction:
        process.check_level(level)
        scaled = process.expand(parameterization.input_scale(level), x_t) * x_t
        told = jnp.shape(level.c_noise)[jnp.ndim(level.alpha) :]  # () or, after `process.jump`, (2,)
        output = network(scaled, jnp.broadcast_to(level.c_noise, x_t.shape[:1] + told))
        expected = (*x_t.shape[:-1], (1 + learned_variance) * x_t.shape[-1])
        if getattr(output, "shape", None) != expected:
            found = list(output.shape) if hasattr(output, "shape") else f"of type {type(output).__name__}"
            raise ValueError(f"the network's output {found} is not allowed; for this x_t it must be {list(expected)}.")
        output = output.astype(x_t.dtype)
        output, variance = jnp.split(output, 2, axis=-1) if learned_variance else (output, None)
        a, b = parameterization.coefficients(level)
        scale = 1 / (level.alpha * b - level.sigma * a)
        x_0 = process.expand(scale * b, x_t) * x_t - process.expand(scale * level.sigma, x_t) * output
        eps = process.expand(scale * level.alpha, x_t) * output - process.expand(scale * a, x_t) * x_t
        return Prediction(x_0, eps, (a, b), variance)

    return denoise


def make_log_prob(network: Network) -> LogProb:
    """Returns a classifier of noisy images as (x_t, level) -> log p(y | x_t), [B]: what `guidance.classifier` takes.

    Its input is x_t / sqrt(alpha^2 + sigma^2), which in processes that preserve variance is x_t itself. So the input is of
    the data's size in those too whose x_t grows with the noise.

    Args:
        network: bound to the labels, (x_t [B, ..., C], c_noise [B]) -> log p [B].

    Raises:
        ValueError: when called, for an output of another shape.

    Example:
        >>> log_prob = dj.denoiser.make_log_prob(lambda x_t, c_noise: jax.nn.log_sigmoid(jnp.mean(x_t, axis=(1, 2, 3))))
        >>> log_prob(jnp.ones((2, 8, 8, 1)), dj.chain(dj.linear(1000)).level(500)).shape
        (2,)
    """
    if not callable(network):
        raise ValueError(f"network = {errors.shown(network)} is not a function (x_t, c_noise) -> log p.")

    def log_prob(x_t: Array, level: Level) -> Array:
        process.check_level(level)
        scaled = x_t / process.expand(jnp.hypot(level.alpha, level.sigma), x_t)
        found = network(scaled, jnp.broadcast_to(level.c_noise, x_t.shape[:1]))
        if jnp.shape(found) != x_t.shape[:1]:
            raise ValueError(f"the network's output {errors.shown(found)} must be one number for each image, [{len(x_t)}].")
        return found

    return log_prob


def predicting(denoise: Denoiser) -> Denoiser:
    """Returns the same denoiser, which raises ValueError where its output is not a `Prediction`, as that of a network."""
    if not callable(denoise):
        raise ValueError(f"denoise = {errors.shown(denoise)} is not a function (x_t, level) -> Prediction.")

    def predict(x_t: Array, level: Level) -> Prediction:
        prediction = denoise(x_t, level)
        if not hasattr(prediction, "x_0"):
            found = type(prediction).__name__
            raise ValueError(f"the denoiser gives {found}, not a Prediction; make_denoiser(network, ...) makes one.")
        return prediction

    return predict


def reverse_log_variance(
    learned: Array | None, x_t: Array, t: Level, s: Level, kind: VarianceKind, *, decoder: Array | float = -jnp.inf
) -> Array:
    """Returns the log-variance of the reverse step from t to s, in a shape that broadcasts against x_t.

    'small' and 'large' are `process.log_variance`; 'learned' is the network's output itself; 'learned_range' is
    f log large + (1 - f) log small with f = (output + 1) / 2. [Nichol & Dhariwal 2021, eq. 15]

    Args:
        learned: `Prediction.variance`.
        decoder: what 'small' and 'large' are where s is the data. The posterior is a point there, of log-variance -inf. For
            a likelihood Ho et al. take the posterior's of the step above, `likelihood.decoder_log_variance`.

    Raises:
        ValueError: for an unknown kind, or if the network does not predict the variance that `kind` needs.
    """
    check_variance(kind)
    if kind == "learned":
        return _needed(learned, kind)
    is_last = s.sigma == 0
    small = process.expand(jnp.where(is_last, decoder, process.log_variance(t, s, "small")), x_t)
    large = process.log_variance(t, s, "large")
    if kind == "learned_range":
        fraction = (_needed(learned, kind) + 1) / 2
        return fraction * process.expand(large, x_t) + (1 - fraction) * small
    return {"small": small, "large": process.expand(jnp.where(is_last, decoder, large), x_t)}[kind]


def check_variance(kind: str) -> None:
    """Raises ValueError for a name that is not one of `VarianceKind`; the known ones are listed."""
    if kind not in get_args(VarianceKind):
        raise ValueError(f"variance = {kind!r} is unknown; known: {', '.join(get_args(VarianceKind))}.")


def _needed(learned: Array | None, kind: str) -> Array:
    if learned is None:
        raise ValueError(f"variance = {kind!r} needs a network that predicts one; use 'small' or 'large', or train it so.")
    return learned


def limit_x_0(denoise: Denoiser, limit: Callable[[Array], Array], *, recompute_eps: bool = True) -> Denoiser:
    """Returns the denoiser with x_0 limited, such as to the range of images.

    Apply it outermost, or inside of `editing.consistent` where that has recompute_eps=False.

    Args:
        denoise: any denoiser.
        limit: `clip` or `dynamic_threshold(...)`.
        recompute_eps: whether eps follows from the limited x_0, so that both still explain x_t, as in Ho et al.'s and
            improved DDPM's samplers; or stays, as in diffusers' DDIM.

    Raises:
        ValueError: for what is not a function.
    """
    denoise = predicting(denoise)
    if not callable(limit):
        raise ValueError(f"limit = {errors.shown(limit)} is not a function of x_0; use one such as denoiser.clip.")

    def limited(x_t: Array, level: Level) -> Prediction:
        prediction = denoise(x_t, level)
        x_0 = limit(prediction.x_0)
        if not recompute_eps:
            return prediction._replace(x_0=x_0)
        eps = (x_t - process.expand(level.alpha, x_t) * x_0) / process.expand(level.sigma, x_t)
        return prediction._replace(x_0=x_0, eps=eps)

    return limited


def clip(x_0: Array, *, bound: float = 1.0) -> Array:
    """Returns x_0 clipped to [-bound, bound]. [Ho et al. 2020, the sampler of their code]"""
    return jnp.clip(x_0, -bound, bound)


def dynamic_threshold(x_0: Array, *, quantile: float = 0.995, max_bound: float = jnp.inf) -> Array:
    """Returns x_0 clipped to [-s, s] and divided by s, a quantile of each image's |x_0|, at least 1. [Saharia et al. 2022]

    Args:
        x_0: [B, ...].
        quantile: of |x_0| over an image, in (0, 1).
        max_bound: the most that s may be.
    """
    s = jnp.quantile(jnp.abs(x_0), quantile, axis=process.value_axes(x_0), keepdims=True)
    s = jnp.clip(s, 1, max_bound)
    return jnp.clip(x_0, -s, s) / s


def clip_x_0(denoise: Denoiser) -> Denoiser:
    """Returns the denoiser with x_0 clipped to [-1, 1] and eps recomputed: `limit_x_0` with its usual arguments."""
    return limit_x_0(denoise, clip)
