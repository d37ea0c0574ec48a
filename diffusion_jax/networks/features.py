"""Networks whose features images are compared in, as pure functions of uint8 images; and what such networks share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax.networks import layers

EPSILON = 1e-3  # added to the variances of batch normalisations


class FeatureNetwork(NamedTuple):
    """A feature network as a pair of pure functions."""

    init: Callable[[Array], Any]  # key -> random params, of the shapes of the trained ones
    # (params, images uint8 [B, H, W, C], C 1 or 3, any H and W) -> {"features": float32 [B, D], maybe more}
    apply: Callable[[Any, Array], dict[str, Array]]
    size: int = 0  # height and width to which `apply` scales images, in pixels; 0 where it takes them as they are


def of_module(module: nn.Module, prepare: Callable[[Array], Array]) -> FeatureNetwork:
    """Returns a module as a feature network; `prepare` makes what it takes of uint8 [B, H, W, 3]."""

    def init(key: Array) -> Any:
        key_module, key_kernels = jax.random.split(key)
        params = module.init(key_module, prepare(jnp.zeros((1, 8, 8, 3), jnp.uint8)))["params"]
        return layers.draw_kernels(params, key_kernels)

    def apply(params: Any, images: Array) -> dict[str, Array]:
        _check(images)
        with jax.default_matmul_precision("highest"):
            return module.apply({"params": params}, prepare(jnp.broadcast_to(images, (*images.shape[:3], 3))))

    return FeatureNetwork(init, apply)


def pixels() -> FeatureNetwork:
    """Returns the network without parameters: "features" are the pixels in [0, 1] in a row. # [B, H W C]"""

    def apply(params: Any, images: Array) -> dict[str, Array]:
        _check(images)
        return {"features": jnp.reshape(images, (len(images), -1)) / 255}

    return FeatureNetwork(lambda key: {}, apply)


def _check(images: Array) -> None:
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.dtype != jnp.uint8:
        found = f"{images.dtype} {list(images.shape)}"
        raise ValueError(f"images of {found} are not allowed; they must be uint8 [B, H, W, C], C 1 or 3.")


def bilinear(images: Array, size: int, *, half_pixel: bool) -> Array:
    """Returns images scaled to size x size by bilinear interpolation, without antialiasing. # float32 [B, size, size, C]

    Pixel i of the result is read at (i + 1/2) H / size - 1/2 where `half_pixel` (torch, align_corners=False), else at
    i H / size (TensorFlow 1). Beyond the first and the last pixel the image goes on as they are.
    """
    images = jnp.asarray(images, jnp.float32)
    for axis in (1, 2):
        length, shift = images.shape[axis], 0.5 if half_pixel else 0.0
        place = np.clip((np.arange(size) + shift) * (length / size) - shift, 0, length - 1)
        low = np.floor(place).astype(int)
        part = (place - low).astype(np.float32).reshape((-1, 1, 1) if axis == 1 else (-1, 1))
        below, above = jnp.take(images, low, axis), jnp.take(images, np.minimum(low + 1, length - 1), axis)
        images = below + part * (above - below)
    return images


class ConvNorm(nn.Module):
    """A convolution without bias and a batch normalisation with the statistics of training.

    Attributes:
        features: channels of the result.
        kernel: (height, width) of the window.
        stride: of both axes.
        padding: as `nn.Conv` takes it.
    """

    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: Any = "SAME"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns (conv(x) - mean) scale / sqrt(var + epsilon) + bias. # [B, H, W, features]"""
        options = {"strides": self.stride, "padding": self.padding, "use_bias": False, "kernel_init": layers.half_width(1.0)}
        return Norm(name="norm")(nn.Conv(self.features, self.kernel, **options, name="conv")(x))


class Norm(nn.Module):
    """Batch normalisation with the statistics of training, which are parameters like others."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns (x - mean) scale / sqrt(var + epsilon) + bias. # [..., C]"""
        start = {"scale": nn.initializers.ones, "bias": nn.initializers.zeros}
        start |= {"mean": nn.initializers.zeros, "var": nn.initializers.ones}
        scale, bias, mean, var = (self.param(name, made, x.shape[-1:]) for name, made in start.items())
        factor = scale / jnp.sqrt(var + EPSILON)
        return x * factor + (bias - mean * factor)
