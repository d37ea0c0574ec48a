"""Linear measurements of images: y = A x (+ noise), of which `editing` finds the images.

An operator is A with what the solvers need of it. They take its transpose by differentiating, so that it is not asked for.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy import fft

from diffusion_jax import errors
from diffusion_jax.errors import UserError


class Operator(NamedTuple):
    """A linear map A of images [B, H, W, C], as functions of batches; each raises UserError for images that do not fit."""

    apply: Callable[[Array], Array]  # x -> A x
    pseudoinverse: Callable[[Array], Array]  # y -> A^+ y: the smallest image that A takes nearest to y
    # (v, r^2, noise variance) -> (r^2 A A^T + noise variance I)^-1 v, for what A can give of v; 0 for the rest of it
    solve: Callable[[Array, Array, Array | float], Array]


def known(mask: Array) -> Operator:
    """Returns the operator of inpainting: A keeps the known pixels, and is 0 at the others. Its own pseudoinverse.

    Args:
        mask: 1 where a pixel is free, to be generated; 0 where it is known. [H, W, 1] or [B, H, W, 1], or of all C.

    Raises:
        UserError: for other values.
    """
    check_mask(mask)

    def keep(x: Array) -> Array:
        check_mask(mask, x.shape)
        return jnp.where(mask, 0, x)

    return Operator(keep, keep, lambda v, r_squared, noise_variance: keep(v) / (r_squared + noise_variance))


def averaging(factor: int) -> Operator:
    """Returns the operator of super-resolution: A averages boxes of factor x factor pixels. A A^T = I / factor^2.

    Args:
        factor: of both sides of an image, which it must divide.
    """
    errors.check_whole("factor", factor, 1)

    def apply(x: Array) -> Array:
        num, height, width, channels = _image_shape(x)
        if height % factor or width % factor:
            raise UserError(f"factor = {factor} does not divide images of {height} x {width}.")
        return x.reshape(num, height // factor, factor, width // factor, factor, channels).mean((2, 4))

    def pseudoinverse(y: Array) -> Array:
        return jnp.repeat(jnp.repeat(y, factor, 1), factor, 2)

    return Operator(apply, pseudoinverse, lambda v, r_squared, noise: v / (r_squared / factor**2 + noise))


def grey(weights: Sequence[float] = (0.299, 0.587, 0.114)) -> Operator:
    """Returns the operator of colourisation: A is a weighted sum of the channels. A A^T = |weights|^2 I.

    Args:
        weights: of the channels; those of ITU-R BT.601 by default, with which programs make grey images.
    """
    weights = np.asarray(weights, np.float64)

    def apply(x: Array) -> Array:
        if _image_shape(x)[-1] != len(weights):
            raise UserError(
                f"images of [..., {x.shape[-1]}] have no colours to make grey; it must be [..., {len(weights)}]."
            )
        return jnp.sum(x * weights.astype(x.dtype), axis=-1, keepdims=True)

    square = float(np.sum(weights**2))
    spread = weights / square
    return Operator(
        apply, lambda y: y * spread.astype(y.dtype), lambda v, r_squared, noise: v / (r_squared * square + noise)
    )


def gaussian_blur(std: float, *, cutoff: float = 0.03) -> Operator:
    """Returns the operator of deblurring: A convolves with a Gaussian. Images go on as in a mirror beyond their edges.

    So the cosine transform (DCT-II) makes A diagonal; its values are the transform of the kernel, which ends at 4 std.

    Args:
        std: of the kernel, in pixels, above 0.
        cutoff: values of A below it count as 0 in `pseudoinverse` and `solve`: what they leave of an image is lost. The
            others are inverted, and noise of y grows up to 1 / cutoff times.
    """
    if isinstance(std, str) or not std > 0 or not cutoff > 0:
        raise UserError(f"std = {std!r} with cutoff = {cutoff!r} is not allowed; both must be above 0.")

    def filtered(x: Array, response: Callable[[np.ndarray], Array]) -> Array:
        _, height, width, _ = _image_shape(x)
        values = np.outer(_cosine_values(std, height), _cosine_values(std, width))[..., None].astype(x.dtype)
        return fft.idctn(response(values) * fft.dctn(x, axes=(1, 2), norm="ortho"), axes=(1, 2), norm="ortho")

    def inverted(values: np.ndarray) -> np.ndarray:
        return np.divide(1, values, out=np.zeros_like(values), where=np.abs(values) > cutoff)

    def solve(v: Array, r_squared: Array, noise_variance: Array | float) -> Array:
        def response(values: np.ndarray) -> Array:
            return jnp.where(np.abs(values) > cutoff, 1 / (r_squared * values**2 + noise_variance), 0)

        return filtered(v, response)

    return Operator(lambda x: filtered(x, lambda values: values), lambda y: filtered(y, inverted), solve)


def _cosine_values(std: float, size: int) -> np.ndarray:
    """Returns what a Gaussian kernel, cut at 4 std, makes of each cosine of a side. # float64 [size]"""
    radius = int(4 * std + 0.5)
    places = np.arange(-radius, radius + 1)
    kernel = np.exp(-(places**2) / (2 * std**2))
    return np.cos(np.pi * np.outer(np.arange(size), places) / size) @ (kernel / kernel.sum())


def _image_shape(x: Array) -> tuple[int, ...]:
    if x.ndim != 4:
        raise UserError(f"an array of {list(x.shape)} is not a batch of images; it must be [B, H, W, C].")
    return x.shape


def check_mask(mask: Array, shape: Sequence[int] | None = None) -> None:
    """Raises UserError where a mask has other values than 0 and 1, if they are known, or does not fit images of a shape."""
    if not isinstance(mask, jax.core.Tracer) and not np.all(np.isin(np.asarray(mask), (0, 1))):
        raise UserError(f"mask of values {np.min(mask):g} to {np.max(mask):g} is not allowed; 1 is free, 0 is known.")
    if shape is None:
        return
    *sides, channels = shape[1:]
    *given, last = (1,) * (len(shape) - np.ndim(mask)) + np.shape(mask)
    if given not in ([1, *sides], [shape[0], *sides]) or last not in (1, channels):
        raise UserError(
            f"mask of {list(np.shape(mask))} does not fit images of {list(shape)}; "
            f"it must be {[*sides, 1]} or {[shape[0], *sides, 1]}."
        )


def check_measurement(y: Array, operator: Operator, x: Array) -> None:
    """Raises UserError where y is not what an operator measures of images like x."""
    measured = jax.eval_shape(operator.apply, x).shape
    if np.shape(y) not in (measured, (1, *measured[1:])):
        raise UserError(
            f"y of {list(np.shape(y))} is not allowed; it must be {list(measured)}, of images of {list(x.shape)}."
        )


def check_image(image: Array, shape: Sequence[int]) -> None:
    """Raises UserError where given images are not of the shape of those that are generated, or one for all of them."""
    if np.shape(image) not in (tuple(shape), (1, *shape[1:])):
        raise UserError(f"image of {list(np.shape(image))} is not allowed; for images of {list(shape)} it must be the same.")
