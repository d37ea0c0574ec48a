"""EfficientNet-lite0: a small network trained on ImageNet. [Tan & Le 2019, arXiv:1905.11946; Google's "lite" variant]"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from diffusion_jax.networks import features, layers
from diffusion_jax.networks.features import ConvNorm, FeatureNetwork, Norm

# (how often, kernel, stride of the first, expansion, width) of the inverted residual blocks
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
NUM_FEATURES, NUM_CLASSES = 1280, 1000


def lite0(size: int) -> FeatureNetwork:
    """Returns the network: "features" [B, 1280], the mean over space of its last layer, and "logits" [B, 1000] of ImageNet.

    Images are scaled to size x size (bilinear with half-pixel centres, without antialiasing), then (x - 127) / 128.
    """

    def prepare(images: Array) -> Array:
        return (features.bilinear(images, size, half_pixel=True) - 127) / 128

    return features.of_module(Lite0(), prepare)._replace(size=size)


def stage_features(params: Any, images: Array) -> list[Array]:
    """Returns the last features at 1/2, 1/4, ..., 1/32 of the size of images, for `autoencoding.perceptual_distance`.

    Args:
        params: of `lite0`.
        images: float [B, H, W, C] in [-1, 1], C 1 or 3; they are not scaled.
    """
    pixels = (jnp.broadcast_to(images, (*images.shape[:3], 3)) + 1) * 127.5
    _, kept = Lite0().apply({"params": params}, (pixels - 127) / 128, mutable=["intermediates"])
    stages = kept["intermediates"]["stages"]
    return [x for x, after in zip(stages, [*stages[1:], None], strict=True) if after is None or after.shape[1] != x.shape[1]]


class Lite0(nn.Module):
    """The network: a stem, inverted residual blocks without squeeze and excitation, a head; ReLU6 throughout."""

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        """Returns features and logits of images [B, H, W, 3] in [-1, 1]; `SAME` pads as TensorFlow does."""
        x = nn.relu6(ConvNorm(32, (3, 3), stride=2, name="stem")(x))
        number = 0
        for num_blocks, kernel, stride, expansion, width in STAGES:
            for i in range(num_blocks):
                x = Block(width, kernel, stride if i == 0 else 1, expansion, name=f"block_{number}")(x)
                number += 1
            self.sow("intermediates", "stages", x)  # kept only where they are asked for
        x = jnp.mean(nn.relu6(ConvNorm(NUM_FEATURES, name="head")(x)), axis=(1, 2))
        logits = nn.Dense(NUM_CLASSES, kernel_init=layers.half_width(1.0), name="logits")(x)
        return {"features": x, "logits": logits}


class Block(nn.Module):
    """An inverted residual block: a wide depthwise convolution between two 1 x 1 ones. [Sandler et al. 2018]"""

    width: int
    kernel: int
    stride: int
    expansion: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns the block's output, with x added where it has the same shape. # [B, H / stride, W / stride, width]"""
        wide = self.expansion * x.shape[-1]
        h = x if self.expansion == 1 else nn.relu6(ConvNorm(wide, name="expand")(x))
        h = nn.relu6(Depthwise(self.kernel, self.stride, name="depthwise")(h))
        h = ConvNorm(self.width, name="project")(h)
        return h + x if h.shape == x.shape else h


class Depthwise(nn.Module):
    """A convolution of each channel by itself, `SAME` as TensorFlow pads, and a batch normalisation.

    As a sum over the window: on a CPU, where the compiler has only naive loops for it, that takes a third to a sixteenth of
    the time (2 cores, jax 0.10.2).
    """

    kernel: int
    stride: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns the normalised convolution. # [B, H / stride, W / stride, C]"""
        window, (height, width) = range(self.kernel), x.shape[1:3]
        weights = Window(self.kernel, x.shape[-1], name="conv")()
        spans = [self._span(size) for size in (height, width)]
        x = jnp.pad(x, ((0, 0), *(span[0] for span in spans), (0, 0)))
        rows, columns = (
            [slice(i, i + (num - 1) * self.stride + 1, self.stride) for i in window] for num in (span[1] for span in spans)
        )
        summed = sum(x[:, rows[i], columns[j]] * weights[i, j, 0] for i in window for j in window)
        return Norm(name="norm")(summed)

    def _span(self, size: int) -> tuple[tuple[int, int], int]:
        """Returns (padding before and after, size of the result) of one axis."""
        num = -(-size // self.stride)
        padding = max((num - 1) * self.stride + self.kernel - size, 0)
        return (padding // 2, padding - padding // 2), num


class Window(nn.Module):
    """The weights of a depthwise convolution, as `nn.Conv` names them."""

    kernel: int
    width: int

    @nn.compact
    def __call__(self) -> Array:
        """Returns [kernel, kernel, 1, width]."""
        return self.param("kernel", layers.half_width(1.0), (self.kernel, self.kernel, 1, self.width))
