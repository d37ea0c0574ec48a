"""Inception-v3 as TensorFlow's graph of December 2015 has it, the network of FID. [Szegedy et al. 2015, arXiv:1512.00567]

It differs from later ones: average pooling leaves the padding out, and the last block pools by the maximum. Names are those
of torchvision, which every port has taken over.
"""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from diffusion_jax.networks import features, layers
from diffusion_jax.networks.features import ConvNorm, FeatureNetwork

SIZE = 299  # pixels that the network sees
NUM_LOGITS = 1008  # 1,000 classes of ImageNet, and 8 that mean nothing
NUM_SPATIAL = 7  # channels of sFID

Conv = tuple[int, int, int]  # features, height and width of the window
Chain = tuple[Conv | tuple[Conv, Conv], ...]  # one after the other; the last item may be two side by side


def inception(resize: Literal["tensorflow", "pytorch_fid"]) -> FeatureNetwork:
    """Returns the network: see `InceptionV3` for what it gives.

    Args:
        resize: how images become 299 x 299. 'tensorflow': bilinear without half-pixel centres, then (x - 128) / 128, as the
            graph itself, guided-diffusion and torch-fidelity do. 'pytorch_fid': with half-pixel centres, then 2 x / 255 - 1.
            Neither has antialiasing.
    """

    def tensorflow(images: Array) -> Array:
        return (features.bilinear(images, SIZE, half_pixel=False) - 128) / 128

    def pytorch_fid(images: Array) -> Array:
        return features.bilinear(images, SIZE, half_pixel=True) * (2 / 255) - 1

    prepare = {"tensorflow": tensorflow, "pytorch_fid": pytorch_fid}[resize]
    return features.of_module(InceptionV3(), prepare)._replace(size=SIZE)


class InceptionV3(nn.Module):
    """The network."""

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        """Returns what the metrics are made of, of images [B, 299, 299, 3] in [-1, 1].

        "features": the last pooling, for FID, KID, precision and recall. # [B, 2048]
        "spatial": the first 7 channels of `mixed_6/conv` in the graph, 17 x 17 places, channels last, for sFID. # [B, 2023]
        "logits": of the classes. # [B, 1008]
        "logits_unbiased": without the bias, for the inception score of guided-diffusion and torch-fidelity. # [B, 1008]
        """
        x = nn.relu(ConvNorm(32, (3, 3), stride=2, padding="VALID", name="Conv2d_1a_3x3")(x))
        x = nn.relu(ConvNorm(32, (3, 3), padding="VALID", name="Conv2d_2a_3x3")(x))
        x = nn.relu(ConvNorm(64, (3, 3), name="Conv2d_2b_3x3")(x))
        x = max_pool(x, stride=2)
        x = nn.relu(ConvNorm(80, name="Conv2d_3b_1x1")(x))
        x = nn.relu(ConvNorm(192, (3, 3), padding="VALID", name="Conv2d_4a_3x3")(x))
        x = max_pool(x, stride=2)
        for letter, pool_features in zip("bcd", (32, 64, 64), strict=True):
            x = Mixed(FIVES, pool_features, name=f"Mixed_5{letter}")(x)
        x = Mixed(FIRST_HALVING, stride=2, name="Mixed_6a")(x)
        for letter, width in zip("bcde", (128, 160, 160, 192), strict=True):
            x = Mixed(sevens(width), 192, name=f"Mixed_6{letter}")(x)
            if letter == "d":
                spatial = x[..., :NUM_SPATIAL]  # of its first chain, branch1x1
        x = Mixed(SECOND_HALVING, stride=2, name="Mixed_7a")(x)
        x = Mixed(FORKS, 192, name="Mixed_7b")(x)
        x = Mixed(FORKS, 192, pool=max_pool, name="Mixed_7c")(x)
        x = jnp.mean(x, axis=(1, 2))
        unbiased = nn.Dense(NUM_LOGITS, use_bias=False, kernel_init=layers.half_width(1.0), name="fc")(x)
        bias = self.param("fc_bias", nn.initializers.zeros, (NUM_LOGITS,))
        spatial = spatial.reshape(len(x), -1)
        return {"features": x, "spatial": spatial, "logits": unbiased + bias, "logits_unbiased": unbiased}


def max_pool(x: Array, *, stride: int = 1) -> Array:
    """Returns the maximum of 3 x 3 windows; with stride 1 of what lies within the image. # [B, H, W, C]"""
    return nn.max_pool(x, (3, 3), (stride, stride), "SAME" if stride == 1 else "VALID")


def average_pool(x: Array) -> Array:
    """Returns the mean of what of 3 x 3 windows lies within the image. # [B, H, W, C]"""
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


class Mixed(nn.Module):
    """Chains of convolutions side by side, and a pooling; their results stand in one row of channels.

    Attributes:
        chains: (name, convolutions) of each.
        pool_features: channels of a 1 x 1 convolution after the pooling; 0 for none.
        stride: of the last convolution of each chain, and of the pooling.
        pool: of the pooling where the stride is 1.
    """

    chains: tuple[tuple[str, Chain], ...]
    pool_features: int = 0
    stride: int = 1
    pool: Callable[[Array], Array] = average_pool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns the block's output. # [B, H, W, C]"""
        found = [part for name, chain in self.chains for part in self._chain(x, name, chain)]
        pooled = self.pool(x) if self.stride == 1 else max_pool(x, stride=self.stride)
        if self.pool_features:
            pooled = nn.relu(ConvNorm(self.pool_features, name="branch_pool")(pooled))
        return jnp.concatenate([*found, pooled], axis=-1)

    def _chain(self, x: Array, name: str, chain: Chain) -> list[Array]:
        """Returns what one chain gives: one result, or two where it forks."""
        for number, conv in enumerate(chain, start=1):
            ours = f"{name}_{number}" if len(chain) > 1 else name
            if isinstance(conv[0], tuple):
                return [self._conv(x, f"{ours}{letter}", one, 1) for letter, one in zip("ab", conv, strict=True)]
            x = self._conv(x, ours, conv, self.stride if number == len(chain) else 1)
        return [x]

    def _conv(self, x: Array, name: str, conv: Conv, stride: int) -> Array:
        num_features, *window = conv
        padding = "SAME" if stride == 1 else "VALID"
        return nn.relu(ConvNorm(num_features, tuple(window), stride=stride, padding=padding, name=name)(x))


FIVES = (
    ("branch1x1", ((64, 1, 1),)),
    ("branch5x5", ((48, 1, 1), (64, 5, 5))),
    ("branch3x3dbl", ((64, 1, 1), (96, 3, 3), (96, 3, 3))),
)
FIRST_HALVING = (
    ("branch3x3", ((384, 3, 3),)),
    ("branch3x3dbl", ((64, 1, 1), (96, 3, 3), (96, 3, 3))),
)
SECOND_HALVING = (
    ("branch3x3", ((192, 1, 1), (320, 3, 3))),
    ("branch7x7x3", ((192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3))),
)
FORKS = (
    ("branch1x1", ((320, 1, 1),)),
    ("branch3x3", ((384, 1, 1), ((384, 1, 3), (384, 3, 1)))),
    ("branch3x3dbl", ((448, 1, 1), (384, 3, 3), ((384, 1, 3), (384, 3, 1)))),
)


def sevens(width: int) -> tuple[tuple[str, Chain], ...]:
    """Returns the chains of a block at 17 x 17, in which 7 x 7 windows are made of 1 x 7 and 7 x 1 ones."""
    return (
        ("branch1x1", ((192, 1, 1),)),
        ("branch7x7", ((width, 1, 1), (width, 1, 7), (192, 7, 1))),
        ("branch7x7dbl", ((width, 1, 1), (width, 7, 1), (width, 1, 7), (width, 7, 1), (192, 1, 7))),
    )
