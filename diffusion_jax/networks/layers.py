"""The layers that diffusion networks share. Arrays are [B, ..., C], such as images [B, H, W, C]; embeddings are [B, E]."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

Precision = Literal["default", "high", "highest"]  # of products, as `jax.default_matmul_precision` takes it


def products(precision: Precision, dtype: DTypeLike) -> AbstractContextManager:
    """Returns the context in which products of float32 have a precision; those of bfloat16 have their own."""
    return jax.default_matmul_precision("default" if dtype == jnp.bfloat16 else precision)


def cast_kernels(params: Any, dtype: DTypeLike) -> Any:
    """Returns parameters with every kernel in the type of the arithmetic; biases and norms stay as they are."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf.astype(dtype) if path[-1].key == "kernel" else leaf, params
    )


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
    """Returns parameters with every kernel r replaced by a sample of U(-r, r): Ho et al.'s initialisation."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    is_kernel = [path[-1].key == "kernel" for path, _ in leaves]
    total = sum(leaf.size for (_, leaf), drawn in zip(leaves, is_kernel, strict=True) if drawn)
    uniform, start, result = jax.random.uniform(key, (total,), jnp.float32, minval=-1.0), 0, []
    for (_, leaf), drawn in zip(leaves, is_kernel, strict=True):
        if drawn:
            leaf, start = leaf * uniform[start : start + leaf.size].reshape(leaf.shape), start + leaf.size
        result.append(leaf)
    return jax.tree.unflatten(tree, result)


def conv(
    features: int,
    kernel: int,
    dtype: DTypeLike,
    *,
    scale: float = 1.0,
    stride: int = 1,
    padding: str | tuple[int, int] = "SAME",
    use_bias: bool = True,
    name: str,
) -> Callable[[Array], Array]:
    """Returns a convolution over all axes of space in Ho et al.'s initialisation, inside a module that calls it.

    Args:
        features: channels of the output.
        kernel: its size along each axis, as are stride and padding: (places before, places after), or as Flax names it.
        scale: 0 starts a residual branch at (almost) zero.
    """

    def layer(x: Array) -> Array:
        num_axes = x.ndim - 2
        sides = padding if isinstance(padding, str) else [padding] * num_axes
        options = {"strides": stride, "padding": sides, "use_bias": use_bias, "dtype": dtype}
        return nn.Conv(features, (kernel,) * num_axes, **options, kernel_init=half_width(scale), name=name)(x)

    return layer


def dense(features: int, dtype: DTypeLike, *, name: str) -> nn.Dense:
    """Returns a linear layer in Ho et al.'s initialisation."""
    return nn.Dense(features, dtype=dtype, kernel_init=half_width(1.0), name=name)


class Style(NamedTuple):
    """What the blocks of a network have in common."""

    num_groups: int  # groups of each normalisation
    norm_epsilon: float  # added to each variance; it moves outputs by 1e-4, so published weights need their own
    scale_shift_norm: bool  # whether the embedding scales and shifts the second norm (FiLM) or is added before it
    dropout: float  # probability, inside each residual block
    dtype: DTypeLike  # of the arithmetic; parameters are float32
    min_group_channels: int = 0  # channels of each group, at least, so that narrow layers have fewer groups; 0 is off
    project_resampled: bool = False  # whether a block that resamples has a 1x1 shortcut even if its width stays
    skip_scale: float = 1.0  # factor of every sum of a block's input and its branch
    qkv_scale: float = 1.0  # of the variance with which an attention's query, key and value begin


class GroupNorm(nn.Module):
    """Group normalisation over space and each group's channels. [Wu & He 2018]

    One pass over the input gives its float32 statistics: E[x^2] - E[x]^2 by channel, joined by group [Chan et al. 1983]. A
    second pass is one multiply-add. So a channel whose mean is 100 times its deviation loses three of seven digits.

    Attributes:
        num_groups: of channels that lie side by side.
        epsilon: added to each variance.
        dtype: of the result; the parameters `scale` and `bias` are float32.
        min_channels: see `count_groups`.
    """

    num_groups: int
    epsilon: float
    dtype: DTypeLike
    min_channels: int = 0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns the normalised input, its shape kept. # [B, ..., C]"""
        space, channels = tuple(range(1, x.ndim - 1)), x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean = jnp.mean(x, space, keepdims=True)  # [B, 1, ..., C], as are all that follow
        variance = jnp.mean(jnp.square(x), space, keepdims=True) - jnp.square(mean)
        group_mean = self._of_group(mean)
        group_variance = self._of_group(variance + jnp.square(mean - group_mean))
        gain = scale * jax.lax.rsqrt(jnp.maximum(group_variance, 0) + self.epsilon)
        return (x * gain + (bias - group_mean * gain)).astype(self.dtype)

    def _of_group(self, by_channel: Array) -> Array:
        """Returns the mean of each group, at each of its channels. # [B, 1, ..., C]"""
        num_groups = count_groups(by_channel.shape[-1], self.num_groups, self.min_channels)
        grouped = by_channel.reshape(*by_channel.shape[:-1], num_groups, -1)
        mean = jnp.mean(grouped, -1, keepdims=True)
        return jnp.broadcast_to(mean, grouped.shape).reshape(by_channel.shape)


def count_groups(channels: int, most: int, min_channels: int) -> int:
    """Returns how many groups some channels have: `most`, or fewer where each would have less than `min_channels`."""
    return max(1, min(most, channels // min_channels)) if min_channels else most


def norm(style: Style, *, name: str) -> GroupNorm:
    """Returns group normalisation in a network's style."""
    return GroupNorm(style.num_groups, style.norm_epsilon, style.dtype, style.min_group_channels, name=name)


class Dropout(nn.Module):
    """Dropout whose mask is computed once for the forward and the backward pass. [Srivastava et al. 2014]

    The barrier keeps the mask, a byte for each value. Without it, a TPU's compiler computes the random bits again inside
    each of the three convolutions that read them, which takes longer than the convolutions.

    Attributes:
        rate: probability of each value to be dropped, from 0 up to, not including, 1.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Returns the input, in training with dropped values and the others divided by 1 - rate."""
        if not train or self.rate == 0:
            return x
        kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, x.shape)
        return jnp.where(jax.lax.optimization_barrier(kept), x / (1 - self.rate), 0)


def embed_c_noise(c_noise: Array, features: int, *, spacing: Literal["closed", "half_open"]) -> Array:
    """Returns [sin(w_i c), cos(w_i c)] for i = 0 .. n - 1, n = features // 2. [after Vaswani et al. 2017, section 3.5]

    Args:
        c_noise: the noise level, as an input of the network, [B].
        features: at least 4; of an odd number the last is 0.
        spacing: w_i = 10000^(-i / (n - 1)), which reaches 1/10000, is 'closed', as in Ho et al.; w_i = 10000^(-i / n) is
            'half_open', as in improved DDPM.

    Returns:
        float [B, features].
    """
    half = features // 2
    last = {"closed": half - 1, "half_open": half}[spacing]
    c_noise = c_noise.astype(jnp.promote_types(c_noise.dtype, jnp.float32))
    frequencies = jnp.exp(-math.log(10000.0) * jnp.arange(half, dtype=c_noise.dtype) / last)
    angles = c_noise[:, None] * frequencies  # [B, half]
    rest = [jnp.zeros_like(c_noise)[:, None]] * (features % 2)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles), *rest], axis=-1)


class Jump(nn.Module):
    """What the length of a jump between two levels adds to the embedding of c_noise: nothing, as long as it is untrained.

    Attributes:
        features: of the embedding.
        dtype: of the arithmetic.
    """

    features: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, c_noise: Array) -> Array:
        """Returns it, [B, E], for c_noise [B, 2] of `process.jump`, or [B], where the jump has no length."""
        length = c_noise[:, 0] - c_noise[:, 1] if c_noise.ndim == 2 else jnp.zeros_like(c_noise)
        emb = embed_c_noise(length, self.features // 4, spacing="half_open")
        emb = nn.swish(dense(self.features, self.dtype, name="dense_0")(emb))
        return nn.Dense(self.features, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="dense_1")(emb)


def start_of_jump(c_noise: Array) -> Array:
    """Returns c_noise of the level where a network is. # [B]"""
    return c_noise[:, 0] if c_noise.ndim == 2 else c_noise


class ResBlock(nn.Module):
    """A residual block; a 1x1 shortcut where the number of channels changes.

    The embedding of c_noise is an input too, or None in a network that is not told of noise.

    Attributes:
        features: channels of the output.
        style: what all blocks share.
        resample: `halve` or `double`, applied to both branches before the first convolution; or None.
    """

    features: int
    style: Style
    resample: Callable[[Array], Array] | None = None

    @nn.compact
    def __call__(self, x: Array, embedding: Array | None, train: bool) -> Array:
        style, resample = self.style, self.resample or (lambda x: x)
        h = resample(nn.swish(norm(style, name="norm1")(x)))
        h = conv(self.features, 3, style.dtype, name="conv1")(h)
        h = nn.swish(self._told(h, embedding))
        h = Dropout(style.dropout, name="dropout")(h, train)
        h = conv(self.features, 3, style.dtype, scale=0.0, name="conv2")(h)
        x = resample(x)
        if x.shape[-1] != self.features or (self.resample and style.project_resampled):
            x = conv(self.features, 1, style.dtype, name="shortcut")(x)
        return (x + h) * style.skip_scale

    def _told(self, h: Array, embedding: Array | None) -> Array:
        """Returns the second norm of h, with what the embedding adds."""
        style, norm2 = self.style, norm(self.style, name="norm2")
        if embedding is None:
            return norm2(h)
        emb = dense((1 + style.scale_shift_norm) * self.features, style.dtype, name="embedding")(nn.swish(embedding))
        emb = jnp.expand_dims(emb, tuple(range(1, h.ndim - 1)))
        if not style.scale_shift_norm:
            return norm2(h + emb)
        scale, shift = jnp.split(emb, 2, axis=-1)
        return norm2(h) * (1 + scale) + shift


def check_size(x: Array, multiple: int) -> None:
    """Raises ValueError for arrays of which a size, such as height or width, is not a multiple. # [B, ..., C]"""
    if any(size % multiple for size in x.shape[1:-1]):
        sizes = " x ".join(map(str, x.shape[1:-1]))
        raise ValueError(f"arrays of {sizes} do not fit: each size must be a multiple of {multiple}.")


def fourier_features(x: Array, exponents: Sequence[int]) -> Array:
    """Returns sin and cos of 2^n pi x of an image for each n, in units of VDM's data. # [..., 2 * exponents * C]

    There neighbours of the 256 values are 2 / 256 apart, and in ours 2 / 255. So n = 7 tells odd values from even, and n = 8
    shows how far from a value one is. [Kingma et al. 2021, VDM, appendix C]
    """
    angles = [2.0 ** (n - 7) * 127.5 * jnp.pi * x for n in exponents]
    return jnp.concatenate([wave(angle) for wave in (jnp.sin, jnp.cos) for angle in angles], axis=-1)


def with_label(emb: Array, label: Array | None, num_labels: int, **options: Any) -> Array:
    """Returns an embedding with that of a label, int [B]; the embedding itself where there are no labels. # [B, features]

    The options are those of `nn.Embed`.
    """
    if not num_labels:
        return emb
    return emb + nn.Embed(num_labels, emb.shape[-1], dtype=emb.dtype, **options, name="label")(label)


def with_moves(emb: Array, cond: Mapping[str, Array]) -> Array:
    """Returns an embedding with a linear function, at first zero, of how images were moved. # [B, features]

    Without `cond["augmentation"]`, as images are drawn, it is the embedding itself. [Karras et al. 2022, EDM, appendix F.2]
    """
    if "augmentation" not in cond:
        return emb
    zeros = nn.initializers.zeros
    dense = nn.Dense(emb.shape[-1], use_bias=False, dtype=emb.dtype, kernel_init=zeros, name="augmentation")
    return emb + dense(cond["augmentation"])


def halve(x: Array) -> Array:
    """Returns the means of two places along each axis, such as 2 x 2 pixels. # [B, H/2, W/2, C]"""
    window = (2,) * (x.ndim - 2)
    return nn.avg_pool(x, window, window)


def double(x: Array) -> Array:
    """Returns every place twice along each axis: nearest neighbour. # [B, 2H, 2W, C]"""
    for axis in range(1, x.ndim - 1):
        x = jnp.repeat(x, 2, axis)
    return x
