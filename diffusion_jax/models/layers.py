"""The layers that diffusion networks share. Images are [B, H, W, C]; time embeddings are [B, E]."""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike


def half_width(scale: float) -> nn.initializers.Initializer:
    """Returns an initialiser with r everywhere, r^2 = 3 scale / mean(fan_in, fan_out); `draw_kernels` makes it U(-r, r).

    In two halves because one random draw for all tensors compiles in seconds less than one for each of hundreds.
    """

    def init(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
        *window, features_in, features_out = shape
        mean_fan = math.prod(window) * (features_in + features_out) / 2
        return jnp.full(shape, math.sqrt(3 * max(scale, 1e-10) / mean_fan), dtype)

    return init


def draw_kernels(params: Any, key: Array) -> Any:
    """Returns parameters with every kernel r drawn from U(-r, r): Ho et al.'s initialisation of every weight."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    is_kernel = [path[-1].key == "kernel" for path, _ in leaves]
    total = sum(leaf.size for (_, leaf), drawn in zip(leaves, is_kernel, strict=True) if drawn)
    uniform, start, result = jax.random.uniform(key, (total,), jnp.float32, minval=-1.0), 0, []
    for (_, leaf), drawn in zip(leaves, is_kernel, strict=True):
        if drawn:
            leaf, start = leaf * uniform[start : start + leaf.size].reshape(leaf.shape), start + leaf.size
        result.append(leaf)
    return jax.tree.unflatten(tree, result)


def conv(features: int, kernel: int, dtype: DTypeLike, *, scale: float = 1.0, stride: int = 1, name: str) -> nn.Conv:
    """Returns a convolution in Ho et al.'s initialisation; scale 0 starts a residual branch at (almost) zero."""
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=stride,
        padding="SAME",
        dtype=dtype,
        kernel_init=half_width(scale),
        name=name,
    )


def dense(features: int, dtype: DTypeLike, *, name: str) -> nn.Dense:
    """Returns a linear layer in Ho et al.'s initialisation."""
    return nn.Dense(features, dtype=dtype, kernel_init=half_width(1.0), name=name)


def norm(num_groups: int, dtype: DTypeLike, *, name: str) -> nn.GroupNorm:
    """Returns group normalisation with Ho et al.'s epsilon; its statistics are float32 in any dtype."""
    return nn.GroupNorm(num_groups, epsilon=1e-6, dtype=dtype, name=name)


def embed_condition(condition: Array, features: int) -> Array:
    """Returns [sin(w_i c), cos(w_i c)], w_i = 10000^(-i / (n - 1)) for n = features / 2. [Vaswani et al. 2017]

    Args:
        condition: what the network is told of the level, [B].
        features: an even number, at least 4.

    Returns:
        float32 [B, features].
    """
    half = features // 2
    frequencies = jnp.exp(-jnp.log(10000.0) * jnp.arange(half) / (half - 1))
    angles = condition[:, None].astype(jnp.float32) * frequencies  # [B, half]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class ResBlock(nn.Module):
    """A residual block that is told the noise level; a 1x1 shortcut where the number of channels changes."""

    features: int
    dropout: float
    num_groups: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array, embedding: Array, *, train: bool) -> Array:
        h = nn.swish(norm(self.num_groups, self.dtype, name="norm1")(x))
        h = conv(self.features, 3, self.dtype, name="conv1")(h)
        h = h + dense(self.features, self.dtype, name="embedding")(nn.swish(embedding))[:, None, None, :]
        h = nn.swish(norm(self.num_groups, self.dtype, name="norm2")(h))
        h = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(h)
        h = conv(self.features, 3, self.dtype, scale=0.0, name="conv2")(h)
        if x.shape[-1] != self.features:
            x = conv(self.features, 1, self.dtype, name="shortcut")(x)
        return x + h


class Attention(nn.Module):
    """Self-attention over all pixels, one head, as a residual branch."""

    num_groups: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, height, width, channels = x.shape
        project = partial(conv, channels, 1, self.dtype)
        h = norm(self.num_groups, self.dtype, name="norm")(x)
        q, k, v = (project(name=name)(h).reshape(batch, height * width, 1, channels) for name in ("query", "key", "value"))
        h = jax.nn.dot_product_attention(q, k, v).reshape(x.shape)
        return x + project(scale=0.0, name="out")(h)


def downsample(x: Array, dtype: DTypeLike, *, name: str) -> Array:
    """Returns x at half the size: a 3x3 convolution of stride 2, padded below and on the right. # [B, H/2, W/2, C]"""
    return conv(x.shape[-1], 3, dtype, stride=2, name=name)(x)


def upsample(x: Array, dtype: DTypeLike, *, name: str) -> Array:
    """Returns x at twice the size: nearest neighbour, then a 3x3 convolution. # [B, 2H, 2W, C]"""
    x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    return conv(x.shape[-1], 3, dtype, name=name)(x)
